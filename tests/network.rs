//! Networks: the layer list, what it refuses, and the named architectures against torchvision's features.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

mod common;
#[cfg(feature = "cuda")]
mod device;

use std::collections::BTreeMap;

use mercer::cpu::network::PackedNetwork;
use mercer::cpu::simd::Isa;
use mercer::input::PixelScaling;
use mercer::model::{Architecture, Conv, Layer, MapShape, Network, Op, Pair};
use mercer::weights::Checkpoint;

/// Contracts: f32 values, relative to the largest.
const F32: f32 = 2e-5;

fn image(height: usize, width: usize, channels: usize) -> MapShape {
    MapShape { height, width, channels }
}

fn layers(json: &str) -> Vec<Layer> {
    serde_json::from_str(json).unwrap()
}

/// A checkpoint with the tensors of `network`, made as `tools/golden/model.py` makes them.
fn checkpoint(folder: &std::path::Path, network: &Network) -> Checkpoint {
    let mut tensors = BTreeMap::new();
    let mut tensor = |name: &str, shape: Vec<usize>| {
        let mut data = common::values(name, shape.iter().product());
        let (scale, offset) = if let [_, inputs, height, width] = shape[..] {
            ((6.0f32 / (inputs * height * width) as f32).sqrt(), 0.0)
        } else if name.ends_with("running_var") || name.ends_with(".weight") {
            (0.5, 1.0)
        } else {
            (0.25, 0.0)
        };
        data.iter_mut().for_each(|x| *x = *x * scale + offset);
        tensors.insert(name.to_string(), (shape, data));
    };
    for step in &network.steps {
        if let Op::BatchNorm(norm) = &step.op {
            norm.tensors.iter().for_each(|name| tensor(name, vec![norm.channels]));
        }
        let Op::Conv(conv) = &step.op else { continue };
        let Conv { in_channels, out_channels, kernel, groups, .. } = conv;
        tensor(&conv.weight, vec![*out_channels, in_channels / groups, kernel.height, kernel.width]);
        if let Some(bias) = &conv.bias {
            tensor(bias, vec![*out_channels]);
        }
        for name in conv.batch_norm.iter().flat_map(|norm| &norm.tensors) {
            tensor(name, vec![*out_channels]);
        }
    }
    let path = folder.join("model.safetensors");
    common::write_safetensors(&path, &tensors);
    Checkpoint::mmap(&path).unwrap()
}

#[test]
fn named_architectures_give_torchvisions_features() {
    let golden = common::Golden::open("tests/golden/model/named.safetensors");
    for (name, architecture, side) in [
        ("resnet18", Architecture::Resnet18, 65),
        ("resnet34", Architecture::Resnet34, 64),
        ("vgg16", Architecture::Vgg16, 48),
    ] {
        let network = Network::compile(image(side, side, 3), &architecture.layers(), "").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let packed = PackedNetwork::new(&network, &checkpoint(folder.path(), &network)).unwrap();
        let pixels = common::values(&format!("{name} images"), 2 * side * side * 3);
        let mut features = vec![0.0; 2 * 512];
        packed.run(Isa::best(), 2, &pixels, &mut features).unwrap();
        common::assert_close(name, &features, &golden.f32s(name), F32);
    }
}

#[test]
fn resnet_fuses_every_batch_norm_sum_and_relu() {
    let network = Network::compile(image(224, 224, 3), &Architecture::Resnet18.layers(), "").unwrap();
    let convolutions = network.steps.iter().filter(|step| matches!(step.op, Op::Conv(_))).count();
    assert_eq!(convolutions, 20);
    assert_eq!(
        network.steps.len(),
        20 + 2,
        "only the max pool and the average pool stand beside convolutions"
    );
    let residuals =
        network.steps.iter().filter(|s| matches!(&s.op, Op::Conv(c) if c.residual.is_some() && c.relu));
    assert_eq!(residuals.count(), 8);
    // 1.81 G multiply-adds are the published figure for 224 x 224, the classifier's 0.5 M left out.
    assert_eq!(network.multiply_adds(), 1_813_561_344);
}

#[test]
fn a_value_that_others_read_is_not_fused_away() {
    let layers = layers(
        r#"[{"op": "conv", "name": "a", "out_channels": 3, "kernel": 1},
            {"op": "relu"},
            {"op": "add", "with": "a"},
            {"op": "global_avg_pool"}]"#,
    );
    let network = Network::compile(image(2, 2, 3), &layers, "").unwrap();
    assert!(matches!(&network.steps[0].op, Op::Conv(conv) if !conv.relu));
    assert!(matches!(network.steps[1].op, Op::Relu));
    assert!(matches!(network.steps[2].op, Op::Add { with: 1 }));
    let folder = tempfile::tempdir().unwrap();
    let weights = BTreeMap::from([(
        "a.weight".to_string(),
        (vec![3, 3, 1, 1], vec![1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.5]),
    )]);
    let path = folder.path().join("model.safetensors");
    common::write_safetensors(&path, &weights);
    let packed = PackedNetwork::new(&network, &Checkpoint::mmap(&path).unwrap()).unwrap();
    let mut output = [0.0; 3];
    packed.run(Isa::best(), 1, &[1.0, 2.0, 4.0].repeat(4), &mut output).unwrap();
    assert_eq!(output, [2.0, -2.0, 4.0], "relu(x) + x for x = 1, -2, 2");
}

#[test]
fn a_sum_with_a_later_value_stays_apart() {
    // `late` is computed after `early`, and `early` is what the sum follows through `from`.
    let layers = layers(
        r#"[{"op": "conv", "name": "early", "out_channels": 2, "kernel": 1},
            {"op": "conv", "name": "late", "out_channels": 2, "kernel": 1, "from": "early"},
            {"op": "add", "with": "early"},
            {"op": "global_avg_pool"}]"#,
    );
    let network = Network::compile(image(3, 3, 3), &layers, "").unwrap();
    assert!(matches!(&network.steps[1].op, Op::Conv(conv) if conv.residual == Some(1)));
}

#[test]
fn layers_that_cannot_be_are_refused_with_their_place() {
    let compile = |json: &str| {
        let problem = Network::compile(image(8, 6, 3), &layers(json), "").unwrap_err();
        problem.to_string()
    };
    let conv = r#"{"op": "conv", "name": "a", "out_channels": 4, "kernel": 3}"#;
    for (json, text) in [
        (
            format!("[{conv}]"),
            "at layers: the network ends in a map of 6x4 pixels; end it with global_avg_pool",
        ),
        (
            r#"[{"op": "conv", "name": "a", "out_channels": 4, "kernel": [3, 7]}]"#.into(),
            "at layers[0]: a window of 7 does not fit a width of 6 (padding included)",
        ),
        (
            r#"[{"op": "conv", "name": "a", "out_channels": 4, "kernel": 3, "groups": 2}]"#.into(),
            "at layers[0]: 2 groups do not divide 3 input and 4 output channels",
        ),
        (
            r#"[{"op": "conv", "name": "a", "out_channels": 4, "kernel": 3, "stride": 0}]"#.into(),
            "at layers[0]: stride is 0",
        ),
        (format!("[{conv}, {conv}]"), "at layers[1]: two layers are named `a`"),
        (
            format!(r#"[{conv}, {{"op": "add", "with": "b"}}]"#),
            "at layers[1]: no earlier layer is named `b`",
        ),
        (
            format!(r#"[{{"op": "relu", "name": "x"}}, {conv}, {{"op": "add", "with": "x"}}]"#),
            "at layers[2]: adds 8x6x3 to 6x4x4",
        ),
        (
            r#"[{"op": "max_pool", "kernel": 3, "padding": 2}]"#.into(),
            "at layers[0]: padding of 2 along the height is more than half the window of 3",
        ),
        (
            r#"[{"op": "batch_norm", "name": "a", "eps": -1.0}]"#.into(),
            "at layers[0]: eps is -1",
        ),
        (
            r#"[{"op": "conv", "name": "a", "out_channels": 400000000, "kernel": 3}]"#.into(),
            "at layers[0]: a map of 6x4x400000000 has more than 268435456 values",
        ),
        (
            r#"[{"op": "conv", "name": "a", "out_channels": 4, "kernel": 3, "padding": 18446744073709551615}]"#.into(),
            "at layers[0]: height: a window of 3 (padding 18446744073709551615, dilation 1) is too large",
        ),
        // Padding that a run would have to lay out, though the output is small.
        (
            r#"[{"op": "conv", "name": "a", "out_channels": 4, "kernel": 3, "padding": [2, 1073741824], "stride": [2, 178956970]}]"#.into(),
            "at layers[0]: with its padding, a map of 12x2147483654x3 has more than 268435456 values",
        ),
        (
            r#"[{"op": "avg_pool", "kernel": 1048576, "padding": 524288}]"#.into(),
            "at layers[0]: with its padding, a map of 1048584x1048582x3 has more than 268435456 values",
        ),
        // An average's divisor is the area of its window.
        (
            r#"[{"op": "avg_pool", "kernel": 1099511627776, "padding": 549755813888}]"#.into(),
            "at layers[0]: area: a window of 1099511627776 (padding 549755813888, dilation 1) is too large",
        ),
    ] {
        assert_eq!(compile(&json), text, "{json}");
    }
}

#[test]
fn images_without_values_or_beyond_the_bound_are_refused() {
    let layers = layers(r#"[{"op": "global_avg_pool"}]"#);
    for (input, text) in [
        (image(0, 0, 3), "at layers: a map of 0x0x3 has no values"),
        (image(2, 0, 3), "at layers: a map of 2x0x3 has no values"),
        (image(2, 2, 0), "at layers: a map of 2x2x0 has no values"),
        (image(16384, 16384, 3), "at layers: a map of 16384x16384x3 has more than 268435456 values"),
        (
            image(usize::MAX, 2, 3),
            "at layers: a map of 18446744073709551615x2x3 has more than 268435456 values",
        ),
    ] {
        assert_eq!(Network::compile(input, &layers, "").unwrap_err().to_string(), text);
        assert!(Network::compile(input, &[], "").is_err(), "{input:?}");
    }
    assert!(Network::compile(image(1, 1 << 28, 1), &layers, "").is_ok());
}

#[test]
fn debug_output_holds_no_weights() {
    let network = Network::compile(image(33, 33, 3), &Architecture::Resnet18.layers(), "").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let packed = PackedNetwork::new(&network, &checkpoint(folder.path(), &network)).unwrap();
    let (packed, plan) = (format!("{packed:?}"), format!("{network:?}"));
    assert!(packed.contains(&plan) && packed.len() < plan.len() + 100, "{} characters", packed.len());
}

#[test]
fn photos_are_scaled_pixels() {
    let network = Network::compile(image(33, 33, 3), &Architecture::Resnet18.layers(), "").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let packed = PackedNetwork::new(&network, &checkpoint(folder.path(), &network)).unwrap();
    let len = 33 * 33 * 3;
    let photos: Vec<u8> = (0..=u8::MAX).cycle().take(2 * len).collect();
    let scaling = PixelScaling::new([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]);
    let (mut found, mut expected) = (vec![0.0; 2 * 512], vec![0.0; 2 * 512]);
    packed.run_photos(Isa::best(), 2, &scaling, &photos, &mut found).unwrap();
    packed.run(Isa::best(), 2, &scaling.scale(&photos), &mut expected).unwrap();
    assert_eq!(found, expected);

    let error = packed.run_photos(Isa::best(), 2, &scaling, &photos[1..], &mut found).unwrap_err();
    assert_eq!(error.to_string(), "photos: 6533 values, expected 6534");
    let one_channel =
        Network::compile(image(2, 2, 1), &layers(r#"[{"op": "global_avg_pool"}]"#), "").unwrap();
    let packed = PackedNetwork::new(&one_channel, &checkpoint(folder.path(), &one_channel)).unwrap();
    let error = packed.run_photos(Isa::best(), 3, &scaling, &[0; 12], &mut [0.0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "channels of a photo: 3 values, expected 1");
}

#[test]
fn a_batch_gives_each_image_its_own_bits() {
    let network = Network::compile(image(33, 33, 3), &Architecture::Resnet18.layers(), "").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let packed = PackedNetwork::new(&network, &checkpoint(folder.path(), &network)).unwrap();
    let len = 33 * 33 * 3;
    let pixels = common::values("a batch", 5 * len);
    let mut together = vec![0.0; 5 * 512];
    packed.run(Isa::best(), 5, &pixels, &mut together).unwrap();
    for (row, pixels) in pixels.chunks(len).enumerate() {
        let mut alone = vec![0.0; 512];
        packed.run(Isa::best(), 1, pixels, &mut alone).unwrap();
        let same = alone.iter().zip(&together[row * 512..]).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(same, None, "row {row}");
    }
    assert_eq!(Pair::square(2), serde_json::from_str("2").unwrap());
}

#[cfg(feature = "cuda")]
mod cuda {
    use mercer::cuda::network::{LoadError, Network as DeviceNetwork};
    use mercer::cuda::pixels::enqueue_cast;
    use mercer::cuda::{CudaError, Precision, Rows, Slice, Stream, Tensor};

    use super::device::{device, poisoned};
    use super::*;

    /// Every operation, fused and apart, values that live over many steps, widths that are no multiple of a vector.
    const ALL_OPS: &str = r#"[
        {"op": "conv", "name": "stem", "out_channels": 12, "kernel": 3, "stride": 2, "padding": 1, "bias": true},
        {"op": "batch_norm", "name": "stem_norm", "eps": 1e-5},
        {"op": "relu", "name": "early"},
        {"op": "batch_norm", "name": "apart", "eps": 1e-3},
        {"op": "max_pool", "kernel": 3, "stride": 1, "padding": 1},
        {"op": "add", "name": "sum", "with": "early"},
        {"op": "conv", "name": "depthwise", "out_channels": 12, "kernel": 3, "padding": 1, "groups": 12},
        {"op": "relu"},
        {"op": "conv", "name": "wide", "out_channels": 40, "kernel": 1, "from": "sum"},
        {"op": "avg_pool", "kernel": 2, "stride": 2, "padding": 1, "count_include_pad": false},
        {"op": "conv", "name": "narrow", "out_channels": 40, "kernel": 3, "padding": 2, "dilation": 2},
        {"op": "relu", "name": "late"},
        {"op": "conv", "name": "last", "out_channels": 40, "kernel": 1},
        {"op": "add", "with": "late"},
        {"op": "relu"},
        {"op": "global_avg_pool"}
    ]"#;

    /// A network on the device with room for `most` images.
    struct Loaded {
        stream: Stream,
        network: DeviceNetwork,
        input: Tensor,
        workspace: Slice<u8>,
        output: Tensor,
        count: Slice<u32>,
        images: Rows,
    }

    impl Loaded {
        fn new(stream: &Stream, network: &Network, precision: Precision, most: usize) -> Loaded {
            let folder = tempfile::tempdir().unwrap();
            let checkpoint = checkpoint(folder.path(), network);
            let network = DeviceNetwork::new(stream, network, &checkpoint, precision).unwrap();
            let workspace = Slice::new(stream.device(), "workspace", network.workspace(most)).unwrap();
            let count = stream.upload("images", &[0u32]).unwrap();
            Loaded {
                stream: stream.clone(),
                input: poisoned(stream, precision, most * network.input().len()),
                output: poisoned(stream, precision, most * network.width()),
                images: Rows::new(most, count.clone()).unwrap(),
                network,
                workspace,
                count,
            }
        }

        fn enqueue(&self) -> Result<(), CudaError> {
            self.enqueue_on(&self.stream)
        }

        fn enqueue_on(&self, stream: &Stream) -> Result<(), CudaError> {
            self.network.enqueue(stream, &self.images, &self.input, &self.workspace, &self.output)
        }

        /// Puts `pixels` into the input, with NaN behind them and in all that is written.
        fn fill(&self, pixels: &[f32]) {
            let batch = pixels.len() / self.network.input().len();
            self.stream.upload_to(&[u32::try_from(batch).unwrap()], &self.count).unwrap();
            let mut values = pixels.to_vec();
            values.resize(self.input.len(), f32::NAN);
            let rows = Rows::exactly(&self.stream, self.images.most()).unwrap();
            let values = self.stream.upload("pixels", &values).unwrap();
            let len = self.network.input().len();
            enqueue_cast(&self.stream, &rows, len, &values, &self.input).unwrap();
            let poison = self.stream.upload("poison", &vec![f32::NAN; self.output.len()]).unwrap();
            enqueue_cast(&self.stream, &rows, self.network.width(), &poison, &self.output).unwrap();
            self.stream.fill(&self.workspace, 0xFF).unwrap();
            self.stream.synchronize().unwrap();
        }

        /// The features of the images; what is behind them must be poison still.
        fn features(&self, batch: usize) -> Vec<f32> {
            let mut found = self.output.download(&self.stream).unwrap();
            let behind = found.split_off(batch * self.network.width());
            assert!(behind.iter().all(|x| x.is_nan()), "writes behind the last image");
            found
        }

        fn run(&self, pixels: &[f32]) -> Vec<f32> {
            self.fill(pixels);
            self.enqueue().unwrap();
            self.features(pixels.len() / self.network.input().len())
        }
    }

    fn on_cpu(network: &Network, pixels: &[f32]) -> Vec<f32> {
        let folder = tempfile::tempdir().unwrap();
        let packed = PackedNetwork::new(network, &checkpoint(folder.path(), network)).unwrap();
        let batch = pixels.len() / network.input.len();
        let mut features = vec![0.0; batch * network.width()];
        packed.run(Isa::best(), batch, pixels, &mut features).unwrap();
        features
    }

    /// Contracts: the least cosine of an embedding.
    fn least_cosine(precision: Precision) -> f64 {
        match precision {
            Precision::F32 => 0.999_999,
            Precision::F16 => 0.9999,
            Precision::Bf16 => 0.999,
        }
    }

    fn check(name: &str, network: &Network, batch: usize) {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        let pixels = common::values(name, batch * network.input.len());
        let expected = on_cpu(network, &pixels);
        for precision in Precision::ALL {
            let found = Loaded::new(&stream, network, precision, batch + 1).run(&pixels);
            if precision == Precision::F32 {
                common::assert_close(name, &found, &expected, 2.0 * F32); // each is within F32 of f64
            }
            for (row, (found, expected)) in
                found.chunks(network.width()).zip(expected.chunks(network.width())).enumerate()
            {
                let cosine = common::cosine(found, expected);
                assert!(
                    cosine >= least_cosine(precision),
                    "{name} in {precision:?}: cosine {cosine} of row {row}"
                );
            }
        }
    }

    #[test]
    fn every_operation_agrees_with_the_cpu() {
        for (height, width) in [(9, 8), (16, 17), (2, 3)] {
            check("all ops", &Network::compile(image(height, width, 3), &layers(ALL_OPS), "").unwrap(), 2);
        }
    }

    #[test]
    fn resnet18_agrees_with_the_cpu() {
        check(
            "resnet18",
            &Network::compile(image(32, 32, 3), &Architecture::Resnet18.layers(), "").unwrap(),
            2,
        );
    }

    /// Multiples of 1/16 stay exact through two convolutions and a pool of 4 pixels: a fault of an index shows in any precision.
    #[test]
    fn exact_values_stay_exact() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        let json = r#"[{"op": "conv", "name": "a", "out_channels": 24, "kernel": 3, "padding": 1},
                       {"op": "relu", "name": "r"},
                       {"op": "max_pool", "kernel": 2},
                       {"op": "global_avg_pool"}]"#;
        let network = Network::compile(image(4, 4, 8), &layers(json), "").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let quarters = |name: &str, len| -> Vec<f32> {
            common::values(name, len).iter().map(|x| (x * 2.0).round() / 4.0).collect()
        };
        let weight = (vec![24, 8, 3, 3], quarters("weight", 24 * 72));
        let path = folder.path().join("model.safetensors");
        common::write_safetensors(&path, &BTreeMap::from([("a.weight".to_string(), weight)]));
        let checkpoint = Checkpoint::mmap(&path).unwrap();
        let pixels: Vec<f32> =
            quarters("pixels", 3 * 128).iter().map(|x| x.signum() * x.abs().min(0.25)).collect();
        let mut expected = vec![0.0; 3 * 24];
        let packed = PackedNetwork::new(&network, &checkpoint).unwrap();
        packed.run(Isa::best(), 3, &pixels, &mut expected).unwrap();
        for precision in Precision::ALL {
            let network = DeviceNetwork::new(&stream, &network, &checkpoint, precision).unwrap();
            let images = Rows::exactly(&stream, 3).unwrap();
            let input = Tensor::upload(&stream, "pixels", precision, &pixels).unwrap();
            let workspace = Slice::new(&device, "workspace", network.workspace(3)).unwrap();
            let output = poisoned(&stream, precision, 3 * 24);
            network.enqueue(&stream, &images, &input, &workspace, &output).unwrap();
            let found = output.download(&stream).unwrap();
            let first =
                (0..found.len()).find(|&at| found[at] != super::device::round(precision, expected[at]));
            assert_eq!(first, None, "{precision:?}: {found:?} instead of {expected:?}");
        }
    }

    /// An image has the same bits alone, in a batch, in every run, and from a recorded graph.
    #[test]
    fn an_image_has_its_own_bits() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        let network = Network::compile(image(16, 17, 3), &layers(ALL_OPS), "").unwrap();
        let (len, width) = (network.input.len(), network.width());
        let pixels = common::values("a batch", 5 * len);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        for precision in Precision::ALL {
            let together = Loaded::new(&stream, &network, precision, 5).run(&pixels);
            let loaded = Loaded::new(&stream, &network, precision, 7);
            let graph = stream.record(|stream| loaded.enqueue_on(stream)).unwrap();
            for rows in [0..5, 1..3, 4..5, 0..0] {
                let expected = &together[rows.start * width..rows.end * width];
                loaded.fill(&pixels[rows.start * len..rows.end * len]);
                loaded.enqueue().unwrap();
                let found = loaded.features(rows.len());
                assert_eq!(bits(&found), bits(expected), "{precision:?}, rows {rows:?}");
                loaded.fill(&pixels[rows.start * len..rows.end * len]);
                graph.launch().unwrap();
                let found = loaded.features(rows.len());
                assert_eq!(bits(&found), bits(expected), "{precision:?}, rows {rows:?}, recorded");
            }
        }
    }

    /// A checkpoint and buffers that do not fit.
    #[test]
    fn refusals() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        let network = Network::compile(image(9, 8, 3), &layers(ALL_OPS), "").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let other = Network::compile(image(9, 8, 3), &layers(ALL_OPS), "other.").unwrap();
        let error = DeviceNetwork::new(&stream, &network, &checkpoint(folder.path(), &other), Precision::F16);
        assert!(matches!(error, Err(LoadError::Pack(_))), "{error:?}");

        let good = Loaded::new(&stream, &network, Precision::F16, 2);
        assert_eq!(good.enqueue(), Ok(()));
        let workspace = good.workspace.part(0..good.workspace.len() - 1).unwrap();
        let short = good.network.enqueue(&stream, &good.images, &good.input, &workspace, &good.output);
        assert!(matches!(short, Err(CudaError::Limit { what: "workspace", .. })), "{short:?}");
        let input = good.input.part(0..9 * 8 * 3).unwrap();
        let short = good.network.enqueue(&stream, &good.images, &input, &good.workspace, &good.output);
        assert!(matches!(short, Err(CudaError::Length { .. })), "{short:?}");
        let output = poisoned(&stream, Precision::F32, good.output.len());
        let other = good.network.enqueue(&stream, &good.images, &good.input, &good.workspace, &output);
        assert!(matches!(other, Err(CudaError::Precision { .. })), "{other:?}");
        assert_eq!(good.network.workspace(usize::MAX), usize::MAX);
    }
}
