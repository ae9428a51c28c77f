"""Makes the golden files of tests/image.rs, tests/text.rs and benches/input.rs: what Pillow, torchvision and tokenizers do.

    python -m pip install "pillow>=13" torch torchvision tokenizers safetensors numpy
    python tools/golden/preprocess.py --out tests/golden/preprocess

Seeded: the same versions (printed at the end, and kept in versions.json) give the same files.

    images/*                 small images in every pixel format that is read, and one GIF that is not
    decoded.safetensors      per file: Image.open(file).convert("RGB"), uint8 [height, width, 3]
    resize.safetensors       "<case>.input" and, per filter, "<case>.<filter>": Image.resize, uint8 [height, width, 3]
    transforms.json          per case: a file of images/ and the `inputs.image` of a config.json
    transforms.safetensors   per case: Resize, CenterCrop, ToTensor, Normalize, float32 [height, width, 3]
    tokenizers/*.json        tokenizer files that ask for truncation and padding, which must not act
    tokens.json              per tokenizer: texts and their ids without truncation and padding
"""

import argparse
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import tokenizers
import torch
import torchvision
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torchvision import transforms

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def noise(rng, height, width, channels=3):
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def drawing(height, width):
    """Smooth shades and one soft disc: what lossy formats are made for."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    disc = 1 / (1 + np.exp(40 * (np.hypot(y - 0.4, x - 0.5) - 0.2)))
    channels = [0.2 + 0.6 * x, 0.8 - 0.5 * y, 0.3 + 0.5 * disc]
    return np.uint8(255 * np.stack(channels, axis=-1))


def png(path, color_type, depth, samples):
    """Writes a PNG that Pillow cannot write; `samples` is [height, width, channels]."""
    height, width, _ = samples.shape
    if depth == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        bits = np.unpackbits(samples.astype(np.uint8).reshape(height, -1, 1), axis=2)[:, :, 8 - depth :]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def make_images(rng, folder):
    h, w = 11, 13
    rgb = Image.fromarray(noise(rng, h, w))
    alpha = Image.fromarray(noise(rng, h, w, 1)[:, :, 0])
    grey = Image.fromarray(noise(rng, h, w, 1)[:, :, 0])
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    rgb.save(folder / "rgb.png")
    rgba.save(folder / "rgba.png")
    grey.save(folder / "grey.png")
    Image.merge("LA", (grey, alpha)).save(folder / "grey_alpha.png")
    rgb.quantize(16).save(folder / "palette.png")
    rgb.quantize(16).save(folder / "palette_transparent.png", transparency=3)
    rgb.save(folder / "rgb_transparent_colour.png", transparency=tuple(rgb.getpixel((0, 0))))
    for depth in (1, 2, 4):
        png(folder / f"grey_{depth}bit.png", 0, depth, rng.integers(0, 1 << depth, (h, w, 1)))
    wide = rng.integers(0, 1 << 16, (h, w, 4))
    dark = rng.integers(0, 400, (h, w, 1))
    png(folder / "grey_16bit.png", 0, 16, np.where(wide[:, :, :1] % 2 == 0, dark, wide[:, :, :1]))
    png(folder / "rgb_16bit.png", 2, 16, wide[:, :, :3])
    png(folder / "grey_alpha_16bit.png", 4, 16, wide[:, :, :2])
    png(folder / "rgba_16bit.png", 6, 16, wide)
    other = Image.fromarray(noise(rng, h, w))
    rgb.save(folder / "animated.png", save_all=True, append_images=[other])
    rgb.save(folder / "animated.gif", save_all=True, append_images=[other])
    rgb.save(folder / "lossless.webp", lossless=True)
    rgba.save(folder / "lossless_alpha.webp", lossless=True, exact=True)
    rgb.save(folder / "animated.webp", lossless=True, save_all=True, append_images=[other])
    rgba.save(folder / "animated_alpha.webp", lossless=True, exact=True, save_all=True, append_images=[other])

    photo = Image.fromarray(drawing(45, 62))
    photo.save(folder / "lossy.webp", quality=80)
    photo.save(folder / "420.jpg", quality=85, subsampling="4:2:0")
    photo.save(folder / "422.jpg", quality=85, subsampling="4:2:2")
    photo.save(folder / "444.jpg", quality=85, subsampling="4:4:4")
    photo.save(folder / "progressive.jpg", quality=85, progressive=True)
    photo.convert("L").save(folder / "grey.jpg", quality=85)
    photo.convert("CMYK").save(folder / "cmyk.jpg", quality=85)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    photo.save(folder / "exif_turned.jpg", quality=85, exif=exif)

    # Sources of the transforms.
    ramp = np.arange(256, dtype=np.uint8)
    every_value = np.stack([ramp, ramp[::-1], np.roll(ramp, 85)], axis=-1).reshape(16, 16, 3)
    Image.fromarray(every_value).save(folder / "every_value.png")
    for height, width in [(37, 61), (61, 37), (8, 90), (90, 1), (80, 30), (40, 40)]:
        Image.fromarray(noise(rng, height, width)).save(folder / f"noise_{height}x{width}.png")


def decoded(folder):
    files = sorted(path for path in folder.iterdir() if path.suffix != ".gif")
    return {path.name: np.asarray(Image.open(path).convert("RGB")) for path in files}


def resized(rng):
    """Sizes are (height, width), from and to."""
    cases = {
        "shrink": ((23, 37), (9, 16)),
        "enlarge": ((9, 16), (23, 37)),
        "halve": ((32, 32), (16, 16)),
        "double": ((8, 8), (16, 16)),
        "rows_only": ((31, 12), (17, 12)),
        "columns_only": ((12, 31), (12, 47)),
        "shrink_and_enlarge": ((40, 5), (7, 33)),
        "from_one_pixel": ((1, 1), (5, 7)),
        "to_one_pixel": ((40, 40), (1, 1)),
        "from_one_row": ((1, 64), (8, 9)),
        "from_one_column": ((64, 1), (9, 8)),
        "extreme_ratio": ((2, 500), (60, 3)),
        "almost_equal": ((30, 31), (29, 32)),
        "same": ((6, 7), (6, 7)),
        # Around the edge where Pillow changes the order of rows and columns.
        "rows_first": ((40, 30), (19, 20)),
        "columns_first": ((40, 30), (20, 20)),
    }
    tensors = {}
    for name, ((h, w), (to_h, to_w)) in cases.items():
        pixels = noise(rng, h, w)
        if name in ("enlarge", "shrink_and_enlarge", "almost_equal", "rows_first", "columns_first"):
            pixels = np.uint8(255) * (pixels % 2)  # the cubic filter overshoots between black and white
        tensors[f"{name}.input"] = pixels
        for filter_name, resampling in FILTERS.items():
            out = Image.fromarray(pixels).resize((to_w, to_h), resampling)
            tensors[f"{name}.{filter_name}"] = np.asarray(out)
    return tensors


def transformed(folder):
    def config(height, width, resize, size=None, filter_name="bilinear", mean=MEAN, std=STD):
        fields = {"height": height, "width": width, "resize": resize, "filter": filter_name, "mean": mean, "std": std}
        return fields | ({"resize_size": size} if size else {})

    cases = {
        "every_value": ("every_value.png", config(16, 16, "none")),
        "every_value_half": ("every_value.png", config(16, 16, "none", mean=[0.5] * 3, std=[0.5] * 3)),
        "every_value_plain": ("every_value.png", config(16, 16, "none", mean=[0.0] * 3, std=[1.0] * 3)),
        "exact": ("noise_37x61.png", config(12, 17, "exact")),
        "exact_cubic": ("noise_37x61.png", config(17, 12, "exact", filter_name="bicubic")),
        "exact_same_size": ("noise_40x40.png", config(40, 40, "exact")),
        "exact_alpha": ("rgba.png", config(8, 8, "exact")),
        # The rest to crop is 1, 3, 5 and 7: halves round to even.
        "crop_rest_1": ("noise_40x40.png", config(19, 17, "shortest_side", 20)),
        "crop_rest_5": ("noise_40x40.png", config(15, 13, "shortest_side", 20)),
        "wide": ("noise_37x61.png", config(14, 14, "shortest_side", 16)),
        "tall_cubic": ("noise_61x37.png", config(14, 14, "shortest_side", 16, "bicubic")),
        "enlarge": ("noise_8x90.png", config(20, 24, "shortest_side", 24, "bicubic")),
        "one_column": ("noise_90x1.png", config(10, 12, "shortest_side", 12)),
        "tall": ("noise_80x30.png", config(12, 12, "shortest_side", 14)),
        "tall_exact": ("noise_80x30.png", config(12, 28, "exact", filter_name="bicubic")),
        "crop_only": ("noise_37x61.png", config(20, 20, "shortest_side", 37)),
        "no_crop": ("noise_40x40.png", config(16, 16, "shortest_side", 16)),
    }
    tensors = {}
    for name, (file, fields) in cases.items():
        size = (fields["height"], fields["width"])
        interpolation = transforms.InterpolationMode(fields["filter"])
        steps = []
        if fields["resize"] == "exact":
            steps = [transforms.Resize(size, interpolation)]
        elif fields["resize"] == "shortest_side":
            steps = [transforms.Resize(fields["resize_size"], interpolation), transforms.CenterCrop(size)]
        steps += [transforms.ToTensor(), transforms.Normalize(fields["mean"], fields["std"])]
        tensor = transforms.Compose(steps)(Image.open(folder / file).convert("RGB"))
        tensors[name] = np.ascontiguousarray(tensor.numpy().transpose(1, 2, 0))
    return {name: {"file": file, "config": fields} for name, (file, fields) in cases.items()}, tensors


CORPUS = [
    "黑色羽绒服 男 冬季 加厚",
    "白色运动鞋 女 透气 轻便",
    "红色连衣裙 夏季 碎花",
    "无线蓝牙耳机 降噪",
    "智能手表 防水 运动",
    "真皮 手提包 棕色",
    "black down jacket for men",
    "white running shoes for women",
    "red floral summer dress",
    "wireless noise-cancelling headphones",
    "waterproof smart watch",
    "brown leather handbag",
]
TEXTS = [
    "黑色羽绒服",
    "黑色 羽绒服",
    "black down jacket",
    "Black DOWN Jacket",
    "red dress 红色连衣裙",
    "红色dress",
    "ｂｌａｃｋ　ｊａｃｋｅｔ",
    "蓝牙耳机，降噪！",
    "café crème",
    "cafe\u0301",
    "naïve Ångström",
    "👟 white shoes",
    "👩‍👩‍👧 family",
    "a",
    " a ",
    "\ta\n",
    "noise-cancelling",
    "3.5mm 2024款",
    "iPhone15Pro",
    "¥199",
    "１２３",
    "繁體中文",
    "日本語のテキスト",
    "한국어",
    "русский",
    "العربية",
    "𠀀𠀁",
    "\u200bzero\u200bwidth",
    "x" * 60,
    "黑" * 40,
    "[CLS] is text here",
    "line one\r\nline two",
]


def make_tokenizers(folder):
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, show_progress=False)
    byte_level.train_from_iterator(CORPUS, trainer)

    # Written out, because the WordPiece trainer breaks ties in the order of a hash map. Only words of the corpus and
    # some of their pieces are known.
    words = sorted({word for line in CORPUS for word in line.replace("-", " ").split() if word.isascii()})
    characters = sorted({c for line in CORPUS for c in line if not c.isspace()})
    pieces = ["##" + c for c in characters if c.isascii()] + ["##ing", "##proof", "##phones"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + characters + pieces + words
    word_piece = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    word_piece.add_special_tokens(vocabulary[:4])
    word_piece.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer(lowercase=True)])
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    word_piece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )

    tokens = {}
    for name, tokenizer in [("byte_level.json", byte_level), ("word_piece.json", word_piece)]:
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=16)
        (folder / name).write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokens[name] = [
            {
                "text": text,
                "ids": tokenizer.encode(text, add_special_tokens=False).ids,
                "ids_with_special": tokenizer.encode(text, add_special_tokens=True).ids,
            }
            for text in TEXTS
        ]
    return tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write, tests/golden/preprocess")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    for folder in ("images", "tokenizers"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)

    make_images(rng, args.out / "images")
    save_file(decoded(args.out / "images"), args.out / "decoded.safetensors")
    save_file(resized(rng), args.out / "resize.safetensors")
    cases, tensors = transformed(args.out / "images")
    (args.out / "transforms.json").write_text(json.dumps(cases, indent=1) + "\n")
    save_file(tensors, args.out / "transforms.safetensors")
    tokens = make_tokenizers(args.out / "tokenizers")
    (args.out / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False) + "\n")

    libraries = {"Pillow": PIL, "torch": torch, "torchvision": torchvision, "tokenizers": tokenizers, "numpy": np}
    versions = {name: library.__version__ for name, library in libraries.items()}
    (args.out / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
    print(versions)


if __name__ == "__main__":
    main()
