"""PyTorch's exact answers from the shipped files, for the engine's tests.

`golden.jsonl` holds requests of every kind, `{"side": "query" | "item", ...}`, then pairs
`{"side": "pair", "query": number of the query line, "item": number of the item line}`. `golden.safetensors` holds, in
f32, `query` [queries, dim], `item` [items, dim], `probability` [pairs], and the token ids of every line that has a text
(`query_tokens`, `query_offsets`, `item_tokens`, `item_offsets`, each with one more offset than lines).
Pictures go through torchvision.
"""

import random
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torchvision.transforms import v2

import export
from data import MAX_TOKENS, MEAN, SEED, STD, read_lines, write_lines
from model import IMAGE_WIDTH, RANKER_IMAGE, RANKER_TASTE, RANKER_USER, TASTE_WIDTH, USER_WIDTH, Bags, Model

ITEMS, QUERIES, PAIRS = 16, 24, 32
FIELDS = ("text", "image", "user", "behaviour")
KINDS = [
    "text",
    "image",
    "user",
    "behaviour",
    "text image",
    "text user",
    "image behaviour",
    "text behaviour",
    "image user",
    "user behaviour",
    "text image user",
    "text image user behaviour",
]

torchvision_steps = v2.Compose(
    [
        v2.Resize((64, 64), interpolation=v2.InterpolationMode.BILINEAR, antialias=True),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]
)


def requests(folder: Path) -> tuple[list[dict], list[dict], list[dict]]:
    """Query, item and pair lines. Only PNG pictures: decoders of JPEG may differ in the last bit."""
    rng = random.Random(SEED + 6)
    catalogue, asked = read_lines(folder / "catalogue.jsonl"), read_lines(folder / "queries.jsonl")
    values = {name: [q[name] for q in asked if name in q] for name in FIELDS}
    values["image"] = [path for path in dict.fromkeys(values["image"]) if path.endswith(".png")]
    large = [path for path in values["image"] if Image.open(folder / path).size != (64, 64)]
    queries = []
    for at in range(QUERIES):
        line = {"side": "query"} | {name: rng.choice(values[name]) for name in KINDS[at % len(KINDS)].split()}
        if "image" in line and at % 3 == 0:
            line["image"] = rng.choice(large)
        queries.append(line)
    queries[0]["text"] = "ＲＥＤ　Ｔ－ｓｈｉｒｔ，适合跑步吗？"  # full-width letters, punctuation
    queries[12]["text"] = "黑色羽绒服 down jacket 要便宜的 " * 12  # longer than max_tokens
    queries[5]["text"] = "龘 zzz"  # characters outside the vocabulary
    items = []
    for at, product in enumerate(rng.sample(catalogue, ITEMS)):
        names = {3: ("text",), 7: ("image",)}.get(at, ("text", "image"))
        items.append({"side": "item", "id": product["id"]} | {name: product[name] for name in names})
    pairs = [{"side": "pair", "query": at % QUERIES, "item": at * 7 % ITEMS} for at in range(PAIRS)]
    return queries, items, pairs


class Reference:
    """Runs one line at a time through the shipped model."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model: Model = export.load(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def tokens(self, line: dict) -> list[int]:
        """Token ids; none without a text."""
        if "text" not in line:
            return []
        return self.tokenizer.encode(line["text"], add_special_tokens=False).ids[:MAX_TOKENS]

    def text(self, line: dict) -> torch.Tensor:
        """Text tower, `[1, width]`."""
        return self.model.texts(Bags([self.tokens(line) if "text" in line else None]), 1)

    def image(self, line: dict) -> torch.Tensor:
        """Image tower, `[1, width]`, zeros without a picture."""
        if "image" not in line:
            return torch.zeros(1, IMAGE_WIDTH)
        picture = Image.open(self.folder / line["image"]).convert("RGB")
        return self.model.image(torchvision_steps(picture)[None])

    def _dense(self, line: dict, user, taste, widths: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        users = user(torch.tensor([line["user"]])) if "user" in line else torch.zeros(1, widths[0])
        tastes = taste(torch.tensor([line["behaviour"]])) if "behaviour" in line else torch.zeros(1, widths[1])
        return users, tastes

    def query(self, line: dict) -> torch.Tensor:
        """Query vector, `[1, dim]`."""
        user, taste = self._dense(line, self.model.user, self.model.taste, (USER_WIDTH, TASTE_WIDTH))
        return self.model.query(self.text(line), self.image(line), user, taste)

    def item(self, line: dict) -> torch.Tensor:
        """Item vector, `[1, dim]`."""
        return self.model.item(self.text(line), self.image(line))

    def probability(self, query: dict, item: dict) -> torch.Tensor:
        """The ranker's answer, `[1]`."""
        ranker = self.model.ranker
        user, taste = self._dense(query, ranker.user, ranker.taste, (RANKER_USER, RANKER_TASTE))
        image = ranker.image(self.image(item)) if "image" in item else torch.zeros(1, RANKER_IMAGE)
        parts = {
            "user": user,
            "query_text": self.text(query),
            "taste": taste,
            "item_text": self.text(item),
            "image": image,
        }
        return torch.sigmoid(ranker(parts))


def _bags(reference: Reference, side: str, lines: list[dict]) -> dict[str, torch.Tensor]:
    bags = [reference.tokens(line) for line in lines]
    return {
        f"{side}_tokens": torch.tensor([token for bag in bags for token in bag], dtype=torch.int64),
        f"{side}_offsets": torch.tensor([0] + [len(bag) for bag in bags], dtype=torch.int64).cumsum(0),
    }


@torch.no_grad()
def make(folder: Path) -> None:
    """Writes `golden.jsonl` and `golden.safetensors`."""
    queries, items, pairs = requests(folder)
    reference = Reference(folder)
    tensors = {
        "query": torch.cat([reference.query(line) for line in queries]),
        "item": torch.cat([reference.item(line) for line in items]),
        "probability": torch.cat([reference.probability(queries[p["query"]], items[p["item"]]) for p in pairs]),
    }
    tensors |= _bags(reference, "query", queries) | _bags(reference, "item", items)
    write_lines(folder / "golden.jsonl", queries + items + pairs)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "golden.safetensors")
    (folder / "golden.safetensors").chmod(0o644)
