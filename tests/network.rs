//! Networks: the layer list, what it refuses, and the named architectures against torchvision's features.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

mod common;

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
