"""Draws `docs/search.png`: what the command line finds in the demo shop, as pictures.

    cargo build --release
    python tools/demo/picture.py --out docs/search.png

Each line of the picture is a query (its photo, its words) and the best products that `mercer search --json` prints.
"""

import argparse
import json
import subprocess
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SHOP = Path("weights/demo")
TILE, GAP, BEST = 96, 10, 8
LABEL = 150


def queries() -> list[tuple[str, list[str]]]:
    """Words for the picture and arguments for the command: a text, a photo, both, and a user."""
    photos = [json.loads(line) for line in (SHOP / "queries.jsonl").open()]
    alone = next(q["image"] for q in photos if set(q) == {"image", "match"} and q["match"]["category"] == "headphones")
    recolour = next(q for q in photos if "image" in q and q.get("text", "").startswith("this one in"))
    return [
        ("black down jacket", ["black down jacket"]),
        ("", ["--image", str(SHOP / alone)]),
        (recolour["text"], [recolour["text"], "--image", str(SHOP / recolour["image"])]),
        ("user 17", ["--user", "17"]),
    ]


def search(binary: str, arguments: list[str]) -> list[dict]:
    """The hits, best first."""
    command = [binary, "search", *arguments, "--top", str(BEST), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["hits"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/mercer")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    lines = queries()
    width = LABEL + GAP + BEST * (TILE + GAP) + GAP
    height = GAP + len(lines) * (TILE + 22 + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, (words, command) in enumerate(lines):
        top = GAP + row * (TILE + 22 + GAP)
        photo = command[command.index("--image") + 1] if "--image" in command else None
        if photo:
            picture = Image.open(photo).convert("RGB")
            picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(picture.resize((TILE, TILE * picture.height // picture.width)), (GAP + 27, top))
        draw.text((LABEL // 2, top + (TILE + 10 if photo else TILE // 2)), words, "black", font, anchor="mm")
        draw.line([(LABEL + 2, top), (LABEL + 2, top + TILE + 16)], "#bbbbbb", 2)
        for rank, hit in enumerate(search(arguments.binary, command)):
            left = LABEL + GAP + rank * (TILE + GAP)
            picture = Image.open(SHOP / hit["item"]["image"]).convert("RGB")
            sheet.paste(picture.resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
            draw.text((left + TILE // 2, top + TILE + 10), f"{hit['score']:.3f}", "#444444", font, anchor="mm")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128, dither=Image.Dither.NONE).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
