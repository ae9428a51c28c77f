"""Held-out questions with their right answers: `queries.jsonl`, and the pictures in `photos/`.

Photos show products that training never saw. Text uses unseen frames or unseen (category, colour) pairs. Users are
asked for what they clicked after the past that training and the behaviour vector know.
"""

import random
from pathlib import Path

import numpy as np
from PIL import Image

import draw
import text
from data import SEED, Shop, fabric, png
from users import TRAINING_USERS, behaviour

TEXT, IMAGE, RECOLOR, SWATCH, USER, BEHAVIOUR, PERSONAL, PAIRS = 300, 300, 110, 70, 150, 120, 120, 1200


class PictureWriter:
    """Writes query pictures and remembers their paths: small PNGs, some larger and not square, some JPEGs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.count = 0
        (folder / "photos").mkdir(parents=True, exist_ok=True)

    def size(self) -> tuple[int, int]:
        """Every eighth picture is larger and not square."""
        return {3: (120, 90), 7: (90, 120)}.get(self.count % 16, (draw.SIDE, draw.SIDE))

    def add(self, image: Image.Image) -> str:
        """The path of the written picture, relative to the folder."""
        self.count += 1
        is_jpeg = self.count % 20 == 0
        path = f"photos/{self.count:03}.{'jpg' if is_jpeg else 'png'}"
        if is_jpeg:
            image.save(self.folder / path, "JPEG", quality=88)
        else:
            colors = image.quantize(64, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            (self.folder / path).write_bytes(png(colors))
        return path


def make(shop: Shop, folder: Path) -> list[dict]:
    """All evaluation queries; paths of pictures are relative to `folder`."""
    rng = random.Random(SEED + 3)
    pictures = PictureWriter(folder)
    queries = [_text(rng, shop) for _ in range(TEXT)]
    for _ in range(IMAGE):
        product = shop.products[rng.choice(shop.held_rows)]
        path = pictures.add(draw.photo(product, rng.getrandbits(32), pictures.size()))
        queries.append({"image": path, "match": {key: product[key] for key in ("category", "color")}})
    queries += [_recolor(rng, shop, pictures) for _ in range(RECOLOR)]
    queries += [_swatch(rng, shop, pictures) for _ in range(SWATCH)]
    for number in range(USER):
        queries.append({"user": number, "relevant": _future(shop, number)})
    for number in range(TRAINING_USERS, TRAINING_USERS + BEHAVIOUR):
        queries.append({"behaviour": history(shop, number), "relevant": _future(shop, number)})
    return queries + _pairs(rng, shop) + [_personal(rng, shop, number) for number in range(PERSONAL)]


def _text(rng: random.Random, shop: Shop) -> dict:
    """Names category and colour at least; half in an unseen pair, half in an unseen frame."""
    if rng.random() < 0.5:
        category, color = rng.choice(sorted(shop.held_pairs))
        product, unseen_frame = shop.products[rng.choice(shop.find(category=category, color=color))], False
    else:
        product, unseen_frame = rng.choice(shop.products), True
    extra = [name for name in text.some_attributes(rng) if name not in ("category", "color")]
    query = text.phrase(rng, product, ["category", "color"] + extra, unseen_frame)
    return {"text": query, "match": {key: product[key] for key in ("category", "color")}}


def _recolor(rng: random.Random, shop: Shop, pictures: PictureWriter) -> dict:
    """A photo of the right thing in the wrong colour, and the colour in words."""
    product = shop.products[rng.choice(shop.held_rows)]
    color = rng.choice([c for c in draw.RGB if c != product["color"]])
    path = pictures.add(draw.photo(product, rng.getrandbits(32), pictures.size()))
    return {
        "text": text.recolor_phrase(rng, color),
        "image": path,
        "match": {"category": product["category"], "color": color},
    }


def _swatch(rng: random.Random, shop: Shop, pictures: PictureWriter) -> dict:
    """A close-up of a fabric, and in words what it should be."""
    product = shop.products[rng.choice([row for row in shop.held_rows if shop.products[row]["pattern"] != "two_tone"])]
    path = pictures.add(draw.swatch(fabric(product["color"], product["pattern"], rng), rng.getrandbits(32)))
    return {
        "text": text.phrase(rng, product, ["category"]),
        "image": path,
        "match": {key: product[key] for key in ("category", "color", "pattern")},
    }


def past(shop: Shop, number: int) -> np.ndarray:
    """Rows that a user clicked first."""
    user = shop.users[number]
    return user["log"][: user["past"]]


def history(shop: Shop, number: int) -> list[float]:
    """The behaviour vector of a user's past."""
    return [round(float(x), 4) for x in behaviour(past(shop, number), shop.attributes)]


def _future(shop: Shop, number: int) -> list[int]:
    user = shop.users[number]
    return sorted(shop.products[row]["id"] for row in user["log"][user["past"] :])


def negative(rng: random.Random, shop: Shop, number: int, row: int, rows) -> int:
    """A product that the user did not click: any, or one of the same category as `row`."""
    clicked = set(shop.users[number]["log"].tolist())
    hard = rng.random() < 0.5
    while True:
        other = int(rng.choice(rows))
        if other not in clicked and (
            not hard or shop.attributes["category"][other] == shop.attributes["category"][row]
        ):
            return other


def _pairs(rng: random.Random, shop: Shop) -> list[dict]:
    """Clicked and not clicked products for the ranker, of known users and of held-out ones, half with a search text."""
    pairs = []
    for at in range(PAIRS // 2):
        known = at % 2 == 0
        number = rng.randrange(TRAINING_USERS) if known else rng.randrange(TRAINING_USERS, len(shop.users))
        user = shop.users[number]
        row = int(rng.choice(user["log"][user["past"] :]))
        query: dict = {"user": number} if known else {"behaviour": history(shop, number)}
        if rng.random() < 0.5:
            query["text"] = text.phrase(rng, shop.products[row], ["category"])
        for item, label in ((row, 1), (negative(rng, shop, number, row, range(len(shop.products))), 0)):
            pairs.append(query | {"item": shop.products[item]["id"], "label": label})
    return pairs


def _personal(rng: random.Random, shop: Shop, number: int) -> dict:
    """A user names a kind of thing; right are the ones of it that this user clicked later."""
    future = [shop.products[row] for row in shop.users[number]["log"][shop.users[number]["past"] :]]
    product = rng.choice(future)
    relevant = sorted(other["id"] for other in future if other["category"] == product["category"])
    return {"text": text.phrase(rng, product, ["category"]), "user": number, "relevant": relevant}
