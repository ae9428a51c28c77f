"""The two encoders and the ranker in PyTorch, and the configuration that describes them to the engine.

Parameter names are the tensor names of `model.safetensors`. The image network is built from the same list of layers
that goes into `config.json`. A modality that a row lacks adds nothing to the fused sum, which is what skipping its
segment of the head means; heads of encoders have no bias, so a cosine splits into parts that sum exactly.
"""

import torch
import torch.nn.functional as F
from torch import nn

DIM = 128
TEXT_WIDTH, IMAGE_WIDTH, USER_WIDTH, TASTE_WIDTH = 96, 96, 48, 48
RANKER_USER, RANKER_TASTE, RANKER_IMAGE, RANKER_HIDDEN = 32, 32, 48, 192

LAYERS = [
    {"op": "conv", "name": "conv1", "out_channels": 16, "kernel": 5, "stride": 2, "padding": 2},
    {"op": "batch_norm", "name": "bn1"},
    {"op": "relu"},
    {"op": "max_pool", "kernel": 2},
    {"op": "conv", "name": "conv2", "out_channels": 24, "kernel": 3, "padding": 1},
    {"op": "batch_norm", "name": "bn2"},
    {"op": "relu", "name": "block2"},
    {"op": "conv", "name": "conv3", "out_channels": 24, "kernel": 3, "padding": 1},
    {"op": "batch_norm", "name": "bn3"},
    {"op": "add", "with": "block2"},
    {"op": "relu"},
    {"op": "conv", "name": "conv4", "out_channels": 48, "kernel": 3, "stride": 2, "padding": 1},
    {"op": "batch_norm", "name": "bn4"},
    {"op": "relu", "name": "block4"},
    {"op": "conv", "name": "conv5", "out_channels": 48, "kernel": 3, "padding": 1},
    {"op": "batch_norm", "name": "bn5"},
    {"op": "add", "with": "block4"},
    {"op": "relu"},
    {"op": "conv", "name": "conv6", "out_channels": 96, "kernel": 3, "stride": 2, "padding": 1},
    {"op": "batch_norm", "name": "bn6"},
    {"op": "relu", "name": "block6"},
    {"op": "conv", "name": "conv7", "out_channels": 96, "kernel": 3, "padding": 1},
    {"op": "batch_norm", "name": "bn7"},
    {"op": "add", "with": "block6"},
    {"op": "relu"},
    {"op": "global_avg_pool"},
]


class ConvStack(nn.Module):
    """The network that a list of layers describes: `[batch, 3, height, width]` to `[batch, channels]`."""

    def __init__(self, layers: list[dict]):
        super().__init__()
        self.layers = layers
        channels = 3
        for layer in layers:
            if layer["op"] == "conv":
                conv = nn.Conv2d(
                    channels,
                    layer["out_channels"],
                    layer["kernel"],
                    layer.get("stride", 1),
                    layer.get("padding", 0),
                    bias=False,
                )
                self.add_module(layer["name"], conv)
                channels = layer["out_channels"]
            elif layer["op"] == "batch_norm":
                self.add_module(layer["name"], nn.BatchNorm2d(channels))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        named = {}
        for layer in self.layers:
            match layer["op"]:
                case "conv" | "batch_norm":
                    x = self.get_submodule(layer["name"])(x)
                case "relu":
                    x = F.relu(x)
                case "add":
                    x = x + named[layer["with"]]
                case "max_pool":
                    x = F.max_pool2d(x, layer["kernel"])
                case "global_avg_pool":
                    x = x.mean((2, 3))
            if "name" in layer:
                named[layer["name"]] = x
        return x


class Bags:
    """Token ids of the rows of a batch that have text, as `EmbeddingBag` takes them, and which rows those are."""

    def __init__(self, lists: list[list[int] | None]):
        self.rows = torch.tensor([row for row, ids in enumerate(lists) if ids is not None], dtype=torch.long)
        kept = [ids for ids in lists if ids is not None]
        self.ids = torch.tensor([token for ids in kept for token in ids], dtype=torch.long)
        lengths = torch.tensor([0] + [len(ids) for ids in kept[:-1]], dtype=torch.long)
        self.offsets = lengths.cumsum(0) if kept else torch.zeros(0, dtype=torch.long)


class Ranker(nn.Module):
    """Probability that this request leads to a click on this product; both sides in one hidden layer."""

    def __init__(self, users: int, behaviour: int, hidden: int):
        super().__init__()
        self.user = nn.Embedding(users, RANKER_USER)
        self.taste = nn.Linear(behaviour, RANKER_TASTE)
        self.image = nn.Linear(IMAGE_WIDTH, RANKER_IMAGE)
        width = RANKER_USER + TEXT_WIDTH + RANKER_TASTE + TEXT_WIDTH + RANKER_IMAGE
        self.hidden = nn.Linear(width, hidden) if hidden else None
        self.out = nn.Linear(hidden or width, 1)
        nn.init.normal_(self.user.weight, 0, 0.1)

    def forward(self, segments: dict[str, torch.Tensor]) -> torch.Tensor:
        """The logit. `segments` holds the concatenation's parts by name, with zeros in rows that lack one."""
        x = torch.cat([segments[name] for name in ("user", "query_text", "taste", "item_text", "image")], 1)
        return self.out(F.relu(self.hidden(x)) if self.hidden is not None else x).squeeze(1)


class Model(nn.Module):
    """Query and item encoders, which share the text table and the image network, and the ranker over them."""

    def __init__(self, vocabulary: int, users: int, behaviour: int, hidden: int = RANKER_HIDDEN):
        super().__init__()
        self.text = nn.EmbeddingBag(vocabulary, TEXT_WIDTH, mode="mean")
        self.image = ConvStack(LAYERS)
        self.user = nn.Embedding(users, USER_WIDTH)
        self.taste = nn.Linear(behaviour, TASTE_WIDTH)
        self.query_head = nn.Linear(TEXT_WIDTH + IMAGE_WIDTH + USER_WIDTH + TASTE_WIDTH, DIM, bias=False)
        self.item_head = nn.Linear(TEXT_WIDTH + IMAGE_WIDTH, DIM, bias=False)
        self.ranker = Ranker(users, behaviour, hidden)
        nn.init.normal_(self.text.weight, 0, 0.3)
        nn.init.normal_(self.user.weight, 0, 0.3)

    def texts(self, bags: Bags, batch: int) -> torch.Tensor:
        """Text tower, zeros in rows without text: `[batch, TEXT_WIDTH]`."""
        out = torch.zeros(batch, TEXT_WIDTH)
        return out.index_copy(0, bags.rows, self.text(bags.ids, bags.offsets)) if len(bags.rows) else out

    def query(self, text, image, user, taste) -> torch.Tensor:
        """Unit query vectors from tower outputs, each `[batch, width]` with zeros where absent."""
        return F.normalize(self.query_head(torch.cat([text, image, user, taste], 1)), dim=1)

    def item(self, text, image) -> torch.Tensor:
        """Unit item vectors from tower outputs."""
        return F.normalize(self.item_head(torch.cat([text, image], 1)), dim=1)


def config(side: int, max_tokens: int, behaviour: int, mean: list[float], std: list[float]) -> dict:
    """`config.json` for these modules."""
    text = {"name": "text", "input": "text", "kind": "embedding_bag", "weight": "text.weight", "pooling": "mean"}
    image = {"name": "image", "input": "image", "kind": "conv_stack", "prefix": "image.", "layers": LAYERS}
    return {
        "format_version": 1,
        "inputs": {
            "text": {"tokenizer": "tokenizer.json", "max_tokens": max_tokens, "truncation": "keep_first"},
            "image": {"height": side, "width": side, "resize": "exact", "filter": "bilinear", "mean": mean, "std": std},
            "behaviour": {"length": behaviour},
        },
        "encoders": {
            "query": {
                "towers": [
                    text,
                    image,
                    {"name": "user", "input": "user", "kind": "embedding", "weight": "user.weight"},
                    {
                        "name": "taste",
                        "input": "behaviour",
                        "kind": "linear",
                        "weight": "taste.weight",
                        "bias": "taste.bias",
                    },
                ],
                "head": [{"weight": "query_head.weight"}],
                "normalize": "l2",
            },
            "item": {"towers": [text, image], "head": [{"weight": "item_head.weight"}], "normalize": "l2"},
        },
        "ranker": {
            "query_towers": [
                {"name": "user", "input": "user", "kind": "embedding", "weight": "ranker.user.weight"},
                text,
                {
                    "name": "taste",
                    "input": "behaviour",
                    "kind": "linear",
                    "weight": "ranker.taste.weight",
                    "bias": "ranker.taste.bias",
                },
            ],
            "item_towers": [
                text,
                {
                    "name": "image",
                    "input": "image",
                    "kind": "linear",
                    "over": "image",
                    "weight": "ranker.image.weight",
                    "bias": "ranker.image.bias",
                },
            ],
            "head": [
                {"weight": "ranker.hidden.weight", "bias": "ranker.hidden.bias", "activation": "relu"},
                {"weight": "ranker.out.weight", "bias": "ranker.out.bias", "activation": "sigmoid"},
            ],
        },
    }
