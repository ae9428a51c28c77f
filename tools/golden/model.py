"""Golden outputs of whole models, computed by PyTorch.

    python tools/golden/model.py --out tests/golden/model

Writes two small model folders that between them hold every tower kind, pooling, layer, activation and dtype, each with
ready-made inputs and the expected vectors, parts and ranker scores in `golden.safetensors`; and `named.safetensors`
with the features of torchvision's networks. The weights of those are too large to keep: both this script and the Rust
test make them from `values()`, a counter-based generator.

Needs torch, torchvision, numpy and safetensors. Seeded: the same versions write the same bytes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

MASK = (1 << 64) - 1


def fnv1a(name: str) -> int:
    """64-bit FNV-1a of a tensor's name: the start of its value sequence."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return state


def values(name: str, count: int) -> np.ndarray:
    """`count` f32 values in [-1, 1): splitmix64 of a counter that starts at the name's hash, top 24 bits."""
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)


def named_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A state-dict tensor: convolutions of variance 2 / fan-in, batch-norm scales and variances around 1."""
    count = int(np.prod(shape))
    x = values(name, count)
    if len(shape) == 4:
        fan_in = shape[1] * shape[2] * shape[3]
        x = x * np.float32(np.sqrt(np.float32(6.0) / np.float32(fan_in)))
    elif name.endswith("running_var") or (name.endswith(".weight") and len(shape) == 1):
        x = x * np.float32(0.5) + np.float32(1)
    else:
        x = x * np.float32(0.25)
    return torch.from_numpy(x.reshape(shape))


def named_networks(out: Path) -> None:
    """Pooled features of torchvision's networks over two images."""
    golden = {}
    for name, size in [("resnet18", 65), ("resnet34", 64), ("vgg16", 48)]:
        network = getattr(torchvision.models, name)(weights=None).eval()
        state = network.state_dict()
        for key in state:
            if not key.endswith("num_batches_tracked") and not key.startswith(("fc.", "classifier.")):
                state[key] = named_tensor(key, tuple(state[key].shape))
        network.load_state_dict(state)
        images = torch.from_numpy(values(f"{name} images", 2 * 3 * size * size).reshape(2, size, size, 3))
        x = images.permute(0, 3, 1, 2)
        if name == "vgg16":
            features = network.features(x).mean((2, 3))
        else:
            x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
            features = network.layer4(network.layer3(network.layer2(network.layer1(x)))).mean((2, 3))
        golden[name] = features
    save_file(golden, out / "named.safetensors")


class Stack(nn.Module):
    """Every layer kind: a strided convolution with bias, a grouped and dilated one, a shortcut, each pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, (5, 3), stride=2, padding=(2, 1), bias=True)
        self.stem_norm = nn.BatchNorm2d(12, eps=1e-3)
        self.grouped = nn.Conv2d(12, 18, 3, padding=2, dilation=2, groups=3, bias=False)
        self.grouped_norm = nn.BatchNorm2d(18)
        self.shortcut = nn.Conv2d(12, 18, 1, bias=False)
        self.late_norm = nn.BatchNorm2d(18)
        self.last = nn.Conv2d(18, 20, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem(x))), 3, 2, 1)
        shortcut = self.shortcut(x)
        x = F.relu(self.grouped_norm(self.grouped(x)) + shortcut)
        x = self.late_norm(F.avg_pool2d(x, 2, 1, 1, count_include_pad=False))
        x = F.avg_pool2d(x, 2, 2)
        return self.last(x).mean((2, 3))


STACK_LAYERS = [
    {"op": "conv", "name": "stem", "out_channels": 12, "kernel": [5, 3], "stride": 2, "padding": [2, 1], "bias": True},
    {"op": "batch_norm", "name": "stem_norm", "eps": 1e-3},
    {"op": "relu"},
    {"op": "max_pool", "name": "pooled", "kernel": 3, "stride": 2, "padding": 1},
    {"op": "conv", "name": "shortcut", "out_channels": 18, "kernel": 1},
    {"op": "conv", "name": "grouped", "out_channels": 18, "kernel": 3, "padding": 2, "dilation": 2, "groups": 3,
     "from": "pooled"},
    {"op": "batch_norm", "name": "grouped_norm"},
    {"op": "add", "with": "shortcut"},
    {"op": "relu"},
    {"op": "avg_pool", "kernel": 2, "stride": 1, "padding": 1, "count_include_pad": False},
    {"op": "batch_norm", "name": "late_norm"},
    {"op": "avg_pool", "kernel": 2},
    {"op": "conv", "name": "last", "out_channels": 20, "kernel": 2},
    {"op": "global_avg_pool"},
]

IMAGE = {"height": 21, "width": 26, "resize": "exact", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
BATCH = 5


def stack(generator: torch.Generator) -> tuple[Stack, dict[str, torch.Tensor]]:
    """The network with random weights and batch-norm statistics, and its tensors under the prefix `image.`."""
    network = Stack().eval()
    state = network.state_dict()
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(tensor.shape, generator=generator) * 0.3
        state[key] = 1 + noise.abs() if key.endswith("running_var") else noise
        if tensor.dim() == 4:
            state[key] = noise * 0.7
    network.load_state_dict(state)
    return network, {f"image.{key}": tensor for key, tensor in state.items()}


def head(x: torch.Tensor, layers: list[tuple[torch.Tensor, torch.Tensor | None, str]]) -> torch.Tensor:
    act = {"identity": lambda x: x, "relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
    for weight, bias, activation in layers:
        x = act[activation](F.linear(x, weight, bias))
    return x


def absent(width: int, rows: list[int], data: torch.Tensor) -> torch.Tensor:
    """A tower's outputs spread over the batch: an absent modality brings nothing to a linear layer, as zeros do."""
    out = torch.zeros(BATCH, width)
    out[rows] = data
    return out


def bags_model(out: Path) -> None:
    """F16 and BF16 tables; mean, max and weighted-sum bags; the conv stack; hidden layers; a ranker of one layer."""
    g = torch.Generator().manual_seed(7)
    rand = lambda *shape: torch.randn(*shape, generator=g) * 0.5  # noqa: E731
    network, tensors = stack(g)
    tables = {"text.mean": rand(40, 9).half(), "text.max": rand(40, 16).bfloat16(), "items": rand(30, 33)}
    user = rand(11, 7).half()
    widths = [9, 16, 20, 7, 33]
    layers = [(rand(24, sum(widths)), rand(24), "relu"), (rand(17, 24), None, "tanh"), (rand(13, 17), rand(13), "identity")]
    item_head = [(rand(13, 29), rand(13), "identity")]
    rank_head = [(rand(1, 7 + 33 + 6), rand(1), "sigmoid")]
    over = (rand(6, 20), rand(6))
    tensors |= {f"{name}.weight": table for name, table in tables.items()} | {"user.weight": user}
    for prefix, list_ in [("head", layers), ("item_head", item_head), ("rank_head", rank_head)]:
        for index, (weight, bias, _) in enumerate(list_):
            tensors[f"{prefix}.{index}.weight"] = weight
            if bias is not None:
                tensors[f"{prefix}.{index}.bias"] = bias
    tensors["rank.image.weight"], tensors["rank.image.bias"] = over

    def layer(prefix: str, index: int, bias: bool, activation: str) -> dict:
        spec = {"weight": f"{prefix}.{index}.weight", "activation": activation}
        return spec | ({"bias": f"{prefix}.{index}.bias"} if bias else {})

    image = {"name": "image", "input": "image", "kind": "conv_stack", "prefix": "image.", "layers": STACK_LAYERS}
    mean = {"name": "text", "input": "text", "kind": "embedding_bag", "weight": "text.mean.weight", "pooling": "mean",
            "padding_id": 3}
    items = {"name": "taste", "input": "behaviour", "kind": "embedding_bag", "weight": "clicked", "pooling": "sum"}
    user_tower = {"name": "user", "input": "user", "kind": "embedding", "weight": "user.weight"}
    config = {
        "format_version": 1,
        "inputs": {"text": {"tokenizer": "tokenizer.json", "max_tokens": 16}, "image": IMAGE,
                   "behaviour": {"max_items": 8}},
        "encoders": {
            "query": {"towers": [mean, {"name": "text_max", "input": "text", "kind": "embedding_bag",
                                        "weight": "text.max.weight", "pooling": "max"}, image, user_tower, items],
                      "head": [layer("head", 0, True, "relu"), layer("head", 1, False, "tanh"),
                               layer("head", 2, True, "identity")], "normalize": "l2"},
            "item": {"towers": [mean, image], "head": [layer("item_head", 0, True, "identity")], "normalize": "none"}},
        "ranker": {"query_towers": [user_tower, items],
                   "item_towers": [{"name": "image", "input": "image", "kind": "linear", "weight": "rank.image.weight",
                                    "bias": "rank.image.bias", "over": "image"}],
                   "head": [layer("rank_head", 0, True, "sigmoid")]},
        "rename": {"clicked": "items.weight"}}

    text_ids = torch.tensor([1, 3, 2, 39, 3, 3, 17, 0, 17])
    text_offsets = torch.tensor([0, 4, 6, 6, 9])  # the second bag is all padding, the third is empty
    text_rows = [0, 1, 3, 4]
    item_ids = torch.tensor([29, 0, 5, 5, 12])
    item_weights = rand(5)
    item_offsets, item_rows = torch.tensor([0, 2, 5]), [2, 4]
    user_ids, user_rows = torch.tensor([10, 0, 4]), [0, 2, 4]
    image_rows = [1, 2, 4]
    pixels = rand(3, IMAGE["height"], IMAGE["width"], 3) * 2

    def bag(table: torch.Tensor, ids, offsets, mode: str, weights=None, padding=None) -> torch.Tensor:
        return F.embedding_bag(ids, table.float(), offsets, mode=mode, per_sample_weights=weights,
                               padding_idx=padding, include_last_offset=True)

    mean_out = absent(9, text_rows, bag(tables["text.mean"], text_ids, text_offsets, "mean", padding=3))
    max_out = absent(16, text_rows, bag(tables["text.max"], text_ids, text_offsets, "max"))
    image_data = network(pixels.permute(0, 3, 1, 2))
    image_out = absent(20, image_rows, image_data)
    user_out = absent(7, user_rows, user.float()[user_ids])
    items_out = absent(33, item_rows, bag(tables["items"], item_ids, item_offsets, "sum", weights=item_weights))
    query = F.normalize(head(torch.cat([mean_out, max_out, image_out, user_out, items_out], 1), layers))
    item = head(torch.cat([mean_out, image_out], 1), item_head)
    over_out = absent(6, image_rows, F.linear(image_data, *over))
    pairs = [(row, row) for row in (0, 2, 4)] + [(4, 1)]  # rows that the ranker can read
    rank = head(torch.stack([torch.cat([user_out[q], items_out[q], over_out[i]]) for q, i in pairs]), rank_head)
    golden = {
        "text.ids": text_ids, "text.offsets": text_offsets, "text.rows": torch.tensor(text_rows),
        "behaviour.ids": item_ids, "behaviour.offsets": item_offsets, "behaviour.weights": item_weights,
        "behaviour.rows": torch.tensor(item_rows), "user.ids": user_ids, "user.rows": torch.tensor(user_rows),
        "image.pixels": pixels, "image.rows": torch.tensor(image_rows), "tower.image": image_data,
        "query": query, "item": item, "pairs": torch.tensor(pairs), "rank": rank}
    write(out, config, tensors, golden)


def dense_model(out: Path) -> None:
    """A linear head with bias over dense behaviour, a text sum and a user: the parts of a score; a deep ranker."""
    g = torch.Generator().manual_seed(8)
    rand = lambda *shape: torch.randn(*shape, generator=g) * 0.5  # noqa: E731
    table, user = rand(50, 24), rand(6, 10)
    taste = (rand(15, 12), rand(15))
    query_head, item_head = (rand(31, 24 + 10 + 15), rand(31)), (rand(31, 24), None)
    rank_head = [(rand(8, 24 + 15 + 24), rand(8), "relu"), (rand(1, 8), rand(1), "sigmoid")]
    tensors = {"text.weight": table, "user.weight": user, "taste.weight": taste[0], "taste.bias": taste[1],
               "query_head.weight": query_head[0], "query_head.bias": query_head[1],
               "item_head.weight": item_head[0], "rank.0.weight": rank_head[0][0], "rank.0.bias": rank_head[0][1],
               "rank.1.weight": rank_head[1][0], "rank.1.bias": rank_head[1][1]}
    text = {"name": "text", "input": "text", "kind": "embedding_bag", "weight": "text.weight", "pooling": "sum"}
    taste_tower = {"name": "taste", "input": "behaviour", "kind": "linear", "weight": "taste.weight",
                   "bias": "taste.bias", "activation": "tanh"}
    config = {
        "format_version": 1,
        "inputs": {"text": {"tokenizer": "tokenizer.json", "max_tokens": 16}, "behaviour": {"length": 12}},
        "encoders": {
            "query": {"towers": [text, {"name": "user", "input": "user", "kind": "embedding", "weight": "user.weight"},
                                 taste_tower],
                      "head": [{"weight": "query_head.weight", "bias": "query_head.bias"}], "normalize": "l2"},
            "item": {"towers": [text], "head": [{"weight": "item_head.weight"}], "normalize": "l2"}},
        "ranker": {"query_towers": [text, taste_tower], "item_towers": [text],
                   "head": [{"weight": "rank.0.weight", "bias": "rank.0.bias", "activation": "relu"},
                            {"weight": "rank.1.weight", "bias": "rank.1.bias", "activation": "sigmoid"}]}}
    ids, offsets = torch.tensor([4, 49, 0, 7, 7, 23]), torch.tensor([0, 1, 3, 6])
    text_rows, user_rows, taste_rows = [0, 1, 4], [1, 2], [1, 3, 4]
    user_ids, behaviour = torch.tensor([5, 0]), rand(3, 12) * 2
    item_ids, item_offsets = torch.tensor([1, 2, 3, 4, 5, 6, 7, 48]), torch.tensor([0, 2, 3, 5, 8])

    def bag(ids, offsets):
        return F.embedding_bag(ids, table, offsets, mode="sum", include_last_offset=True)

    segments = {"text": absent(24, text_rows, bag(ids, offsets)), "user": absent(10, user_rows, user[user_ids]),
                "behaviour": absent(15, taste_rows, torch.tanh(F.linear(behaviour, *taste)))}
    columns = torch.split(query_head[0], [24, 10, 15], 1)
    raw = head(torch.cat(list(segments.values()), 1), [(*query_head, "identity")])
    query = F.normalize(raw)
    items = F.normalize(F.linear(bag(item_ids, item_offsets), item_head[0]))
    norm = raw.norm(dim=1)[:, None]
    parts = {f"parts.{name}": (x @ w.T) @ items.T / norm for (name, x), w in zip(segments.items(), columns)}
    item_text = bag(item_ids, item_offsets)
    pairs = [(row, item) for row in (0, 1, 3, 4) for item in range(4)]
    rank = head(torch.stack([torch.cat([segments["text"][q], segments["behaviour"][q], item_text[i]]) for q, i in pairs]),
                rank_head)
    golden = {"text.ids": ids, "text.offsets": offsets, "text.rows": torch.tensor(text_rows), "user.ids": user_ids,
              "user.rows": torch.tensor(user_rows), "behaviour.values": behaviour,
              "behaviour.rows": torch.tensor(taste_rows), "items.ids": item_ids, "items.offsets": item_offsets,
              "query": query, "item": items, "scores": query @ items.T,
              "parts.bias": (query_head[1] @ items.T) / norm, "pairs": torch.tensor(pairs), "rank": rank} | parts
    write(out, config, tensors, golden)


def write(out: Path, config: dict, tensors: dict, golden: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "model.safetensors")
    golden = {name: (t.to(torch.int64) if not t.is_floating_point() else t).contiguous() for name, t in golden.items()}
    save_file(golden, out / "golden.safetensors")


def tokenizer(path: Path) -> None:
    """The folders' inputs are ready-made tensors; the tokenizer is only there to be opened."""
    words = {"[UNK]": 0} | {f"w{i}": i for i in range(1, 40)}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"}
    path.write_text(json.dumps({"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
                                "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
                                "decoder": None, "model": model}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.use_deterministic_algorithms(True)
    with torch.no_grad():
        bags_model(out / "bags")
        dense_model(out / "dense")
        for folder in ("bags", "dense"):
            tokenizer(out / folder / "tokenizer.json")
        named_networks(out)


if __name__ == "__main__":
    main()
