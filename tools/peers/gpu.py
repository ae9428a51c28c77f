"""PyTorch on the shapes that the CUDA benches timed, on the same card.

    MERCER_BENCH_JSON=ours.jsonl cargo bench --features cuda
    python tools/peers/gpu.py --cases ours.jsonl --out torch.jsonl

Reads the shapes from the benches' own lines, so that there is one list of them. Times with device events, from a cold L2
(a buffer larger than it is overwritten before every run, which also hides the time to launch), and reports medians.
Eager PyTorch: a peer of several operators is several kernels, as a model in PyTorch has them. TF32 is off. First come the
card's limits: a large copy (bytes read and written) and large matrix products of random values, by dtype.

`--device cpu` times PyTorch on the processor, to try the script where there is no card.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Device:
    """Where the work runs, and how it is timed."""

    def __init__(self, name, quick):
        self.name = name
        self.quick = quick
        self.flush = self.empty(64 << 10 if self.is_cpu else 256 << 20, torch.int8)

    @property
    def is_cpu(self):
        return self.name == "cpu"

    def empty(self, shape, dtype):
        return torch.empty(shape, dtype=dtype, device=self.name)

    def noise(self, *shape, dtype=torch.float32):
        return self.empty(shape, dtype).uniform_(-1, 1)

    def images(self, batch, channels, side, dtype):
        # [batch, channels, side, side] in NHWC order
        return self.noise(batch, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)

    def once(self, work):
        """Milliseconds of one run."""
        self.flush.fill_(0x55)
        if self.is_cpu:
            start = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - start)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def time(self, work):
        """Median milliseconds, over about 0.3 seconds and at least ten runs."""
        for _ in range(3):
            work()
        budget, least = (0.02, 3) if self.quick else (0.3, 10)
        times, start = [], time.perf_counter()
        while len(times) < least or time.perf_counter() - start < budget:
            times.append(self.once(work))
        return statistics.median(times)


def limits(device):
    """The card's copy bandwidth and matrix rates."""
    size = 1 << (20 if device.is_cpu else 30)
    source = device.noise(size // 4)
    target = torch.empty_like(source)
    copy = 2 * size / device.time(lambda: target.copy_(source)) / 1e6
    del source, target
    rates = {}
    for dtype, side in {"f32": 4096, "f16": 8192, "bf16": 8192}.items():
        side = 256 if device.is_cpu else side
        a, b = (device.noise(side, side, dtype=DTYPES[dtype]) for _ in range(2))
        rates[dtype] = 2 * side**3 / device.time(lambda a=a, b=b: a @ b) / 1e9
    return {"copy_gb_per_s": copy, "matrix_tflop_per_s": rates}


def embedding(device, dtype, shape):
    table = device.noise(shape["table_rows"], shape["width"], dtype=dtype)
    ids = torch.randint(shape["table_rows"], (shape["ids"],), device=device.name)
    if shape["per_bag"] == 1:
        return lambda: F.embedding(ids, table)
    offsets = torch.arange(0, shape["ids"], shape["per_bag"], device=device.name)
    return lambda: F.embedding_bag(ids, table, offsets, mode="sum")


def conv(device, dtype, shape):
    """With bias and ReLU, as the bench has them."""
    images = device.images(shape["batch"], shape["in_channels"], shape["side"], dtype)
    kernel = shape["kernel"]
    weight = device.noise(shape["out_channels"], shape["in_channels"], kernel, kernel, dtype=dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    bias = device.noise(shape["out_channels"], dtype=dtype)
    stride, padding = shape["stride"], shape["padding"]
    return lambda: F.relu_(F.conv2d(images, weight, bias, stride, padding))


def pool(device, dtype, shape):
    images = device.images(shape["batch"], shape["channels"], shape["side"], dtype)
    window = (shape["kernel"], shape["stride"], shape["padding"])
    if shape["kind"] == "max":
        return lambda: F.max_pool2d(images, *window)
    if shape["kernel"] == shape["side"]:
        return lambda: F.adaptive_avg_pool2d(images, 1)
    return lambda: F.avg_pool2d(images, *window)


def head(device, dtype, shape):
    segments = [device.noise(shape["batch"], width, dtype=dtype) for width in shape["widths"]]
    weight = device.noise(shape["outputs"], sum(shape["widths"]), dtype=dtype)
    return lambda: F.normalize(F.linear(torch.cat(segments, 1), weight).float())


def topk(device, dtype, shape):
    rows = device.noise(shape["rows"], shape["dim"], dtype=dtype)
    queries = device.noise(shape["batch"], shape["dim"], dtype=dtype)
    return lambda: torch.topk(queries @ rows.T, min(shape["k"], shape["rows"]))


PEERS = {"embedding": embedding, "conv": conv, "pool": pool, "head": head, "topk": topk}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="what the benches wrote")
    parser.add_argument("--out", type=Path, required=True, help="gets a line of JSON for the limits and for each case")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="few runs of each")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py: this PyTorch has no card; --device cpu tries the script without one")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(1)
    device = Device(options.device, options.quick)
    name = "cpu" if device.is_cpu else torch.cuda.get_device_name()
    with options.out.open("w") as out, torch.inference_mode():

        def write(record):
            print(json.dumps(record), file=out, flush=True)

        write({"op": "limits", "torch": torch.__version__, "device": name, **limits(device)})
        for case in map(json.loads, options.cases.read_text().splitlines()):
            if case["op"] not in PEERS:
                continue
            what = {key: case[key] for key in ("op", "name", "dtype")}
            try:
                work = PEERS[case["op"]](device, DTYPES[case["dtype"]], case["shape"])
                what["median_ms"] = device.time(work)
            except (RuntimeError, NotImplementedError) as error:
                what["error"] = str(error).splitlines()[0]
            write(what)
            print(*what.values(), flush=True)


if __name__ == "__main__":
    main()
