"""Trains the ranker with binary cross-entropy and Adam, on clicks and sampled non-clicks.

It reads what the encoders have learned (their text table and image tower stay as they are) and learns its own user
table, behaviour and image projections and head. Every click is paired with a product that the user did not click,
half of the time one of the same category; half of the requests carry a search text. Modalities drop out at random.
"""

import random
import time

import numpy as np
import torch
import torch.nn.functional as F

import evaluate
import text
import users
from data import SEED, Shop
from model import RANKER_HIDDEN, RANKER_TASTE, RANKER_USER, Bags, Model, Ranker
from queries import negative, past

EPOCHS = 24
BATCH = 512
RATE = 8e-3


class Features:
    """Tower outputs that training never changes."""

    @torch.no_grad()
    def __init__(self, model: Model, shop: Shop):
        model.eval()
        self.model, self.shop = model, shop
        self.item_text = model.texts(Bags(shop.item_tokens), len(shop.products))
        self.item_image = evaluate.in_batches(model, shop.images)

    @torch.no_grad()
    def query_text(self, tokens: list[list[int] | None]) -> torch.Tensor:
        """Pooled rows, zeros without text."""
        return self.model.texts(Bags(tokens), len(tokens))

    def segments(
        self,
        ranker: Ranker,
        user: list[int | None],
        taste: list[np.ndarray | None],
        words: torch.Tensor,
        items: np.ndarray,
        has_image: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The parts of the concatenation for (request, product) pairs; zeros where a request lacks one."""
        count = len(items)
        named = [at for at, u in enumerate(user) if u is not None]
        known = [at for at, t in enumerate(taste) if t is not None]
        users_part, taste_part = torch.zeros(count, RANKER_USER), torch.zeros(count, RANKER_TASTE)
        if named:
            users_part = users_part.index_copy(
                0, torch.tensor(named), ranker.user(torch.tensor([user[at] for at in named]))
            )
        if known:
            rows = torch.from_numpy(np.stack([taste[at] for at in known]))
            taste_part = taste_part.index_copy(0, torch.tensor(known), ranker.taste(rows))
        image = ranker.image(self.item_image[items])
        if has_image is not None:
            image = image * has_image
        return {
            "user": users_part,
            "query_text": words,
            "taste": taste_part,
            "item_text": self.item_text[items],
            "image": image,
        }


@torch.no_grad()
def probabilities(ranker: Ranker, features: Features, pairs: list[dict]) -> np.ndarray:
    """The ranker's answer to lines with `item` and `label`."""
    ranker.eval()
    shop = features.shop
    row_of = {product["id"]: row for row, product in enumerate(shop.products)}
    words = features.query_text([shop.tokens(pair["text"]) if "text" in pair else None for pair in pairs])
    taste = [np.array(pair["behaviour"], dtype=np.float32) if "behaviour" in pair else None for pair in pairs]
    items = np.array([row_of[pair["item"]] for pair in pairs])
    return torch.sigmoid(ranker(features.segments(ranker, [p.get("user") for p in pairs], taste, words, items))).numpy()


def _epoch(shop: Shop, rng: random.Random) -> list[tuple]:
    """(user, history, tokens, product row, label), two of each click."""
    trained = set(shop.train_rows.tolist())
    events = []
    for number in range(users.TRAINING_USERS):
        rows = past(shop, number)
        for row in rows:
            if int(row) not in trained:
                continue
            kind = rng.random()
            user = number if kind < 0.6 else None
            history = None
            if kind >= 0.45:
                others = rows[rows != row]
                history = users.behaviour(
                    np.array(rng.sample(others.tolist(), rng.randint(len(others) // 2, len(others)))), shop.attributes
                )
            words = None
            if rng.random() < 0.5:
                words = shop.tokens(text.phrase(rng, shop.products[int(row)], ["category"]))
            events.append((user, history, words, int(row), 1.0))
            events.append((user, history, words, negative(rng, shop, number, int(row), shop.train_rows), 0.0))
    rng.shuffle(events)
    return events


def train(model: Model, shop: Shop, pairs: list[dict], hidden: int = RANKER_HIDDEN, epochs: int = EPOCHS) -> Ranker:
    """Trains a ranker with this many hidden units (0: one linear layer); prints held-out figures after each epoch."""
    torch.manual_seed(SEED + 1)
    rng = random.Random(SEED + 4)
    generator = torch.Generator().manual_seed(SEED + 1)
    features = Features(model, shop)
    ranker = Ranker(users.TRAINING_USERS, users.BEHAVIOUR_LENGTH, hidden)
    optimizer = torch.optim.Adam(ranker.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    labels = np.array([pair["label"] for pair in pairs])
    for epoch in range(1, epochs + 1):
        start, total, count = time.time(), 0.0, 0
        ranker.train()
        events = _epoch(shop, rng)
        for at in range(0, len(events), BATCH):
            user, history, words, items, label = zip(*events[at : at + BATCH])
            has_image = (torch.rand(len(items), 1, generator=generator) < 0.9).float()
            segments = features.segments(ranker, user, history, features.query_text(words), np.array(items), has_image)
            loss = F.binary_cross_entropy_with_logits(ranker(segments), torch.tensor(label))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + loss.item(), count + 1
        schedule.step()
        figures = evaluate.classification(probabilities(ranker, features, pairs), labels)
        numbers = "  ".join(f"{name} {figures[name]:.3f}" for name in ("accuracy", "precision", "recall", "auc"))
        print(
            f"ranker {epoch:2}/{epochs}  loss {total / count:.3f}  {time.time() - start:.0f} s  {numbers}", flush=True
        )
    return ranker
