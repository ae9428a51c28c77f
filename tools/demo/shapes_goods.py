"""Silhouettes of bags, devices and things for the home. Each function draws one product in the 100 x 100 square."""

import random

from painter import Painter, ellipse, mirror, rounded, smooth

SCREENS = [(28, 34, 52), (40, 92, 150), (235, 240, 246), (84, 62, 140), (24, 110, 110)]


def backpack(p: Painter, rng: random.Random) -> None:
    """Front view: rounded body, front pocket, top loop, straps at the sides."""
    _both(p.tube, smooth([(27, 30), (14, 44), (15, 66), (25, 82)], closed=False), 5)
    p.line(ellipse(50, 12, 9, 8, 180, 360), 3.2, "dark")
    p.body(smooth([(28, 22), (36, 11), (50, 9), (64, 11), (72, 22), (77, 54), (76, 86), (68, 93), (32, 93),
        (24, 86), (23, 54)]))
    p.line(smooth([(27, 42), (34, 22), (50, 18), (66, 22), (73, 42)], closed=False), 1.4, "dark")
    p.body(rounded(30, 56, 70, 88, 6), shade=0.12)
    p.line([(33, 63), (67, 63)], 1.6, "metal")
    p.line([(64, 63), (64, 70)], 1.6, "metal")
    p.paint(rounded(44, 38, 56, 46, 2), "accent", True)


def _both(draw, points, *rest):
    """Draws a shape and its mirror image."""
    draw(points, *rest)
    draw(mirror(points), *rest)


def handbag(p: Painter, rng: random.Random) -> None:
    """Trapezoid with an arched handle and a clasp."""
    high = rng.uniform(4, 14)
    p.line(ellipse(50, 42, 21, 42 - high, 180, 360), 5.6, "dark")
    p.line(ellipse(50, 42, 21, 42 - high, 180, 360), 3.4, "accent")
    p.body(smooth([(22, 42), (50, 40), (78, 42), (86, 66), (90, 88), (50, 92), (10, 88), (14, 66)]))
    p.body(smooth([(21, 42), (50, 40), (79, 42), (80, 54), (50, 64), (20, 54)]), shade=0.15)
    p.paint(rounded(45, 58, 55, 67, 1.5), "metal", True)
    _both(lambda s: p.paint(s, "metal"), ellipse(29, 43, 2.6, 2.6))


def suitcase(p: Painter, rng: random.Random) -> None:
    """Upright shell with ribs, telescopic handle, wheels."""
    for x in (40, 60):
        p.line([(x, 6), (x, 26)], 2.2, "metal")
    p.line([(38, 6), (62, 6)], 4, "dark")
    for x in (33, 67):
        p.paint(ellipse(x, 93, 4.6, 4.6), (40, 40, 44))
    p.body(rounded(23, 22, 77, 90, 7))
    for x in (34, 45, 55, 66):
        p.line([(x, 26), (x, 86)], 1.5, "dark")
        p.line([(x + 1.6, 26), (x + 1.6, 86)], 0.8, "light")
    p.line([(23, 56), (77, 56)], 1.4, "accent")
    p.paint(rounded(42, 22, 58, 27, 2), "accent", True)
    for xy in ((25.5, 24.5), (74.5, 24.5), (25.5, 87.5), (74.5, 87.5)):
        p.paint(ellipse(*xy, 3.4, 3.4), "darker")


def headphones(p: Painter, rng: random.Random) -> None:
    """Head band over two padded cups."""
    p.tube(ellipse(50, 54, 36, 42, 188, 352), 8)
    p.line(ellipse(50, 54, 31.5, 37, 205, 335), 2.6, "accent")
    for cx, side in ((17, -1), (83, 1)):
        p.paint(rounded(cx - 3 - side * 9, 47, cx + 7 - side * 9, 85, 4.5), (60, 60, 66), True)
        p.body(rounded(cx - 9, 44, cx + 9, 88, 8))
        p.paint(ellipse(cx + side * 1.5, 66, 4.5, 12), "accent", True)


def phone(p: Painter, rng: random.Random) -> None:
    """The back with its camera island, and the screen of a second one beside it."""
    screen = rng.choice(SCREENS)
    p.paint(rounded(48, 8, 86, 90, 6), (36, 36, 40), True)
    p.paint(rounded(50.5, 11, 83.5, 87, 4), screen)
    for y in (58, 68, 78):
        for x in (58, 67, 76):
            p.paint(rounded(x - 3, y - 3, x + 3, y + 3, 1.5), rng.choice([(240, 120, 90), (110, 200, 140),
                (250, 210, 90), (150, 180, 250)]))
    p.body(rounded(14, 6, 58, 94, 7))
    p.paint(rounded(18, 11, 38, 35, 5), "accent", True)
    for x, y in ((24, 17), (32, 23), (24, 29)):
        p.paint(ellipse(x, y, 3.8, 3.8), (30, 30, 36))
        p.paint(ellipse(x - 1, y - 1, 1.2, 1.2), (130, 150, 190))
    p.paint(ellipse(36, 58, 3, 3), "detail")


def laptop(p: Painter, rng: random.Random) -> None:
    """Open, seen from the front: lid with a screen, keyboard deck."""
    screen = rng.choice(SCREENS)
    p.body(rounded(15, 12, 85, 64, 3))
    p.paint(rounded(20, 17, 80, 58, 1), screen, True)
    glow = tuple(min(255, c + 45) for c in screen)
    p.paint([(20, 44), (40, 28), (55, 40), (66, 32), (80, 46), (80, 58), (20, 58)], glow)
    p.body([(15, 64), (85, 64), (97, 86), (3, 86)])
    for row in range(3):
        y = 67 + row * 4.2
        spread = 30 + row * 2.6
        p.line([(50 - spread, y), (50 + spread, y)], 2.6, (58, 58, 64))
    p.paint([(41, 79.5), (59, 79.5), (60.5, 84.5), (39.5, 84.5)], "accent")
    p.paint([(3, 86), (97, 86), (95, 90), (5, 90)], "darker")


def smartwatch(p: Painter, rng: random.Random) -> None:
    """Strap above and below a square or round face."""
    p.body(smooth([(36, 34), (38, 4), (50, 2), (62, 4), (64, 34)]))
    p.body(smooth([(36, 66), (38, 96), (50, 98), (62, 96), (64, 66)]))
    for y in (78, 84, 90):
        p.paint(ellipse(50, y, 1.6, 1.6), "dark")
    is_round = rng.random() < 0.4
    case = ellipse(50, 50, 28, 28) if is_round else rounded(26, 24, 74, 76, 12)
    p.body(case)
    p.paint(ellipse(50, 50, 22, 22) if is_round else rounded(31, 29, 69, 71, 8), (24, 26, 32), True)
    p.line(ellipse(50, 50, 14, 14, -90, rng.uniform(60, 200)), 3, rng.choice([(240, 90, 90), (90, 220, 140),
        (90, 170, 250)]))
    p.line([(50, 50), (50, 40)], 1.6, (245, 245, 245))
    p.line([(50, 50), (57, 54)], 1.6, (245, 245, 245))
    p.paint(rounded(76, 44, 80, 54, 1.5), "metal", True)


def camera(p: Painter, rng: random.Random) -> None:
    """Body with a prism hump, a big lens, shutter button."""
    p.paint([(36, 26), (41, 14), (59, 14), (64, 26)], "accent", True)
    p.paint(rounded(14, 20, 27, 28, 2), "metal", True)
    p.body(rounded(5, 25, 95, 82, 7))
    p.paint([(5.5, 32), (94.5, 32), (94.5, 36), (5.5, 36)], "accent")
    p.paint(ellipse(50, 55, 25, 25), (46, 46, 50), True)
    p.paint(ellipse(50, 55, 20, 20), (78, 78, 84))
    p.paint(ellipse(50, 55, 15, 15), (24, 26, 38))
    p.paint(ellipse(50, 55, 9, 9), (58, 70, 120))
    p.paint(ellipse(45, 50, 3.4, 3.4), (205, 215, 240))
    p.paint(ellipse(84, 42, 3, 3), (230, 70, 60) if rng.random() < 0.5 else (240, 240, 240))


def keyboard(p: Painter, rng: random.Random) -> None:
    """Rows of keys on a wide board."""
    p.body(rounded(2, 26, 98, 76, 5))
    for row in range(4):
        keys = 11 if row < 3 else 0
        y = 31 + row * 10.6
        for i in range(keys):
            x = 6 + i * 8
            p.paint(rounded(x, y, x + 6.6, y + 8.4, 1.4), "accent" if (row + i) % 7 == 0 else "key")
    for x0, x1 in ((6, 18), (20, 28), (30, 69), (71, 80), (82, 92.6)):
        p.paint(rounded(x0, 62.8, x1, 71.4, 1.4), "key")


def desk_lamp(p: Painter, rng: random.Random) -> None:
    """Jointed arm, cone shade, a pool of light."""
    reach = rng.uniform(-4, 4)
    p.paint([(64 + reach, 43), (92, 42), (99, 72), (52, 74)], (255, 238, 170))
    p.paint(ellipse(34, 90, 24, 6), "dark")
    p.body(ellipse(34, 88, 24, 6))
    p.tube([(34, 86), (22, 50), (60 + reach, 22)], 4.5)
    p.paint(ellipse(22, 50, 4.5, 4.5), "metal", True)
    p.body([(62 + reach, 12), (76 + reach, 14), (97, 42), (56 + reach, 46)])
    p.paint(ellipse(76 + reach / 2, 44.5, 19, 4), (255, 246, 205), True)
    p.paint(ellipse(66 + reach, 14, 5, 5), "accent", True)


def sofa(p: Painter, rng: random.Random) -> None:
    """Two seats, back rest, arms, short legs."""
    for x in (14, 84):
        p.paint([(x - 2, 80), (x + 4, 80), (x + 3, 92), (x - 1, 92)], (96, 66, 40), True)
    p.body(rounded(12, 26, 88, 66, 9))
    p.line([(50, 28), (50, 58)], 1.2, "dark")
    p.body(rounded(14, 56, 51, 72, 5), shade=0.06)
    p.body(rounded(49, 56, 86, 72, 5), shade=0.06)
    p.body(rounded(10, 70, 90, 83, 3), shade=0.16)
    p.body(rounded(3, 44, 18, 84, 7))
    p.body(rounded(82, 44, 97, 84, 7))
    if rng.random() < 0.5:
        p.paint(smooth([(24, 44), (36, 42), (38, 56), (25, 58)]), "accent", True)


def chair(p: Painter, rng: random.Random) -> None:
    """Three-quarter view: back rest, seat, four legs."""
    wood = (134, 94, 58)
    for x0, x1 in ((30, 26), (66, 72)):
        p.line([(x0, 60), (x1, 96)], 3.6, wood)
    for x0, x1 in ((40, 38), (78, 84)):
        p.line([(x0, 54), (x1, 84)], 3, (104, 72, 44))
    p.body(smooth([(30, 6), (50, 3), (70, 6), (72, 30), (69, 48), (50, 50), (32, 48), (29, 30)]))
    if rng.random() < 0.5:
        for x in (41, 50, 59):
            p.line([(x, 10), (x, 44)], 1.8, "dark")
    p.body(smooth([(26, 54), (34, 49), (76, 49), (84, 55), (78, 63), (28, 63)]), shade=0.08)
    p.paint([(28, 62), (78, 62), (78, 66), (28, 66)], "darker")


def mug(p: Painter, rng: random.Random) -> None:
    """Cup with a handle; sometimes steam."""
    p.tube(ellipse(70, 56, 18, 17, -80, 85), 6.5)
    p.body([(18, 28), (70, 28), (68, 84), (62, 90), (26, 90), (20, 84)])
    p.body(ellipse(44, 28, 26, 7), shade=0.1)
    p.paint(ellipse(44, 29, 21.5, 5), (92, 58, 36), True)
    if rng.random() < 0.6:
        for x in (36, 50):
            p.line(smooth([(x, 18), (x + 4, 13), (x - 1, 8), (x + 3, 3)], closed=False), 1.6, (205, 205, 208))


def umbrella(p: Painter, rng: random.Random) -> None:
    """Open canopy with ribs, scalloped edge, hooked handle."""
    p.line([(50, 4), (50, 84)], 2.6, (92, 72, 56))
    p.line(ellipse(57, 84, 7, 9, 0, 180), 3.6, (92, 72, 56))
    top = ellipse(50, 52, 46, 43, 180, 360)
    scallops = []
    for i in range(4):
        scallops += ellipse(84.5 - i * 23, 52, 11.5, 5, 0, -180)
    p.body(top + scallops)
    for x in (27, 50, 73):
        p.line(smooth([(50, 9), (50 + (x - 50) * 0.75, 24), (x, 51)], closed=False), 1.0, "dark")
    p.paint(ellipse(50, 8, 2.4, 3.4), "accent", True)


def thermos(p: Painter, rng: random.Random) -> None:
    """Tall bottle with a cap and a band."""
    p.paint(rounded(38, 4, 62, 22, 4), "accent", True)
    for x in (43, 48, 53, 58):
        p.line([(x, 8), (x, 20)], 0.9, "dark")
    p.paint([(36, 22), (64, 22), (66, 28), (34, 28)], "metal", True)
    p.body(rounded(31, 27, 69, 96, 8))
    p.paint([(31.5, 84), (68.5, 84), (68.5, 89), (31.5, 89)], "metal")
    p.line([(38, 34), (38, 78)], 2.4, "light")
    if rng.random() < 0.4:
        p.line(smooth([(62, 12), (76, 18), (76, 34), (69, 40)], closed=False), 2.8, "dark")


def guitar(p: Painter, rng: random.Random) -> None:
    """Figure-eight body, sound hole, neck, headstock, strings."""
    p.paint([(46.5, 14), (53.5, 14), (54, 58), (46, 58)], (78, 50, 32), True)
    p.paint([(44, 2), (56, 2), (55, 15), (45, 15)], "darker", True)
    p.body(smooth([(50, 42), (34, 44), (30, 54), (35, 62), (26, 72), (26, 88), (38, 97), (50, 98), (62, 97),
        (74, 88), (74, 72), (65, 62), (70, 54), (66, 44)]))
    p.paint([(46.5, 40), (53.5, 40), (53.5, 58), (46.5, 58)], (78, 50, 32))
    p.paint(ellipse(50, 65, 8.5, 8.5), (44, 30, 22), True)
    p.line(ellipse(50, 65, 10, 10), 1.2, "accent")
    p.paint(rounded(41, 84, 59, 88, 1), (60, 40, 28))
    for x in (48, 50, 52):
        p.line([(x, 6), (x, 86)], 0.5, (225, 220, 205))
    for y in (5, 9, 13):
        _both(lambda s: p.paint(s, "metal"), ellipse(42.5, y, 1.8, 1.4))


GOODS = {f.__name__: f for f in (backpack, handbag, suitcase, headphones, phone, laptop, smartwatch, camera, keyboard,
                                 desk_lamp, sofa, chair, mug, umbrella, thermos, guitar)}
