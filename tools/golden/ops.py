"""Golden tensors of the CPU ops, computed by PyTorch in f32: tests/golden/ops.safetensors.

Each case is `kind/name/...`: the inputs, the weights and the expected `output`, with the op's parameters as int64
tensors. Images are stored NHWC, weights as PyTorch has them. Run: python tools/golden/ops.py
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUTPUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "ops.safetensors"

tensors = {}


def put(case, **values):
    for key, value in values.items():
        value = value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.int64)
        tensors[f"{case}/{key}"] = value.contiguous().clone()


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def conv(name, size, channels, kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, bias=True):
    batch, inputs, outputs = channels
    x = torch.randn(batch, inputs, *size)
    weight = torch.randn(outputs, inputs // groups, *kernel)
    b = torch.randn(outputs) if bias else None
    y = F.conv2d(x, weight, b, stride, padding, dilation, groups)
    put(f"conv/{name}", input=nhwc(x), weight=weight, output=nhwc(y), groups=[groups])
    put(f"conv/{name}", stride=list(stride), padding=list(padding), dilation=list(dilation))
    if bias:
        put(f"conv/{name}", bias=b)


def batch_norm(name):
    x, weight = torch.randn(2, 3, 5, 4), torch.randn(6, 3, 3, 3)
    norm = torch.nn.BatchNorm2d(6, eps=1e-3)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.normal_()
        norm.running_var.uniform_(0.1, 2)
    y = norm.eval()(F.conv2d(x, weight, padding=1)).detach()
    put(f"batch_norm/{name}", input=nhwc(x), weight=weight, output=nhwc(y))
    put(f"batch_norm/{name}", gamma=norm.weight.detach(), beta=norm.bias.detach())
    put(f"batch_norm/{name}", mean=norm.running_mean, variance=norm.running_var)


def pool(name, kind, size, channels, kernel, stride, padding, count_include_pad=True):
    x = torch.randn(2, channels, *size)
    if kind == "max":
        y = F.max_pool2d(x, kernel, stride, padding)
    else:
        y = F.avg_pool2d(x, kernel, stride, padding, count_include_pad=count_include_pad)
    put(f"pool/{name}", input=nhwc(x), output=nhwc(y), is_max=[int(kind == "max")])
    put(f"pool/{name}", kernel=list(kernel), stride=list(stride), padding=list(padding))
    put(f"pool/{name}", count_include_pad=[int(count_include_pad)])


def global_average(name):
    x = torch.randn(2, 5, 7, 9)
    put(f"global_average/{name}", input=nhwc(x), output=F.adaptive_avg_pool2d(x, 1).flatten(1))


def bag(name, mode, width, lengths, weighted=False, padding_id=None, dtype=torch.float32):
    table = torch.randn(11, width).to(dtype)
    ids = torch.randint(0, 11, (sum(lengths),))
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    weights = torch.randn(len(ids)) if weighted else None
    y = F.embedding_bag(ids, table.float(), offsets, mode=mode, per_sample_weights=weights,
                        include_last_offset=True, padding_idx=padding_id)
    put(f"bag/{name}", table=table, ids=ids, offsets=offsets, output=y, mode=[["sum", "mean", "max"].index(mode)])
    if weighted:
        put(f"bag/{name}", weights=weights)
    if padding_id is not None:
        put(f"bag/{name}", padding_id=[padding_id])


def linear(name, rows, inputs, outputs, bias, activation):
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs) / inputs**0.5
    b = torch.randn(outputs) if bias else None
    functions = [lambda y: y, torch.relu, torch.sigmoid, torch.tanh]
    y = functions[activation](F.linear(x, weight, b))
    put(f"linear/{name}", input=x, weight=weight, output=y, activation=[activation])
    if bias:
        put(f"linear/{name}", bias=b)


def main():
    torch.manual_seed(20)
    torch.set_num_threads(1)
    conv("plain", (6, 5), (2, 3, 4), (3, 3), padding=(1, 1))
    conv("no_bias", (6, 5), (1, 5, 33), (3, 3), bias=False)
    conv("stem", (19, 17), (1, 3, 9), (7, 7), stride=(2, 2), padding=(3, 3))
    conv("oblong", (7, 9), (1, 4, 5), (2, 5), stride=(3, 1), padding=(1, 2))
    conv("dilated", (9, 11), (1, 4, 5), (3, 2), padding=(2, 3), dilation=(2, 3))
    conv("grouped", (5, 6), (2, 6, 9), (3, 3), padding=(1, 0), groups=3)
    conv("depthwise", (5, 6), (2, 7, 7), (3, 3), stride=(1, 2), padding=(1, 1), groups=7)
    conv("multiplier", (5, 6), (1, 3, 6), (3, 3), padding=(2, 2), groups=3)
    conv("pointwise", (3, 4), (2, 17, 34), (1, 1), stride=(2, 1))
    batch_norm("folded")
    pool("max", "max", (8, 7), 5, (3, 3), (2, 2), (1, 1))
    pool("max_gaps", "max", (9, 8), 3, (2, 1), (3, 2), (1, 0))
    pool("average", "average", (8, 7), 5, (3, 2), (2, 1), (1, 1))
    pool("average_inside", "average", (8, 7), 5, (3, 2), (2, 1), (1, 1), count_include_pad=False)
    global_average("plain")
    lengths = [3, 0, 1, 9, 0]
    for mode in ("sum", "mean", "max"):
        bag(mode, mode, 6, lengths)
        bag(f"{mode}_padding", mode, 33, lengths, padding_id=4)
    bag("weighted", "sum", 7, lengths, weighted=True)
    bag("weighted_padding", "sum", 7, lengths, weighted=True, padding_id=0)
    bag("half", "mean", 9, lengths, dtype=torch.float16)
    bag("bfloat", "sum", 9, lengths, dtype=torch.bfloat16)
    for activation in range(4):
        linear(f"activation_{activation}", 5, 33 + activation, 35, activation % 2 == 0, activation)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(tensors.items())), OUTPUT)
    print(f"{OUTPUT}: {len(tensors)} tensors, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
