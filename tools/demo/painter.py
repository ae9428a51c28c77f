"""A small vector painter: shapes in a 100 x 100 square become one RGBA layer, supersampled by whoever scales it down.

`body` shapes show the product's colour and pattern; `paint` shapes are details in a named or plain colour.
"""

import math

from PIL import Image, ImageDraw

Points = list[tuple[float, float]]
Rgb = tuple[int, int, int]


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """`a` with `share` of `b` in it."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b))


def ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> Points:
    """Points of an ellipse, or of its arc from `start` to `end` degrees (clockwise on the screen, 0 = right)."""
    steps = max(8, round(abs(end - start) / 8))
    angles = (math.radians(start + (end - start) * i / steps) for i in range(steps + 1))
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def rounded(x0: float, y0: float, x1: float, y1: float, r: float) -> Points:
    """A rectangle with corners of radius `r`."""
    return (
        ellipse(x0 + r, y0 + r, r, r, 180, 270)
        + ellipse(x1 - r, y0 + r, r, r, 270, 360)
        + ellipse(x1 - r, y1 - r, r, r, 0, 90)
        + ellipse(x0 + r, y1 - r, r, r, 90, 180)
    )


def smooth(points: Points, closed: bool = True) -> Points:
    """A Catmull-Rom curve through `points`."""
    n = len(points)
    get = (lambda i: points[i % n]) if closed else (lambda i: points[min(max(i, 0), n - 1)])
    out = []
    for i in range(n if closed else n - 1):
        p0, p1, p2, p3 = get(i - 1), get(i), get(i + 1), get(i + 2)
        for step in range(8):
            t = step / 8
            out.append(
                tuple(
                    0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t + (3 * b - a - 3 * c + d) * t**3)
                    for a, b, c, d in zip(p0, p1, p2, p3)
                )
            )
    return out if closed else out + [points[-1]]


def mirror(points: Points) -> Points:
    """The same shape on the other side of the vertical middle line."""
    return [(100 - x, y) for x, y in reversed(points)]


class Painter:
    """Draws on a transparent square of `side` pixels."""

    def __init__(self, side: int, texture: Image.Image, colors: dict[str, Rgb]):
        self.side = side
        self.texture = texture  # RGB, [side, side]: the product's colour and pattern
        self.colors = colors
        self.layer = Image.new("RGBA", (side, side), (*colors["dark"], 0))
        self.draw = ImageDraw.Draw(self.layer)

    def _pixels(self, points: Points) -> Points:
        scale = self.side / 100
        return [(x * scale, y * scale) for x, y in points]

    def _color(self, color: str | Rgb) -> Rgb:
        return self.colors[color] if isinstance(color, str) else color

    def body(self, points: Points, outline: bool = True, shade: float = 0.0) -> None:
        """A shape that shows colour and pattern, darkened by `shade` (0 to 1)."""
        pixels = self._pixels(points)
        mask = Image.new("L", self.layer.size)
        ImageDraw.Draw(mask).polygon(pixels, fill=255)
        texture = self.texture
        if shade:
            texture = Image.blend(texture, Image.new("RGB", texture.size, self.colors["dark"]), shade)
        self.layer.paste(texture, (0, 0), mask)
        if outline:
            self.line(points + points[:1], 0.9, "dark")

    def paint(self, points: Points, color: str | Rgb, outline: bool = False) -> None:
        """A shape in one colour."""
        self.draw.polygon(self._pixels(points), fill=(*self._color(color), 255))
        if outline:
            self.line(points + points[:1], 0.9, "dark")

    def line(self, points: Points, width: float, color: str | Rgb) -> None:
        """A line of `width` hundredths of the square."""
        pixels = max(1, round(width * self.side / 100))
        self.draw.line(self._pixels(points), fill=(*self._color(color), 255), width=pixels, joint="curve")

    def tube(self, points: Points, width: float) -> None:
        """A thick line that shows colour and pattern, with an outline."""
        self.line(points, width + 1.6, "dark")
        mask = Image.new("L", self.layer.size)
        pixels = max(1, round(width * self.side / 100))
        ImageDraw.Draw(mask).line(self._pixels(points), fill=255, width=pixels, joint="curve")
        self.layer.paste(self.texture, (0, 0), mask)
