//! The CPU backend.

use mercer::cpu::OpError;
use mercer::cpu::activation::Activation;
use mercer::cpu::head::{Head, Segment};
use mercer::cpu::linear::Linear;
use mercer::cpu::simd::Isa;
use proptest::prelude::*;

use super::oracle::{
    F32_TOLERANCE, Random, assert_bits, assert_close, relu, row_product, wide, with_threads,
};
use super::{Case, Layer, cases, linear};

/// A linear layer with random values against the f64 sum, on every instruction set.
fn check_linear(rows: usize, inputs: usize, outputs: usize) {
    let mut random = Random::new(17);
    let (data, weight) = (random.values(rows * inputs), random.values(outputs * inputs));
    let bias = random.values(outputs);
    let what = format!("{rows} rows, {inputs} inputs, {outputs} outputs");
    for bias in [None, Some(&bias[..])] {
        let layer = Linear::new(outputs, inputs, &weight, bias, Activation::Relu).unwrap();
        let run = |isa| {
            let mut output = vec![f32::NAN; rows * outputs];
            layer.run(isa, rows, &data, &mut output).unwrap();
            output
        };
        let expected: Vec<f64> = (0..rows)
            .flat_map(|row| {
                let sums = if inputs == 0 {
                    vec![0.0; outputs]
                } else {
                    row_product(&weight, inputs, 0, &data[row * inputs..(row + 1) * inputs])
                };
                sums.into_iter()
                    .enumerate()
                    .map(|(o, sum)| relu(sum + bias.map_or(0.0, |bias| f64::from(bias[o]))))
                    .collect::<Vec<f64>>()
            })
            .collect();
        let found = run(Isa::best());
        assert_close(&what, &found, &expected, &[rows, outputs], F32_TOLERANCE);
        for isa in Isa::available() {
            assert_bits(&format!("{what} {isa:?}"), &run(isa), &found, &[rows, outputs]);
        }
    }
}

/// Rows around the heights of the tiles and of a block.
#[test]
fn linear_rows() {
    for rows in (0..=9).chain([11, 12, 13, 14, 15, 27, 28, 29, 111, 112, 113]) {
        check_linear(rows, 10, 33);
    }
}

/// Inputs and outputs that do not fill a vector or a panel.
#[test]
fn linear_tails() {
    for len in (0..=9).chain([15, 16, 17, 31, 32, 33, 63, 64, 65]) {
        check_linear(3, len, 5);
        check_linear(3, 5, len);
    }
}

/// Inputs around the length of a run of the sum.
#[test]
fn linear_long_sums() {
    for inputs in [511, 512, 513, 1023, 1024, 1025] {
        check_linear(2, inputs, 3);
    }
}

/// As many inputs as the widest layer of VGG-16, all of one sign and of one value, so that roundings do not cancel.
#[test]
fn longest_sum_of_equal_terms() {
    let inputs = 25_088;
    let layer = Linear::new(1, inputs, &vec![0.1; inputs], None, Activation::Identity).unwrap();
    let mut output = [0.0];
    layer.run(Isa::best(), 1, &vec![0.7; inputs], &mut output).unwrap();
    let expected = f64::from(0.1f32) * f64::from(0.7f32) * 25_088.0;
    assert_close("equal terms", &output, &[expected], &[1], F32_TOLERANCE);
}

impl Case {
    fn head(&self) -> Head {
        let layers = self.layers.iter().map(|layer| {
            let Layer { outputs, inputs, weight, bias, activation } = layer;
            Linear::new(*outputs, *inputs, weight, bias.as_deref(), *activation).unwrap()
        });
        Head::new(&self.widths, layers.collect()).unwrap()
    }

    fn segments(&self) -> Vec<Segment<'_>> {
        self.rows.iter().zip(&self.data).map(|(rows, data)| Segment { rows, data }).collect()
    }

    fn run(&self, head: &Head, isa: Isa) -> Vec<f32> {
        let mut output = vec![f32::NAN; self.batch * head.outputs()];
        head.run(isa, self.batch, &self.segments(), &mut output).unwrap();
        output
    }

    /// The batch of a single row.
    fn run_alone(&self, head: &Head, row: usize) -> Vec<f32> {
        let segments: Vec<Segment<'_>> = self
            .segments()
            .iter()
            .zip(&self.widths)
            .map(|(segment, width)| match segment.rows.iter().position(|&r| r == row) {
                Some(at) => Segment { rows: &[0], data: &segment.data[at * width..(at + 1) * width] },
                None => Segment::default(),
            })
            .collect();
        let mut output = vec![f32::NAN; head.outputs()];
        head.run(Isa::best(), 1, &segments, &mut output).unwrap();
        output
    }

    /// The head against f64, and the invariances of a row.
    fn check(&self) {
        let (head, what) = (self.head(), &self.what);
        let shape = [self.batch, head.outputs()];
        let found = self.run(&head, Isa::best());
        assert_eq!(head.outputs(), self.outputs());
        let tolerance = if self.sums_are_exact() { 0.0 } else { F32_TOLERANCE };
        assert_close(what, &found, &self.expected(), &shape, tolerance);
        for isa in Isa::available() {
            assert_bits(&format!("{what} {isa:?}"), &self.run(&head, isa), &found, &shape);
        }
        for threads in [1, 2, 5] {
            let other = with_threads(threads, || self.run(&head, Isa::best()));
            assert_bits(&format!("{what} on {threads} threads"), &other, &found, &shape);
        }
        let alone: Vec<f32> = (0..self.batch).flat_map(|row| self.run_alone(&head, row)).collect();
        assert_bits(&format!("{what} alone"), &alone, &found, &shape);
        assert_eq!(head.is_linear(), self.is_linear());
        if head.is_linear() {
            self.check_parts(&head, &found);
        }
    }

    /// Parts and bias add up to the output, each rounded once more per addition.
    fn check_parts(&self, head: &Head, output: &[f32]) {
        let outputs = head.part_outputs();
        let mut sums: Vec<f64> = match head.bias() {
            Some(bias) => (0..self.batch).flat_map(|_| wide(bias)).collect(),
            None => vec![0.0; self.batch * outputs],
        };
        for (s, &segment) in self.segments().iter().enumerate() {
            let mut part = vec![f32::NAN; segment.rows.len() * outputs];
            head.parts(Isa::best(), s, segment, &mut part).unwrap();
            for (at, row) in segment.rows.iter().enumerate() {
                for o in 0..outputs {
                    sums[row * outputs + o] += f64::from(part[at * outputs + o]);
                }
            }
        }
        assert_close(&self.what, output, &sums, &[self.batch, outputs], F32_TOLERANCE);
    }
}

#[test]
fn heads() {
    cases().iter().for_each(Case::check);
}

/// An absent segment is skipped, not multiplied by zero: its weights may hold anything.
#[test]
fn absent_weights_are_not_read() {
    let weight = [1.0, f32::NAN, f32::INFINITY, 2.0];
    let layer = Linear::new(1, 4, &weight, None, Activation::Identity).unwrap();
    let head = Head::new(&[1, 2, 1], vec![layer]).unwrap();
    let segments =
        [Segment { rows: &[0], data: &[3.0] }, Segment::default(), Segment { rows: &[0], data: &[5.0] }];
    let mut output = [0.0];
    head.run(Isa::best(), 1, &segments, &mut output).unwrap();
    assert_eq!(output, [13.0]);
}

/// Every way the arguments can disagree.
#[test]
fn refusals() {
    let layer = |outputs, inputs| {
        Linear::new(outputs, inputs, &vec![0.0; outputs * inputs], None, Activation::Identity).unwrap()
    };
    assert!(matches!(Linear::new(2, 3, &[0.0; 5], None, Activation::Relu), Err(OpError::Length { .. })));
    let bias = Linear::new(2, 3, &[0.0; 6], Some(&[0.0]), Activation::Relu);
    assert!(matches!(bias, Err(OpError::Length { .. })));
    let huge = Linear::new(usize::MAX, 3, &[], None, Activation::Relu);
    assert!(matches!(huge, Err(OpError::Overflow { .. })));
    let run = layer(2, 3).run(Isa::best(), 2, &[0.0; 5], &mut [0.0; 4]);
    assert!(matches!(run, Err(OpError::Length { .. })));
    let run = layer(2, 3).run(Isa::best(), 2, &[0.0; 6], &mut [0.0; 5]);
    assert!(matches!(run, Err(OpError::Length { .. })));

    let error = |result: Result<Head, OpError>| result.unwrap_err().to_string();
    assert_eq!(error(Head::new(&[1, 2], vec![layer(2, 4)])), "inputs of a head layer: 4 values, expected 3");
    let chain = Head::new(&[3], vec![layer(2, 3), layer(2, 3)]);
    assert_eq!(error(chain), "inputs of a head layer: 3 values, expected 2");
    assert!(matches!(Head::new(&[usize::MAX, 1], vec![]), Err(OpError::Overflow { .. })));

    let head = Head::new(&[1, 2], vec![layer(2, 3)]).unwrap();
    let one = Segment { rows: &[0, 2], data: &[1.0, 2.0] };
    let run = |batch, second: Segment<'_>| {
        head.run(Isa::best(), batch, &[one, second], &mut vec![0.0; batch * 2]).map_err(|e| e.to_string())
    };
    assert_eq!(run(3, Segment::default()), Ok(()));
    let message = |segment: usize, position: usize, row: usize, batch: usize| {
        Err(format!(
            "segment {segment}, position {position}: row {row} in a batch of {batch}, rows must ascend"
        ))
    };
    assert_eq!(run(2, Segment::default()), message(0, 1, 2, 2));
    assert_eq!(run(3, Segment { rows: &[1, 1], data: &[0.0; 4] }), message(1, 1, 1, 3));
    let short = run(3, Segment { rows: &[1], data: &[0.0] });
    assert_eq!(short, Err("segment: 1 values, expected 2".into()));
    let few = head.run(Isa::best(), 3, &[one], &mut [0.0; 6]);
    assert_eq!(few, Err(OpError::Segments { found: 1, expected: 2 }));
    let output = head.run(Isa::best(), 3, &[one, Segment::default()], &mut [0.0; 5]);
    assert!(matches!(output, Err(OpError::Length { .. })));
    let parts = head.parts(Isa::best(), 2, one, &mut [0.0; 4]);
    assert_eq!(parts, Err(OpError::Segments { found: 3, expected: 2 }));
    assert!(matches!(head.parts(Isa::best(), 0, one, &mut [0.0; 3]), Err(OpError::Length { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_head(
        widths in prop::collection::vec(0usize..40, 0..5), batch in 0usize..40, seed: u64,
        outputs in prop::collection::vec(1usize..50, 0..3),
    ) {
        let shapes: Vec<_> = outputs.iter().map(|&outputs| linear(outputs)).collect();
        let has = |row, s| Random::new(seed ^ (row * 8 + s) as u64).below(3) > 0;
        Case::new(&widths, batch, &shapes, false, has).check();
    }
}
