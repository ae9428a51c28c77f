"""Makes everything in `weights/demo`: `python tools/demo/make.py`, or some steps of it, in this order:

    data     products, pictures, tokenizer, users; held-out queries and their photos
    train    encoders and ranker; writes the model
    report   measures the written model, writes README.md
    golden   PyTorch's exact outputs for the engine's tests

Each step reads what the steps before it wrote.
"""

import argparse
import shutil
import time
from pathlib import Path

import torch

import data
import evaluate
import export
import golden
import queries
import rank
import report
import train

FOLDER = Path(__file__).resolve().parents[2] / "weights" / "demo"


def make_data(folder: Path) -> None:
    """Draws and writes the shop and the questions."""
    for name in ("images", "photos"):
        shutil.rmtree(folder / name, ignore_errors=True)
    data.build(folder)
    data.write_lines(folder / "queries.jsonl", queries.make(data.load(folder), folder))


def make_model(folder: Path) -> None:
    """Trains and exports. A ranker without a hidden layer is trained too, to show what the hidden layer is for."""
    shop = data.load(folder)
    lines = data.read_lines(folder / "queries.jsonl")
    photos = data.draw_photos(shop)
    model = train.train(shop, photos, evaluate.load(shop, lines, folder))
    pairs = [line for line in lines if "label" in line]
    print("ranker with one linear layer (not kept):")
    rank.train(model, shop, pairs, hidden=0)
    print("ranker with a hidden layer:")
    model.ranker = rank.train(model, shop, pairs)
    export.save(model, folder)


STEPS = {"data": make_data, "train": make_model, "report": report.main, "golden": golden.make}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "steps", nargs="*", metavar="step", help=f"any of {', '.join(STEPS)}; all of them if none is named"
    )
    parser.add_argument("--output", type=Path, default=FOLDER, help="default: weights/demo")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; the last bits depend on it")
    arguments = parser.parse_args()
    unknown = [step for step in arguments.steps if step not in STEPS]
    if unknown:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    for name, step in STEPS.items():
        if not arguments.steps or name in arguments.steps:
            start = time.time()
            print(f"== {name}", flush=True)
            step(arguments.output)
            print(f"== {name}: {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
