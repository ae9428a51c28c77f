"""What shoppers type, and the tokenizer that reads it.

A query names some attributes of a product in some order, in Chinese, English or both, inside a frame such as
"我想买{}" or "looking for {}". `HELD_OUT_*` frames, and a tenth of all (category, colour) pairs, never occur in a
training query: evaluation asks with those.
"""

import random

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from lexicon import ATTRIBUTES, CATEGORIES, COLORS

ZH_FRAMES = [
    "{}",
    "{}",
    "{}",
    "{}",
    "我想买{}",
    "找{}",
    "有没有{}",
    "推荐一款{}",
    "想要一件{}",
    "{}哪个好",
    "送女朋友的{}",
    "好看的{}",
    "{}新款",
    "帮我找一下{}",
    "买个{}",
    "给孩子买{}",
    "{}多少钱",
    "这种{}",
]
EN_FRAMES = [
    "{}",
    "{}",
    "{}",
    "{}",
    "looking for a {}",
    "i want {}",
    "show me {}",
    "best {}",
    "{} for sale",
    "nice {}",
    "find me a {}",
    "new {}",
    "{} please",
    "buy {} online",
    "a good {} for a gift",
]
HELD_OUT_ZH_FRAMES = ["想给女朋友买{}", "帮我推荐{}", "好看一点的{}", "有没有新款的{}", "{}，送孩子"]
HELD_OUT_EN_FRAMES = ["i am looking for {}", "please show me a nice {}", "where to buy a {}", "need {} for my friend"]
ZH_RECOLOR = ["{}", "{}的", "要{}的", "换成{}", "有没有{}的", "这个的{}款", "同款{}"]
EN_RECOLOR = ["{}", "in {}", "{} please", "same in {}", "but {}", "this one in {}"]

# What people say for a colour when they are brief: "黑的", "黑羽绒服".
SHORT_ZH_COLORS = dict(zip(COLORS, "黑 白 灰 红 橙 黄 绿 蓝 紫 粉 棕 米".split()))

SPECIAL_TOKENS = ["<unk>"]


def held_out_pairs(seed: int) -> set[tuple[str, str]]:
    """(category, colour) pairs that no training query names together."""
    pairs = [(category, color) for category in CATEGORIES for color in COLORS]
    return set(random.Random(seed).sample(pairs, len(pairs) // 10))


def _word(rng: random.Random, attribute: str, value: str, language: str) -> str:
    if attribute == "color" and language == "zh" and rng.random() < 0.12:
        return SHORT_ZH_COLORS[value]
    words = getattr(ATTRIBUTES[attribute][value], language)
    return words[0] if rng.random() < 0.5 else rng.choice(words)


def _join_zh(rng: random.Random, words: list[str], category_last: bool) -> str:
    if rng.random() < 0.2:
        return " ".join(words)
    if category_last and len(words) > 1 and rng.random() < 0.3:
        return "".join(words[:-1]) + "的" + words[-1]
    return "".join(words)


def phrase(rng: random.Random, product: dict, attributes: list[str], held_out_frames: bool = False) -> str:
    """A query that names these attributes of the product."""
    others = [a for a in attributes if a != "category"]
    rng.shuffle(others)
    category_last = rng.random() < 0.8 or "category" not in attributes
    order = others + (["category"] if "category" in attributes else [])
    if not category_last:
        order = ["category"] + others
    language = rng.choices(["zh", "en", "mixed"], [48, 40, 12])[0]
    if language == "mixed":
        words = [_word(rng, a, product[a], rng.choice(["zh", "en"])) for a in order]
        return rng.choice(["", " "]).join(words) if len(words) == 2 else " ".join(words)
    words = [_word(rng, a, product[a], language) for a in order]
    if language == "zh":
        frame = rng.choice(HELD_OUT_ZH_FRAMES if held_out_frames else ZH_FRAMES)
        if "style" in order and order[0] == "style" and category_last and rng.random() < 0.3:
            return frame.format(f"适合{words[0]}的{''.join(words[1:])}")
        return frame.format(_join_zh(rng, words, category_last and "category" in attributes))
    frame = rng.choice(HELD_OUT_EN_FRAMES if held_out_frames else EN_FRAMES)
    if "color" in others and category_last and rng.random() < 0.15:
        at = order.index("color")
        return frame.format(" ".join(w for i, w in enumerate(words) if i != at) + " in " + words[at])
    return frame.format(" ".join(words))


def recolor_phrase(rng: random.Random, color: str) -> str:
    """What one says beside a photo of the right thing in the wrong colour."""
    language = rng.choice(["zh", "en"])
    frame = rng.choice(ZH_RECOLOR if language == "zh" else EN_RECOLOR)
    return frame.format(_word(rng, "color", color, language))


def some_attributes(rng: random.Random) -> list[str]:
    """Which attributes a shopper bothers to name: mostly the kind of thing and its colour."""
    shares = {"category": 0.95, "color": 0.75, "pattern": 0.25, "material": 0.2, "style": 0.25, "tier": 0.12}
    chosen = [attribute for attribute, share in shares.items() if rng.random() < share]
    return chosen or ["category"]


def _segments() -> dict[str, int]:
    """Every word of the lexicon and of the frames, with the weight that its merges get."""
    counts: dict[str, int] = {}
    for words in ATTRIBUTES.values():
        for value in words.values():
            for synonym in value.zh + value.en:
                for part in synonym.lower().split():
                    counts[part] = counts.get(part, 0) + 50
    for frame in ZH_FRAMES + ZH_RECOLOR:
        for char in frame.replace("{}", ""):
            counts[char] = counts.get(char, 0) + 1
    for frame in EN_FRAMES + EN_RECOLOR:
        for part in frame.replace("{}", " ").split():
            counts[part] = counts.get(part, 0) + 20
    for char in list(SHORT_ZH_COLORS.values()) + list("的适合abcdefghijklmnopqrstuvwxyz0123456789-"):
        counts[char] = counts.get(char, 0) + 1
    return counts


def make_tokenizer() -> Tokenizer:
    """Byte-pair merges learned inside words only, so that a Chinese run without spaces splits into words.

    Merges never cross words because each word is a training text of its own; single characters remain tokens, and a
    character that the shop's vocabulary lacks becomes `<unk>`.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[,.;:!?'\"()/|~+&、。·…《》【】]"), behavior="removed"),
            pre_tokenizers.WhitespaceSplit(),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=4096, min_frequency=2, show_progress=False, special_tokens=SPECIAL_TOKENS)
    texts = (word for word, count in sorted(_segments().items()) for _ in range(count))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def split_some(rng: random.Random, tokenizer: Tokenizer, ids: list[int], share: float) -> list[int]:
    """Replaces a share of the tokens by shorter ones, so that parts of words and `<unk>` are trained too."""
    out = []
    for token in ids:
        piece = tokenizer.id_to_token(token)
        if rng.random() >= share or len(piece) == 1:
            out.append(token)
            continue
        cut = rng.randrange(1, len(piece))
        out += tokenizer.encode(piece[:cut]).ids + tokenizer.encode(piece[cut:]).ids
    if rng.random() < share:
        out.append(0)
    return out
