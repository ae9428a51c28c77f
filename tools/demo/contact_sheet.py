"""Lays pictures out in a grid, to look at them: `python contact_sheet.py OUT.png`."""

import random
import sys

from PIL import Image

import catalogue
import draw
import lexicon
from data import SEED


def main(path: str) -> None:
    """Seven shop pictures, two photos and a swatch of every category, one row each, two categories side by side."""
    rng = random.Random(5)
    products = catalogue.make(SEED)
    cell, columns = 68, 10
    names = list(lexicon.CATEGORIES)
    sheet = Image.new("RGB", (cell * columns * 2, cell * ((len(names) + 1) // 2)), "white")
    for at, name in enumerate(names):
        chosen = rng.sample([p for p in products if p["category"] == name], columns)
        images = [draw.catalogue_image(p, rng.getrandbits(32)) for p in chosen[:7]]
        images += [draw.photo(p, rng.getrandbits(32)) for p in chosen[7:9]] + [
            draw.swatch(chosen[9], rng.getrandbits(32))
        ]
        for column, image in enumerate(images):
            sheet.paste(image.convert("RGB"), (((at % 2) * columns + column) * cell, at // 2 * cell))
    sheet.save(path)


if __name__ == "__main__":
    main(sys.argv[1])
