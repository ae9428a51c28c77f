"""Trains the two encoders together: in-batch softmax cross-entropy over cosine scores, with Adam.

A step takes a batch of products and asks for each of them in two ways: by content (words, a photo, or both together)
and by a user who clicked it (user id, history, or both; sometimes with words). Products that answer a query just as
well are masked out of its softmax. Modalities are dropped at random on both sides, so every subset of them works.
"""

import random
import time

import numpy as np
import torch
import torch.nn.functional as F

import evaluate
import text
import users
from data import PHOTOS_PER_PRODUCT, SEED, SWATCHES_PER_FABRIC, Photos, Shop, pixels
from lexicon import VALUES
from model import IMAGE_WIDTH, TASTE_WIDTH, USER_WIDTH, Bags, Model
from queries import past

BATCH = 192
EPOCHS = 24
STEPS = 60  # in one epoch
CATEGORIES_OF_NARROW_BATCH = 5
RATE = 3.5e-3
TABLE_RATE = 8e-3  # for embedding tables: a row moves only when its id occurs
TEMPERATURE = 0.06
USER_WEIGHT = 0.8
ATTRIBUTES = ["category", "color", "pattern", "material", "style", "tier"]


class Sampler:
    """Draws batches: products, a content query and a user query for each."""

    def __init__(self, shop: Shop, photos: Photos, seed: int):
        self.shop, self.photos = shop, photos
        self.rng = random.Random(seed)
        self.numpy = np.random.default_rng(seed)
        self.place = {
            int(row): at for at, row in enumerate(shop.train_rows)
        }  # product row -> its position in the photos
        self.by_category = [
            [int(row) for row in shop.train_rows if shop.table[row, 0] == c] for c in range(len(VALUES["category"]))
        ]
        self.fans: dict[int, list[int]] = {}
        self.past = [set(past(shop, number).tolist()) & self.place.keys() for number in range(users.TRAINING_USERS)]
        for number, rows in enumerate(self.past):
            for row in rows:
                self.fans.setdefault(row, []).append(number)

    def epoch(self) -> list[np.ndarray]:
        """Batches of products: from the whole shop and, every third one, from a few categories only.

        Among products of few categories it is colour, pattern, material and style that tell them apart.
        """
        batches = []
        for number in range(STEPS):
            rows = self.shop.train_rows
            if number % 3 == 2:
                narrow = self.numpy.choice(len(self.by_category), CATEGORIES_OF_NARROW_BATCH, replace=False)
                rows = np.concatenate([self.by_category[category] for category in narrow])
            batches.append(self.numpy.choice(rows, BATCH, replace=False))
        return batches

    def _photo(self, row: int) -> np.ndarray:
        return self.photos.products[self.place[row], self.rng.randrange(PHOTOS_PER_PRODUCT)]

    def _swatch(self, row: int) -> np.ndarray:
        return self.photos.fabrics[
            self.shop.table[row, 1], self.shop.table[row, 2], self.rng.randrange(SWATCHES_PER_FABRIC)
        ]

    def _words(self, row: int, attributes: list[str]) -> tuple[list[int], list[str]]:
        """A query's tokens, and the attributes it does name: never a held-out pair."""
        product = self.shop.products[row]
        if "category" in attributes and (product["category"], product["color"]) in self.shop.held_pairs:
            attributes = [a for a in attributes if a != "color"]
        tokens = self.shop.tokens(text.phrase(self.rng, product, attributes))
        return text.split_some(self.rng, self.shop.tokenizer, tokens, 0.06), attributes

    def _some_attributes(self, row: int) -> list[str]:
        """As `text.some_attributes`, but a pattern is named more often where there is one to see."""
        attributes = text.some_attributes(self.rng)
        share = 0.1 if self.shop.products[row]["pattern"] == "solid" else 0.5
        return [a for a in attributes if a != "pattern"] + ["pattern"] * (self.rng.random() < share)

    def content(self, row: int) -> tuple[list[int] | None, np.ndarray | None, list[str]]:
        """Tokens, picture, and which attributes a product must share to be as good an answer."""
        kind = self.rng.random()
        shown = ["category", "color", "pattern"]
        if kind < 0.28:
            tokens, named = self._words(row, self._some_attributes(row))
            return tokens, None, named
        if kind < 0.63:
            return None, self._photo(row), shown
        if kind < 0.69:
            tokens, named = self._words(row, self._some_attributes(row))
            return tokens, self._photo(row), sorted(set(shown + named))
        if kind < 0.86:
            other = self.rng.choice(self.by_category[self.shop.table[row, 0]])
            words = text.recolor_phrase(self.rng, self.shop.products[row]["color"])
            return self.shop.tokens(words), self._photo(other), ["category", "color"]
        if kind < 0.97:
            tokens, named = self._words(
                row, ["category"] + [a for a in ("material", "style") if self.rng.random() < 0.15]
            )
            return tokens, self._swatch(row), sorted(set(shown + named))
        return None, self._swatch(row), ["color", "pattern"]

    def fan(self, row: int) -> tuple[int | None, np.ndarray | None, list[int] | None]:
        """User, history and tokens of somebody who clicked this product; the history leaves the product out."""
        number = self.rng.choice(self.fans[row])
        kind = self.rng.random()
        user = number if kind < 0.6 else None
        history = None
        if kind >= 0.5:
            others = np.array(sorted(self.past[number] - {row}))
            keep = self.numpy.random(len(others)) < self.rng.uniform(0.4, 1.0)
            history = users.behaviour(others[keep] if keep.any() else others, self.shop.attributes)
        words = self._words(row, ["category"])[0] if self.rng.random() < 0.12 else None
        return user, history, words

    def same(self, rows: np.ndarray, required: list[list[str]]) -> torch.Tensor:
        """`[queries, products]`: whether a product of the batch answers a query as well as its own product."""
        table = self.shop.table[rows]
        equal = table[:, None, :] == table[None, :, :]
        free = np.array([[name not in names for name in ATTRIBUTES] for names in required])
        return torch.from_numpy((equal | free[:, None, :]).all(2))


def _dense(rows: list[int], values: torch.Tensor, batch: int, width: int) -> torch.Tensor:
    """`values` at `rows`, zeros elsewhere."""
    out = torch.zeros(batch, width)
    return out.index_copy(0, torch.tensor(rows, dtype=torch.long), values) if rows else out


def _expose(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every picture a little brighter or darker."""
    return (x + 2) * (1 + 0.06 * torch.randn(len(x), 1, 1, 1, generator=generator)) - 2


def _loss(queries: torch.Tensor, items: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each query's own product, other equally good ones left out; both directions."""
    scores = queries @ items.T / TEMPERATURE
    own = torch.eye(len(scores), dtype=torch.bool)
    scores = scores.masked_fill(same & ~own, float("-inf"))
    target = torch.arange(len(scores))
    return F.cross_entropy(scores, target) + 0.3 * F.cross_entropy(scores.T, target)


def step(model: Model, sampler: Sampler, rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
    """The loss of one batch."""
    shop, batch = sampler.shop, len(rows)
    content = [sampler.content(int(row)) for row in rows]
    photo_rows = [at for at, (_, photo, _) in enumerate(content) if photo is not None]
    pictures = np.concatenate([shop.images[rows], np.stack([content[at][1] for at in photo_rows])])
    towers = model.image(_expose(pixels(pictures), generator))

    modality = torch.rand(batch, 1, generator=generator)  # of the product: both, text only, picture only
    item_text = model.texts(Bags([shop.item_tokens[row] for row in rows]), batch) * (modality < 0.78)
    item_image = towers[:batch] * ((modality < 0.6) | (modality >= 0.78))
    items = model.item(item_text, item_image)

    words = model.texts(Bags([tokens for tokens, _, _ in content]), batch)
    photo = _dense(photo_rows, towers[batch:], batch, IMAGE_WIDTH)
    queries = model.query(words, photo, torch.zeros(batch, USER_WIDTH), torch.zeros(batch, TASTE_WIDTH))
    loss = _loss(queries, items, sampler.same(rows, [required for _, _, required in content]))

    liked = [at for at, row in enumerate(rows) if int(row) in sampler.fans]
    fans = [sampler.fan(int(rows[at])) for at in liked]
    named = [at for at, (user, _, _) in enumerate(fans) if user is not None]
    known = [at for at, (_, history, _) in enumerate(fans) if history is not None]
    user = _dense(named, model.user(torch.tensor([fans[at][0] for at in named])), len(fans), USER_WIDTH)
    taste = _dense(
        known, model.taste(torch.from_numpy(np.stack([fans[at][1] for at in known]))), len(fans), TASTE_WIDTH
    )
    words = model.texts(Bags([tokens for _, _, tokens in fans]), len(fans))
    queries = model.query(words, torch.zeros(len(fans), IMAGE_WIDTH), user, taste)
    same = sampler.same(rows[liked], [["category", "color"]] * len(liked))
    return loss + USER_WEIGHT * _loss(queries, items[liked], same)


def train(shop: Shop, photos: Photos, questions: evaluate.Questions, epochs: int = EPOCHS) -> Model:
    """Trains from scratch; prints loss and held-out figures after each epoch."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = Model(shop.tokenizer.get_vocab_size(), users.TRAINING_USERS, users.BEHAVIOUR_LENGTH)
    sampler = Sampler(shop, photos, SEED)
    tables = [model.text.weight, model.user.weight]
    others = [
        p for name, p in model.named_parameters() if name not in ("text.weight", "user.weight") and "ranker" not in name
    ]
    optimizer = torch.optim.Adam([{"params": tables}, {"params": others}])
    steps = epochs * STEPS
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [TABLE_RATE, RATE], total_steps=steps, pct_start=0.15)
    for epoch in range(1, epochs + 1):
        start, total = time.time(), 0.0
        model.train()
        batches = sampler.epoch()
        for rows in batches:
            optimizer.zero_grad()
            loss = step(model, sampler, rows, generator)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.time() - start
        figures = evaluate.retrieval(model, shop, questions)
        print(
            f"encoders {epoch:2}/{epochs}  loss {total / len(batches):.3f}  {seconds:.0f} s  {evaluate.line(figures)}",
            flush=True,
        )
    return model
