"""The shop on disk and in memory: products, pictures, tokenizer, users, and the photos that training draws anew."""

import io
import json
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

import catalogue
import draw
import text
import users
from lexicon import ATTRIBUTES, VALUES

SEED = 20_24
PHOTOS_PER_PRODUCT = 4
SWATCHES_PER_FABRIC = 10
PHOTO_SIZES = [(64, 64)] * 5 + [(120, 90), (90, 120), (96, 96)]
MAX_TOKENS = 48
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
WORKERS = 2


@dataclass
class Shop:
    """Everything that training and evaluation read. Rows are positions in `products`."""

    products: list[dict]
    attributes: dict[str, np.ndarray]  # attribute -> value number of every product
    table: np.ndarray  # the same as one array [products, attributes]
    images: np.ndarray  # [products, 64, 64, 3] uint8, decoded from the files that are shipped
    tokenizer: Tokenizer
    item_tokens: list[list[int]]
    train_rows: np.ndarray
    held_rows: np.ndarray
    users: list[dict]
    held_pairs: set[tuple[str, str]]

    def tokens(self, query: str) -> list[int]:
        """Token ids, cut as `truncation: keep_first` cuts them."""
        return self.tokenizer.encode(query, add_special_tokens=False).ids[:MAX_TOKENS]

    def find(self, **values: str) -> np.ndarray:
        """Rows of the products that have these attribute values."""
        mask = np.ones(len(self.products), dtype=bool)
        for name, value in values.items():
            mask &= self.attributes[name] == VALUES[name].index(value)
        return np.flatnonzero(mask)


@dataclass
class Photos:
    """Pictures that only training sees, 64 x 64 uint8."""

    products: np.ndarray  # [training products, PHOTOS_PER_PRODUCT, 64, 64, 3], in the order of `Shop.train_rows`
    fabrics: np.ndarray  # [colours, patterns, SWATCHES_PER_FABRIC, 64, 64, 3]


def preprocess(image: Image.Image) -> np.ndarray:
    """`resize: exact`, bilinear, as the engine does: `[64, 64, 3]` uint8."""
    image = image.convert("RGB")
    if image.size != (draw.SIDE, draw.SIDE):
        image = image.resize((draw.SIDE, draw.SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image)


def pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 `[n, height, width, 3]` to normalised `[n, 3, height, width]`."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def png(image: Image.Image) -> bytes:
    """The bytes of an optimised PNG."""
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def write_lines(path: Path, lines: list[dict]) -> None:
    """JSON lines, UTF-8, one object each."""
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def read_lines(path: Path) -> list[dict]:
    """What `write_lines` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _draw_product(job: tuple[dict, int]) -> bytes:
    return png(draw.catalogue_image(*job))


def _draw_photo(job: tuple[dict, int]) -> np.ndarray:
    product, seed = job
    size = random.Random(seed ^ 0x5EED).choice(PHOTO_SIZES)
    return preprocess(draw.photo(product, seed, size))


def _draw_swatch(job: tuple[dict, int]) -> np.ndarray:
    return preprocess(draw.swatch(*job))


def fabric(color: str, pattern: str, rng: random.Random) -> dict:
    """A piece of cloth as a product that only has a fabric."""
    return {
        "category": "scarf",
        "color": color,
        "pattern": pattern,
        "style": "casual",
        "material": rng.choice(["cotton", "wool", "silk"]),
    }


def build(folder: Path) -> None:
    """Writes `catalogue.jsonl`, `images/`, `tokenizer.json` and `interactions.jsonl`."""
    rng = random.Random(SEED)
    products = catalogue.make(SEED)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(WORKERS) as pool:
        files = list(pool.map(_draw_product, [(p, rng.getrandbits(32)) for p in products], chunksize=64))
    for product, content in zip(products, files):
        (folder / product["image"]).write_bytes(content)
    write_lines(folder / "catalogue.jsonl", products)
    text.make_tokenizer().save(str(folder / "tokenizer.json"))
    shop = load(folder)
    ids = np.array([product["id"] for product in products])
    write_lines(
        folder / "interactions.jsonl",
        [
            {
                "user": number,
                "held_out": user["held_out"],
                "past": ids[user["log"][: user["past"]]].tolist(),
                "future": ids[user["log"][user["past"] :]].tolist(),
            }
            for number, user in enumerate(shop.users)
        ],
    )


def load(folder: Path) -> Shop:
    """Reads what `build` wrote; users and held-out pairs are made from the seed again."""
    products = read_lines(folder / "catalogue.jsonl")
    attributes = {name: np.array([VALUES[name].index(p[name]) for p in products]) for name in ATTRIBUTES}
    held = np.array([p["held_out"] for p in products])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Shop(
        products=products,
        attributes=attributes,
        table=np.stack([attributes[name] for name in ATTRIBUTES], 1),
        images=np.stack([preprocess(Image.open(folder / p["image"])) for p in products]),
        tokenizer=tokenizer,
        item_tokens=[tokenizer.encode(p["text"], add_special_tokens=False).ids[:MAX_TOKENS] for p in products],
        train_rows=np.flatnonzero(~held),
        held_rows=np.flatnonzero(held),
        users=users.make(SEED + 1, attributes),
        held_pairs=text.held_out_pairs(SEED + 2),
    )


def draw_photos(shop: Shop) -> Photos:
    """Draws photos of the training products and close-ups of every fabric."""
    rng = random.Random(SEED + 5)
    with ProcessPoolExecutor(WORKERS) as pool:
        jobs = [(shop.products[row], rng.getrandbits(32)) for row in shop.train_rows for _ in range(PHOTOS_PER_PRODUCT)]
        products = np.stack(list(pool.map(_draw_photo, jobs, chunksize=64)))
        jobs = [
            (fabric(color, pattern, rng), rng.getrandbits(32))
            for color in VALUES["color"]
            for pattern in VALUES["pattern"]
            for _ in range(SWATCHES_PER_FABRIC)
        ]
        fabrics = np.stack(list(pool.map(_draw_swatch, jobs, chunksize=64)))
    shape = products.shape[1:]
    return Photos(
        products.reshape(-1, PHOTOS_PER_PRODUCT, *shape),
        fabrics.reshape(len(VALUES["color"]), len(VALUES["pattern"]), SWATCHES_PER_FABRIC, *shape),
    )
