"""Held-out figures: retrieval over the whole catalogue by modality, and the ranker's classification figures."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data import Shop, pixels, preprocess
from model import IMAGE_WIDTH, TASTE_WIDTH, USER_WIDTH, Bags, Model

MODALITIES = ("text", "image", "user", "behaviour")


@dataclass
class Questions:
    """The retrieval lines of `queries.jsonl` with their pictures loaded and their answers as a matrix."""

    lines: list[dict]
    pictures: dict[str, np.ndarray]  # path -> [64, 64, 3] uint8
    relevant: np.ndarray  # [lines, products] bool


def load(shop: Shop, lines: list[dict], folder: Path) -> Questions:
    """Keeps the retrieval lines, reads their pictures, finds the products that answer them."""
    lines = [line for line in lines if "label" not in line]
    row_of = {product["id"]: row for row, product in enumerate(shop.products)}
    relevant = np.zeros((len(lines), len(shop.products)), dtype=bool)
    for at, line in enumerate(lines):
        rows = shop.find(**line["match"]) if "match" in line else [row_of[i] for i in line["relevant"]]
        relevant[at, rows] = True
    pictures = {line["image"]: preprocess(Image.open(folder / line["image"])) for line in lines if "image" in line}
    return Questions(lines, pictures, relevant)


def kind(line: dict) -> str:
    """The modalities of a query, as `text+image`."""
    return "+".join(name for name in MODALITIES if name in line)


def in_batches(model: Model, images: np.ndarray) -> torch.Tensor:
    """Image tower over many pictures."""
    return torch.cat([model.image(pixels(images[at : at + 256])) for at in range(0, len(images), 256)])


def encode_items(model: Model, shop: Shop) -> torch.Tensor:
    """Vectors of the whole catalogue, `[products, dim]`."""
    return model.item(model.texts(Bags(shop.item_tokens), len(shop.products)), in_batches(model, shop.images))


def encode_queries(model: Model, shop: Shop, lines: list[dict], pictures: dict[str, np.ndarray]) -> torch.Tensor:
    """Vectors of query lines, `[lines, dim]`."""
    count = len(lines)
    have = {
        name: torch.tensor([at for at, line in enumerate(lines) if name in line], dtype=torch.long)
        for name in MODALITIES
    }
    image, user, taste = (
        torch.zeros(count, IMAGE_WIDTH),
        torch.zeros(count, USER_WIDTH),
        torch.zeros(count, TASTE_WIDTH),
    )
    if len(have["image"]):
        image[have["image"]] = in_batches(model, np.stack([pictures[lines[at]["image"]] for at in have["image"]]))
    if len(have["user"]):
        user[have["user"]] = model.user(torch.tensor([lines[at]["user"] for at in have["user"]]))
    if len(have["behaviour"]):
        taste[have["behaviour"]] = model.taste(torch.tensor([lines[at]["behaviour"] for at in have["behaviour"]]))
    words = model.texts(Bags([shop.tokens(line["text"]) if "text" in line else None for line in lines]), count)
    return model.query(words, image, user, taste)


def _figures(scores: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """rank-1 accuracy, recall@10, the share of queries with an answer in the first ten, and MRR."""
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, 1)
    return {
        "queries": len(scores),
        "rank1": hits[:, 0].mean(),
        "recall@10": (hits[:, :10].sum(1) / relevant.sum(1)).mean(),
        "hit@10": hits[:, :10].any(1).mean(),
        "mrr": (1 / (hits.argmax(1) + 1)).mean(),
    }


@torch.no_grad()
def retrieval(model: Model, shop: Shop, questions: Questions, baselines: bool = False) -> dict[str, dict[str, float]]:
    """Figures by modality. `baselines` adds popularity, the true tastes, and each half of text+image alone."""
    model.eval()
    items = encode_items(model, shop)
    kinds = np.array([kind(line) for line in questions.lines])

    def figures(lines: list[dict], relevant: np.ndarray) -> dict[str, float]:
        return _figures((encode_queries(model, shop, lines, questions.pictures) @ items.T).numpy(), relevant)

    out = {}
    for name in dict.fromkeys(kinds):
        chosen = np.flatnonzero(kinds == name)
        lines, relevant = [questions.lines[at] for at in chosen], questions.relevant[chosen]
        out[name] = figures(lines, relevant)
        if baselines and "+" in name:
            for part in name.split("+"):
                out[f"{name}: {part} alone"] = figures([{part: line[part]} for line in lines], relevant)
        if baselines and name == "text+image":
            for label, swatch in (("recolour", False), ("swatch", True)):
                half = np.array([("pattern" in line["match"]) == swatch for line in lines])
                out[f"{name}: {label}"] = figures([line for line, keep in zip(lines, half) if keep], relevant[half])
        if baselines and name in ("user", "behaviour"):
            out[f"{name}: popularity"] = _figures(np.tile(popularity(shop), (len(lines), 1)), relevant)
            start = 0 if name == "user" else sum(not user["held_out"] for user in shop.users)
            best = np.stack([shop.users[start + at]["utility"] for at in range(len(lines))])
            out[f"{name}: true tastes"] = _figures(best, relevant)
    return out


def popularity(shop: Shop) -> np.ndarray:
    """Clicks per product in the past of the training users."""
    counts = np.zeros(len(shop.products))
    for user in shop.users:
        if not user["held_out"]:
            counts[user["log"][: user["past"]]] += 1
    return counts


def classification(probability: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Accuracy, precision and recall at 0.5, and AUC."""
    said, true = probability >= 0.5, label == 1
    order = np.argsort(probability, kind="stable")
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    positives, negatives = true.sum(), (~true).sum()
    return {
        "pairs": len(label),
        "accuracy": (said == true).mean(),
        "precision": (said & true).sum() / max(1, said.sum()),
        "recall": (said & true).sum() / positives,
        "auc": (ranks[true].sum() - positives * (positives + 1) / 2) / (positives * negatives),
    }


def line(figures: dict[str, dict[str, float]]) -> str:
    """One line of rank-1 accuracy and recall@10."""
    return (
        "  ".join(f"{name} {f['rank1']:.3f}/{f['recall@10']:.3f}" for name, f in figures.items())
        + "  (rank 1/recall@10)"
    )


def table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    names = list(next(iter(figures.values())))
    rows = [
        f"| {label} | "
        + " | ".join(f"{int(f[n])}" if n in ("queries", "pairs") else f"{f[n]:.3f}" for n in names)
        + " |"
        for label, f in figures.items()
    ]
    return "\n".join(["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names), *rows])
