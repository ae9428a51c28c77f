"""The products: attributes, prices and titles. Deterministic for a seed; the pictures are draw.py's."""

import random

import lexicon
from lexicon import ATTRIBUTES, CATEGORIES, COLORS

PER_CATEGORY = 88
FIRST_ID = 1000
HELD_OUT_SHARE = 0.15


def make(seed: int) -> list[dict]:
    """All products, shuffled, as they are written to `catalogue.jsonl`.

    Ids are unique and ascending with gaps, so that nothing can take an id for a row number.
    """
    rng = random.Random(seed)
    products = []
    for category in CATEGORIES.values():
        for color in _colors(rng, category):
            products.append(_product(rng, category, color))
    rng.shuffle(products)
    _add_stripes(random.Random(seed + 1), products)
    next_id = FIRST_ID
    lines = []
    for row, product in enumerate(products):
        next_id += rng.randint(1, 3)
        first = {
            "id": next_id,
            "text": product.pop("text"),
            "image": f"images/{row:05}.png",
            "title": product.pop("title"),
        }
        lines.append(first | product | {"held_out": rng.random() < HELD_OUT_SHARE})
    return lines


def _add_stripes(rng: random.Random, products: list[dict]) -> None:
    """Sees to it that what comes in stripes does so in every colour: people ask for it."""
    for category in CATEGORIES.values():
        for color in COLORS:
            same = [p for p in products if p["category"] == category.key and p["color"] == color]
            patterns = [p["pattern"] for p in same]
            if "stripes" in category.patterns and "stripes" not in patterns:
                product = same[patterns.index("solid") if "solid" in patterns else 0]
                product["pattern"] = "stripes"
                product["title"], product["text"] = _titles(rng, product)


def _colors(rng: random.Random, category: lexicon.Category) -> list[str]:
    """Four products of each colour, the rest in the colours that the category is mostly sold in."""
    colors = [color for color in COLORS for _ in range(4)]
    while len(colors) < PER_CATEGORY:
        colors.append(rng.choice(category.colors) if rng.random() < 0.5 else rng.choice(list(COLORS)))
    return colors


def _product(rng: random.Random, category: lexicon.Category, color: str) -> dict:
    pattern = "solid" if rng.random() < 0.45 else rng.choice(category.patterns)
    tier = rng.choices(["budget", "standard", "premium"], [3, 4, 3])[0]
    factor = {"budget": 0.55, "standard": 1.0, "premium": 2.1}[tier] * rng.uniform(0.8, 1.25)
    product = {
        "category": category.key,
        "color": color,
        "pattern": pattern,
        "material": rng.choice(category.materials),
        "style": rng.choice(category.styles),
        "tier": tier,
        "price": max(9, round(category.price * factor)),
    }
    product["title"], product["text"] = _titles(rng, product)
    return product


def _titles(rng: random.Random, product: dict) -> tuple[str, str]:
    """The short bilingual title that a table shows, and the text that the encoder reads: both titles in full."""

    def word(attribute: str, language: str, plain: bool = False) -> str:
        words = getattr(ATTRIBUTES[attribute][product[attribute]], language)
        return words[0] if plain or rng.random() < 0.5 else rng.choice(words)

    show_pattern = product["pattern"] != "solid" or rng.random() < 0.3
    zh_order = ["style", "color", "pattern", "material", "category"]
    en_order = ["color", "style", "pattern", "material", "category"]
    if not show_pattern:
        zh_order.remove("pattern")
        en_order.remove("pattern")
    zh = {a: word(a, "zh", plain=a == "color") for a in zh_order}
    en = {a: word(a, "en", plain=a == "color") for a in en_order}
    short_zh = "".join(zh[a] for a in zh_order if a in ("color", "category") or (a == "pattern" and show_pattern))
    short_en = " ".join(en[a] for a in en_order if a in ("color", "category") or (a == "pattern" and show_pattern))
    text = "".join(zh[a] for a in zh_order) + " " + " ".join(en[a] for a in en_order)
    if product["tier"] != "standard":
        text = f"{word('tier', 'zh')}{text} {word('tier', 'en')}"
    return f"{short_zh} / {short_en}", text
