"""Shoppers with tastes, what they clicked, and the dense vector that sums up a history.

A user favours a few categories (grouped around a persona), colours, styles and a price level; the log is drawn from
the utility that these give every product, plus the product's own popularity and chance.
"""

import numpy as np

from lexicon import VALUES

TRAINING_USERS = 600
HELD_OUT_USERS = 120
LOG_LENGTH = 48
PAST_SHARE = 0.75  # the first three quarters of a user's log are the past, the rest is what is to be predicted

PERSONAS = [
    "shirt backpack laptop headphones smartwatch thermos keyboard",
    "down_jacket boots backpack thermos camera cap suitcase",
    "dress skirt high_heels handbag scarf sunglasses umbrella",
    "t_shirt jeans sneakers cap headphones guitar backpack",
    "sofa chair desk_lamp mug thermos keyboard",
    "sweater scarf boots jeans skirt mug handbag",
    "phone laptop keyboard headphones camera smartwatch desk_lamp",
    "suitcase sandals sunglasses t_shirt dress camera umbrella",
]

# Shares of past clicks by category, colour, style and price level: the behaviour vector.
BEHAVIOUR_FIELDS = ("category", "color", "style", "tier")
BEHAVIOUR_LENGTH = sum(len(VALUES[field]) for field in BEHAVIOUR_FIELDS)


def _taste(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Utility of every attribute value to one user."""
    taste = {field: rng.normal(0, 0.35, len(VALUES[field])) for field in BEHAVIOUR_FIELDS}
    persona = PERSONAS[rng.integers(len(PERSONAS))].split()
    for name in rng.choice(persona, 3, replace=False):
        taste["category"][VALUES["category"].index(name)] += rng.uniform(3.0, 4.5)
    taste["category"][rng.integers(len(VALUES["category"]))] += rng.uniform(2.0, 3.5)
    for color in rng.choice(len(VALUES["color"]), 2, replace=False):
        taste["color"][color] += rng.uniform(2.2, 3.4)
    for style in rng.choice(len(VALUES["style"]), 2, replace=False):
        taste["style"][style] += rng.uniform(1.0, 2.0)
    taste["tier"][rng.integers(3)] += rng.uniform(0.8, 1.8)
    return taste


def make(seed: int, attributes: dict[str, np.ndarray]) -> list[dict]:
    """Users with their logs.

    `attributes` holds, per attribute, the value number of every product. Each user is `{"log": product rows in order,
    "past": how many of them are the past, "held_out": bool}`; training users come first, a user's position is the row
    of the model's user table.
    """
    rng = np.random.default_rng(seed)
    products = len(attributes["category"])
    popularity = rng.normal(0, 0.7, products)
    users = []
    for number in range(TRAINING_USERS + HELD_OUT_USERS):
        taste = _taste(rng)
        utility = popularity + sum(taste[field][attributes[field]] for field in BEHAVIOUR_FIELDS)
        noisy = utility + rng.gumbel(0, 1, products)  # the top of this is a draw by softmax without replacement
        log = np.argpartition(-noisy, LOG_LENGTH)[:LOG_LENGTH]
        rng.shuffle(log)
        users.append(
            {
                "log": log,
                "past": round(LOG_LENGTH * PAST_SHARE),
                "held_out": number >= TRAINING_USERS,
                "utility": utility,
            }
        )
    return users


def behaviour(rows: np.ndarray, attributes: dict[str, np.ndarray]) -> np.ndarray:
    """`log(1 + 10 x share)` of each value of each field among the clicked products, to four decimals."""
    parts = []
    for field in BEHAVIOUR_FIELDS:
        counts = np.bincount(attributes[field][rows], minlength=len(VALUES[field]))
        parts.append(np.log1p(10 * counts / max(1, len(rows))))
    return np.round(np.concatenate(parts), 4).astype(np.float32)
