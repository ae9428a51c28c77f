"""Measures the shipped files and writes `weights/demo/README.md` from them."""

from pathlib import Path

import numpy as np

import evaluate
import export
import rank
from data import Shop, load, read_lines
from lexicon import CATEGORIES, COLORS

TEMPLATE = """# Demo model and catalogue

**Everything here is synthetic.** The shop, its products, pictures, users and clicks are made up by the scripts in
`tools/demo`; no real product, person or brand is in it. It exists so that `mercer` can be tried and tested without
downloading anything, and its figures say nothing about real shops.

{products} products ({categories} categories, {colors} colours, with pattern, material, style, price level and price),
each with a drawn 64 x 64 picture and a Chinese and English title; {training_users} users with a log to train on and
{held_users} held-out ones.

| File | What it is |
|---|---|
| `config.json`, `model.safetensors`, `tokenizer.json` | the model: query and item encoders ({dim} values), a ranker |
| `catalogue.jsonl`, `images/` | the products; `held_out` ones were never seen in training |
| `queries.jsonl`, `photos/` | held-out questions with their right answers, and labelled pairs for the ranker |
| `interactions.jsonl` | per user, the ids of the products clicked: the `past` (training knows that of users who are not held out) and the `future` |
| `golden.jsonl`, `golden.safetensors` | PyTorch's exact outputs for some requests, products and pairs |

A user's number is the row of the model's user table; held-out users have none and are served by their behaviour
vector: {fields}, as `log(1 + 10 x share)` of the user's past clicks ({behaviour} values).

## Make it again

    pip install -r tools/demo/requirements.txt
    python tools/demo/make.py

Seeded: on the same machine and versions it gives the same files. `python tools/demo/make.py --help` lists the steps.

## What was measured

On the files as shipped (weights rounded to F16, then computed in f32), over the whole catalogue;
`python tools/demo/make.py report` measures again and `mercer eval` asks the same questions of the engine:

    cargo run --release -- eval --model weights/demo --catalogue weights/demo/catalogue.jsonl \\
        --queries weights/demo/queries.jsonl

A product is a right answer if it has the category and colour asked for (and, for a fabric close-up, the pattern); for
users, if it is among the clicks to come. Text queries use phrases or pairs of category and colour that training never
used, pictures show products that it never saw. recall@10 is the share of all right answers that are in the first ten,
hit@10 the share of queries with at least one of them there. Settings were chosen while watching these same figures.

{retrieval}

text+image asks either for the thing in the photo in another colour ("recolour": photo plus a colour in words) or for a
named thing in the fabric of a close-up ("swatch"). text+user names a kind of thing; right are those that this user
clicked later. "alone" gives the same questions with one half missing. Popularity ranks by the number of clicks in training; true tastes rank by the utilities that the clicks were drawn from, which no
model can know.

The ranker, on clicks that training never saw and as many products that the same users did not click (half of those in
the same category):

{ranker}

The ranker's hidden layer is what lets it relate a request to a product: one linear layer over the concatenation adds
the same to every product of a request, so it can only rank by products. `make.py train` trains that one too and prints
its figures, which stay close to chance.
"""


def main(folder: Path) -> None:
    """Measures and writes."""
    shop: Shop = load(folder)
    model = export.load(folder)
    lines = read_lines(folder / "queries.jsonl")
    figures = evaluate.retrieval(model, shop, evaluate.load(shop, lines, folder), baselines=True)
    pairs = [line for line in lines if "label" in line]
    features = rank.Features(model, shop)

    def classify(chosen: list[dict]) -> dict[str, float]:
        return evaluate.classification(
            rank.probabilities(model.ranker, features, chosen), np.array([p["label"] for p in chosen])
        )

    ranked = {"all pairs": classify(pairs)}
    for label, field in (("known users", "user"), ("held-out users", "behaviour"), ("with a search text", "text")):
        ranked[label] = classify([pair for pair in pairs if field in pair])
    held = sum(user["held_out"] for user in shop.users)
    print(evaluate.table(figures), evaluate.table(ranked), sep="\n\n", flush=True)
    (folder / "README.md").write_text(
        TEMPLATE.format(
            products=f"{len(shop.products):,}",
            categories=len(CATEGORIES),
            colors=len(COLORS),
            training_users=len(shop.users) - held,
            held_users=held,
            dim=model.item_head.out_features,
            fields="category, colour, style and price level",
            behaviour=model.taste.in_features,
            retrieval=evaluate.table(figures),
            ranker=evaluate.table(ranked),
        ),
        encoding="utf-8",
    )
