//! Networks known by name, written as the list of layers that `config.json` could spell out; tensor names are those of
//! torchvision's state dicts.

use super::{Architecture, Layer, Pair};

impl Architecture {
    /// The network up to and including the average over the last feature map.
    pub fn layers(self) -> Vec<Layer> {
        match self {
            Architecture::Resnet18 => resnet(&[2, 2, 2, 2]),
            Architecture::Resnet34 => resnet(&[3, 4, 6, 3]),
            Architecture::Vgg16 => vgg(&[2, 2, 3, 3, 3]),
        }
    }

    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Resnet18 => "resnet18",
            Architecture::Resnet34 => "resnet34",
            Architecture::Vgg16 => "vgg16",
        }
    }

    /// Prefixes of checkpoint tensors that belong to the network but not to the features: the classifier.
    pub fn unread(self) -> &'static [&'static str] {
        match self {
            Architecture::Resnet18 | Architecture::Resnet34 => &["fc."],
            Architecture::Vgg16 => &["classifier."],
        }
    }
}

/// ResNet of basic blocks (He et al. 2015, table 1): a 7x7 stem, then four stages of `blocks` blocks with 64, 128, 256
/// and 512 channels; the first block of the later stages halves the map and projects its shortcut.
fn resnet(blocks: &[usize; 4]) -> Vec<Layer> {
    let mut layers = vec![
        conv("conv1", None, 64, 7, 2, 3),
        batch_norm("bn1"),
        relu(None),
        Layer::MaxPool {
            name: Some("maxpool".into()),
            kernel: Pair::square(3),
            stride: Some(Pair::square(2)),
            padding: Pair::square(1),
        },
    ];
    let mut input = "maxpool".to_string();
    for (stage, &count) in blocks.iter().enumerate() {
        let channels = 64 << stage;
        for block in 0..count {
            let prefix = format!("layer{}.{block}", stage + 1);
            let (stride, project) = if stage > 0 && block == 0 { (2, true) } else { (1, false) };
            layers.push(conv(&format!("{prefix}.conv1"), Some(&input), channels, 3, stride, 1));
            layers.push(batch_norm(&format!("{prefix}.bn1")));
            layers.push(relu(None));
            if project {
                // The shortcut comes first, so that the sum fuses into the second convolution of the block.
                let main = layers.split_off(layers.len() - 3);
                layers.push(conv(&format!("{prefix}.downsample.0"), Some(&input), channels, 1, 2, 0));
                layers.push(batch_norm(&format!("{prefix}.downsample.1")));
                layers.extend(main);
                input = format!("{prefix}.downsample.1");
            }
            layers.push(conv(&format!("{prefix}.conv2"), None, channels, 3, 1, 1));
            layers.push(batch_norm(&format!("{prefix}.bn2")));
            layers.push(Layer::Add { name: None, with: input });
            input = format!("{prefix}.relu");
            layers.push(relu(Some(&input)));
        }
    }
    layers.push(Layer::GlobalAvgPool { name: None });
    layers
}

/// VGG (Simonyan and Zisserman 2014) without batch norm: five stages of 3x3 convolutions, each ending in a 2x2 max
/// pool. torchvision numbers convolutions, activations and pools together under `features`.
fn vgg(convolutions: &[usize; 5]) -> Vec<Layer> {
    let mut layers = Vec::new();
    let mut index = 0;
    for (&count, channels) in convolutions.iter().zip([64, 128, 256, 512, 512]) {
        for _ in 0..count {
            layers.push(Layer::Conv {
                name: format!("features.{index}"),
                out_channels: channels,
                kernel: Pair::square(3),
                stride: Pair::square(1),
                padding: Pair::square(1),
                dilation: Pair::square(1),
                groups: 1,
                bias: true,
                from: None,
            });
            layers.push(relu(None));
            index += 2;
        }
        layers.push(Layer::MaxPool {
            name: Some(format!("features.{index}")),
            kernel: Pair::square(2),
            stride: None,
            padding: Pair::square(0),
        });
        index += 1;
    }
    layers.push(Layer::GlobalAvgPool { name: None });
    layers
}

fn conv(
    name: &str,
    from: Option<&str>,
    out_channels: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
) -> Layer {
    Layer::Conv {
        name: name.into(),
        out_channels,
        kernel: Pair::square(kernel),
        stride: Pair::square(stride),
        padding: Pair::square(padding),
        dilation: Pair::square(1),
        groups: 1,
        bias: false,
        from: from.map(Into::into),
    }
}

fn batch_norm(name: &str) -> Layer {
    Layer::BatchNorm { name: name.into(), eps: 1e-5 }
}

fn relu(name: Option<&str>) -> Layer {
    Layer::Relu { name: name.map(Into::into) }
}
