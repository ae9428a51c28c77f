"""A product's attributes to a picture: colour and pattern onto a silhouette, then pose, background, light and noise.

`catalogue_image` draws the tidy 64 x 64 picture that a shop shows, `photo` what a customer's phone might take of the
same product (other pose, background, light, blur; sometimes another size), `swatch` a close-up of its fabric.
"""

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from painter import Painter, Rgb, mix
from shapes_goods import GOODS
from shapes_wear import WEAR

SHAPES = WEAR | GOODS
SIDE = 64
SUPERSAMPLE = 3

RGB: dict[str, Rgb] = {
    "black": (40, 40, 45),
    "white": (245, 244, 241),
    "gray": (142, 145, 150),
    "red": (204, 34, 42),
    "orange": (243, 128, 28),
    "yellow": (248, 208, 48),
    "green": (44, 130, 74),
    "blue": (44, 100, 196),
    "purple": (124, 72, 170),
    "pink": (246, 150, 184),
    "brown": (116, 72, 42),
    "beige": (224, 202, 164),
}
INK, CREAM = (44, 48, 72), (250, 246, 236)


def brightness(color: Rgb) -> float:
    """Perceived brightness, 0 to 255."""
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def _jitter(rng: random.Random, color: Rgb, amount: int) -> Rgb:
    shift = rng.randint(-amount, amount)
    return tuple(min(255, max(0, c + shift + rng.randint(-amount // 2, amount // 2))) for c in color)


def palette(rng: random.Random, product: dict) -> dict[str, Rgb]:
    """The named colours that silhouettes draw with."""
    base = _jitter(rng, RGB[product["color"]], 8)
    bright = brightness(base) > 150
    second = INK if bright else CREAM
    if product["pattern"] == "two_tone":
        accent = mix(second, base, 0.1)
    else:
        accent = mix(base, (0, 0, 0) if brightness(base) > 70 else (255, 255, 255), 0.22)
    return {
        "base": base,
        "second": second,
        "accent": accent,
        "dark": mix(base, (20, 18, 24), 0.5) if brightness(base) > 70 else (14, 14, 18),
        "darker": mix(base, (10, 10, 14), 0.62),
        "light": mix(base, (255, 255, 255), 0.3),
        "detail": CREAM if brightness(base) < 190 else (96, 96, 104),
        "metal": (196, 198, 204),
        "stitch": (214, 170, 96) if brightness(base) < 170 else (168, 128, 76),
        "sole": (242, 240, 234) if product["style"] != "retro" else (206, 176, 130),
        "insole": (222, 200, 166),
        "key": mix(base, (255, 255, 255), 0.72) if brightness(base) < 130 else mix(base, (255, 255, 255), 0.6),
    }


def texture(rng: random.Random, product: dict, colors: dict[str, Rgb], side: int) -> Image.Image:
    """The product's colour and pattern over a whole square; the base colour always covers most of it."""
    base, second = colors["base"], colors["second"]
    image = Image.new("RGB", (side, side), base)
    draw = ImageDraw.Draw(image)
    pattern, unit = product["pattern"], side / 100
    step = rng.uniform(11, 16) * unit
    phase = rng.uniform(0, step)
    if pattern == "stripes":
        upright = rng.random() < 0.3
        for i in range(-1, int(side / step) + 2):
            at, width = phase + i * step, step * 0.36
            draw.rectangle((at, 0, at + width, side) if upright else (0, at, side, at + width), fill=second)
    elif pattern == "checks":
        for i in range(-1, int(side / step) + 2):
            at = phase + i * step
            band = mix(base, second, 0.45)
            draw.rectangle((at, 0, at + step * 0.42, side), fill=band)
        for i in range(-1, int(side / step) + 2):
            at = phase + i * step
            overlay = Image.new("RGB", (side, max(1, round(step * 0.42))), second)
            box = (0, round(at), side, round(at) + overlay.height)
            image.paste(Image.blend(image.crop(box), overlay, 0.42), box[:2])
            draw.line(
                (0, at + step * 0.21, side, at + step * 0.21), fill=mix(base, second, 0.8), width=max(1, round(unit))
            )
    elif pattern == "dots":
        r = step * 0.24
        for row in range(-1, int(side / step) + 2):
            for col in range(-1, int(side / step) + 2):
                x, y = phase + (col + 0.5 * (row % 2)) * step, phase + row * step
                draw.ellipse((x - r, y - r, x + r, y + r), fill=second)
    elif pattern == "floral":
        petal = (250, 236, 240) if brightness(base) < 150 else (214, 84, 110)
        for row in range(-1, int(side / step) + 2):
            for col in range(-1, int(side / step) + 2):
                x = phase + (col + 0.5 * (row % 2)) * step + rng.uniform(-2, 2) * unit
                y = phase + row * step + rng.uniform(-2, 2) * unit
                r = step * 0.15
                for dx, dy in ((0, -1.2), (1.15, -0.35), (0.7, 1), (-0.7, 1), (-1.15, -0.35)):
                    cx, cy = x + dx * r, y + dy * r
                    draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=petal)
                draw.ellipse((x - r * 0.7, y - r * 0.7, x + r * 0.7, y + r * 0.7), fill=(244, 190, 60))
    elif pattern == "two_tone":
        cut = rng.uniform(0.6, 0.72) * side
        draw.polygon(
            [(0, cut), (side, cut - rng.uniform(-8, 8) * unit), (side, side), (0, side)], fill=mix(second, base, 0.1)
        )
    if product["material"] in ("wool", "cashmere", "denim", "linen", "canvas", "mesh"):
        for _ in range(160):
            x, y = rng.uniform(0, side), rng.uniform(0, side)
            draw.line((x, y, x + 2 * unit, y + 1.4 * unit), fill=mix(base, colors["dark"], 0.22), width=1)
    return image


def _shade(layer: Image.Image, rng: random.Random) -> Image.Image:
    """Light from one side."""
    pixels = np.asarray(layer, dtype=np.float32).copy()
    ramp = np.linspace(1.07, 0.86, layer.width, dtype=np.float32)
    if rng.random() < 0.5:
        ramp = ramp[::-1]
    pixels[..., :3] *= ramp[None, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGBA")


def cutout(rng: random.Random, product: dict, side: int) -> Image.Image:
    """The product alone on a transparent square."""
    colors = palette(rng, product)
    painter = Painter(side, texture(rng, product, colors, side), colors)
    SHAPES[product["category"]](painter, rng)
    layer = _shade(painter.layer, rng)
    return layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else layer


def _place(layer: Image.Image, size: tuple[int, int], angle: float, scale: float, dx: float, dy: float) -> Image.Image:
    """`layer` rotated and scaled onto the middle of a transparent canvas, moved by shares of the canvas."""
    width, height = size
    side = round(min(width, height) * scale)
    turned = layer.resize((side, side), Image.Resampling.BICUBIC).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    canvas = Image.new("RGBA", size)
    canvas.paste(
        turned, (round((width - turned.width) / 2 + dx * width), round((height - turned.height) / 2 + dy * height))
    )
    return canvas


def _compose(background: Image.Image, layer: Image.Image, shadow: float, rng: random.Random) -> Image.Image:
    """Lays the product over its soft shadow on the background."""
    alpha = layer.getchannel("A")
    offset = round(layer.width * 0.02) + 1
    soft = Image.new("L", layer.size)
    soft.paste(alpha, (rng.choice((-offset, offset)), offset))
    soft = soft.filter(ImageFilter.GaussianBlur(layer.width * 0.018)).point(lambda a: round(a * shadow))
    background.paste((60, 58, 70), (0, 0), soft)
    background.paste(layer.convert("RGB"), (0, 0), alpha)
    return background


SHOP_TONES = [
    (250, 250, 250),
    (238, 240, 243),
    (246, 240, 230),
    (228, 236, 244),
    (244, 230, 232),
    (230, 240, 230),
    (236, 230, 244),
    (216, 220, 226),
]


def catalogue_image(product: dict, seed: int) -> Image.Image:
    """The shop's picture, `[64, 64]` RGB with at most 48 colours."""
    rng = random.Random(seed)
    side = SIDE * SUPERSAMPLE
    tone = rng.choice(SHOP_TONES)
    if product["color"] in ("white", "beige", "gray") and brightness(tone) > 215:
        tone = mix(tone, (176, 188, 206) if product["color"] != "gray" else (255, 255, 255), 0.55)
    layer = _place(
        cutout(rng, product, side),
        (side, side),
        rng.gauss(0, 6),
        rng.uniform(0.8, 0.94),
        rng.uniform(-0.03, 0.03),
        rng.uniform(-0.03, 0.03),
    )
    image = _compose(Image.new("RGB", (side, side), tone), layer, 0.4, rng)
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    image = _finish(image, rng, gain=(0.96, 1.04), tint=0.01, noise=0.6)
    return image.quantize(40, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def photo(product: dict, seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """A customer's picture of such a product, RGB of `size` (width, height)."""
    rng = random.Random(seed)
    canvas = (size[0] * SUPERSAMPLE * SIDE // min(size), size[1] * SUPERSAMPLE * SIDE // min(size))
    layer = _place(
        cutout(rng, product, SIDE * SUPERSAMPLE),
        canvas,
        rng.gauss(0, 11),
        rng.uniform(0.66, 0.95),
        rng.uniform(-0.07, 0.07),
        rng.uniform(-0.07, 0.07),
    )
    image = _compose(_scene(rng, canvas), layer, rng.uniform(0.3, 0.6), rng)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(1, 3)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    return _finish(image, rng, gain=(0.86, 1.1), tint=0.035, noise=rng.uniform(1, 6))


def swatch(product: dict, seed: int) -> Image.Image:
    """A close-up of the product's fabric, `[64, 64]` RGB: colour and pattern, but no shape."""
    rng = random.Random(seed)
    side = SIDE * SUPERSAMPLE
    cloth = texture(rng, product, palette(rng, product), side * 2)
    cloth = cloth.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, center=(side, side))
    image = cloth.crop((side // 2, side // 2, side * 3 // 2, side * 3 // 2)).resize(
        (SIDE, SIDE), Image.Resampling.LANCZOS
    )
    return _finish(image, rng, gain=(0.88, 1.1), tint=0.03, noise=rng.uniform(1, 5))


def _scene(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """A wall, a table or a floor: a toned gradient, sometimes boards or an edge."""
    tone = rng.choice(
        [
            (226, 222, 214),
            (198, 202, 208),
            (186, 158, 124),
            (160, 168, 160),
            (214, 204, 188),
            (150, 150, 158),
            (236, 236, 236),
            (204, 190, 200),
            (176, 192, 206),
        ]
    )
    tone = _jitter(rng, tone, 14)
    image = Image.new("RGB", size, tone)
    draw = ImageDraw.Draw(image)
    kind = rng.random()
    if kind < 0.3:
        y = round(size[1] * rng.uniform(0.55, 0.85))
        draw.rectangle((0, y, size[0], size[1]), fill=mix(tone, (70, 60, 54), rng.uniform(0.1, 0.35)))
    elif kind < 0.55:
        step = round(size[1] * rng.uniform(0.16, 0.3))
        for y in range(rng.randint(0, step), size[1], step):
            draw.line((0, y, size[0], y + rng.randint(-4, 4)), fill=mix(tone, (60, 50, 44), 0.3), width=2)
    return image


def _finish(
    image: Image.Image, rng: random.Random, gain: tuple[float, float], tint: float, noise: float
) -> Image.Image:
    """Exposure, a light gradient, a colour cast and sensor noise."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    height, width, _ = pixels.shape
    generator = np.random.default_rng(rng.getrandbits(32))
    slope = rng.uniform(-0.5, 0.5) * (gain[1] - gain[0])
    light = rng.uniform(*gain) + slope * np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None, None]
    cast = 1 + generator.uniform(-tint, tint, 3).astype(np.float32)
    pixels = pixels * light * cast + generator.normal(0, noise, (height, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), "RGB")
