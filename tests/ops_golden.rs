//! The ops against PyTorch: tests/golden/ops.safetensors, made by tools/golden/ops.py.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use std::collections::BTreeSet;

use half::{bf16, f16};
use mercer::cpu::activation::Activation;
use mercer::cpu::batch_norm::BatchNorm;
use mercer::cpu::conv::{Conv, ConvShape, Images, Pair};
use mercer::cpu::embedding::{Bags, Pooling, Table, UnknownId, Values, bags};
use mercer::cpu::linear::Linear;
use mercer::cpu::pool::{PoolKind, PoolShape, global_average, pool};
use mercer::cpu::simd::Isa;
use oracle::{assert_close, wide};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

mod oracle;

/// Both sides compute in f32, so the contract's 2e-5 against f64 counts twice.
const TOLERANCE: f64 = 2.0 * oracle::F32_TOLERANCE;

/// The tensors of one case.
struct Case<'a> {
    file: &'a SafeTensors<'a>,
    name: String,
}

impl<'a> Case<'a> {
    fn find(&self, key: &str) -> Option<TensorView<'a>> {
        self.file.tensor(&format!("{}/{key}", self.name)).ok()
    }
    fn get(&self, key: &str) -> TensorView<'a> {
        self.find(key).unwrap_or_else(|| panic!("no {key} in {}", self.name))
    }
    fn shape(&self, key: &str) -> Vec<usize> {
        self.get(key).shape().to_vec()
    }
    fn f32(&self, key: &str) -> Vec<f32> {
        let tensor = self.get(key);
        assert_eq!(tensor.dtype(), Dtype::F32, "{}/{key}", self.name);
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
    fn maybe_f32(&self, key: &str) -> Option<Vec<f32>> {
        self.find(key).map(|_| self.f32(key))
    }
    fn ids(&self, key: &str) -> Vec<i64> {
        let tensor = self.get(key);
        assert_eq!(tensor.dtype(), Dtype::I64, "{}/{key}", self.name);
        tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    }
    fn sizes(&self, key: &str) -> Vec<usize> {
        self.ids(key).into_iter().map(|x| usize::try_from(x).unwrap()).collect()
    }
    fn pair(&self, key: &str) -> Pair {
        let sizes = self.sizes(key);
        Pair { height: sizes[0], width: sizes[1] }
    }
    fn images<'d>(&self, data: &'d [f32]) -> (Images<'d>, usize) {
        let shape = self.shape("input");
        (Images { batch: shape[0], height: shape[1], width: shape[2], data }, shape[3])
    }
    /// Runs `op` into a slice of the expected output's size and compares.
    fn check(&self, op: impl FnOnce(&mut [f32])) {
        let expected = self.f32("output");
        let mut output = vec![f32::NAN; expected.len()];
        op(&mut output);
        assert_close(&self.name, &output, &wide(&expected), &self.shape("output"), TOLERANCE);
    }
}

fn check_conv(case: &Case<'_>) {
    let (input, weight) = (case.f32("input"), case.f32("weight"));
    let (input, in_channels) = case.images(&input);
    let sides = case.shape("weight");
    let mut shape = ConvShape {
        in_channels,
        out_channels: sides[0],
        kernel: Pair { height: sides[2], width: sides[3] },
        stride: Pair::square(1),
        padding: Pair::square(1),
        dilation: Pair::square(1),
        groups: 1,
    };
    let conv = if case.find("gamma").is_some() {
        let [gamma, beta, mean, variance] = ["gamma", "beta", "mean", "variance"].map(|key| case.f32(key));
        let norm = BatchNorm { gamma: &gamma, beta: &beta, mean: &mean, variance: &variance, eps: 1e-3 };
        let (weight, bias) = norm.fold(&weight, None).unwrap();
        Conv::new(shape, &weight, Some(&bias)).unwrap()
    } else {
        [shape.stride, shape.padding, shape.dilation] =
            ["stride", "padding", "dilation"].map(|key| case.pair(key));
        shape.groups = case.sizes("groups")[0];
        Conv::new(shape, &weight, case.maybe_f32("bias").as_deref()).unwrap()
    };
    case.check(|output| conv.run(Isa::best(), input, None, Activation::Identity, output).unwrap());
}

fn check_pool(case: &Case<'_>) {
    let input = case.f32("input");
    let (input, channels) = case.images(&input);
    let [kernel, stride, padding] = ["kernel", "stride", "padding"].map(|key| case.pair(key));
    let kind = match case.sizes("is_max")[0] {
        1 => PoolKind::Max,
        _ => PoolKind::Average { count_include_pad: case.sizes("count_include_pad")[0] == 1 },
    };
    let shape = PoolShape { kernel, stride, padding };
    case.check(|output| pool(Isa::best(), kind, &shape, channels, input, output).unwrap());
}

fn check_bag(case: &Case<'_>) {
    let table = case.get("table");
    let bits: Vec<u16> =
        table.data().chunks_exact(2).map(|b| u16::from_le_bytes(b.try_into().unwrap())).collect();
    let f16s: Vec<f16> = bits.iter().map(|&b| f16::from_bits(b)).collect();
    let bf16s: Vec<bf16> = bits.iter().map(|&b| bf16::from_bits(b)).collect();
    let f32s = if table.dtype() == Dtype::F32 { case.f32("table") } else { Vec::new() };
    let values = match table.dtype() {
        Dtype::F32 => Values::F32(&f32s),
        Dtype::F16 => Values::F16(&f16s),
        _ => Values::Bf16(&bf16s),
    };
    let table = Table::new(table.shape()[0], table.shape()[1], values).unwrap();
    let (offsets, ids, weights) = (case.sizes("offsets"), case.ids("ids"), case.maybe_f32("weights"));
    let input = Bags { offsets: &offsets, ids: &ids, weights: weights.as_deref() };
    let pooling = [Pooling::Sum, Pooling::Mean, Pooling::Max][case.sizes("mode")[0]];
    let padding = case.find("padding_id").map(|_| case.ids("padding_id")[0]);
    let isa = Isa::best();
    case.check(|output| bags(isa, &table, input, pooling, padding, UnknownId::Refuse, output).unwrap());
}

fn check_linear(case: &Case<'_>) {
    let (input, weight, bias) = (case.f32("input"), case.f32("weight"), case.maybe_f32("bias"));
    let activations = [Activation::Identity, Activation::Relu, Activation::Sigmoid, Activation::Tanh];
    let (rows, sides) = (case.shape("input")[0], case.shape("weight"));
    let activation = activations[case.sizes("activation")[0]];
    let layer = Linear::new(sides[0], sides[1], &weight, bias.as_deref(), activation).unwrap();
    case.check(|output| layer.run(Isa::best(), rows, &input, output).unwrap());
}

fn check_global_average(case: &Case<'_>) {
    let input = case.f32("input");
    let (input, channels) = case.images(&input);
    case.check(|output| global_average(Isa::best(), channels, input, output).unwrap());
}

#[test]
fn every_case_of_the_file() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ops.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let names: BTreeSet<String> =
        file.names().iter().map(|name| name.rsplit_once('/').unwrap().0.to_owned()).collect();
    assert!(names.len() > 25, "{} cases", names.len());
    for name in names {
        let case = Case { file: &file, name };
        match case.name.split('/').next().unwrap() {
            "conv" | "batch_norm" => check_conv(&case),
            "pool" => check_pool(&case),
            "global_average" => check_global_average(&case),
            "bag" => check_bag(&case),
            "linear" => check_linear(&case),
            kind => panic!("no test for {kind}"),
        }
    }
}
