"""Silhouettes of what people wear. Each function draws one product in the painter's 100 x 100 square."""

import random

from painter import Painter, ellipse, mirror, rounded, smooth


def _both(draw, points):
    """Draws a shape and its mirror image."""
    draw(points)
    draw(mirror(points))


def down_jacket(p: Painter, rng: random.Random) -> None:
    """Puffy body and sleeves with quilting seams, stand collar, zip."""
    sleeve = smooth([(29, 20), (17, 28), (9, 50), (6, 74), (18, 78), (25, 56), (33, 42)])
    _both(p.body, sleeve)
    for y in (34, 45, 56, 67):
        seam = [(19 - (y - 34) * 0.32, y - 4), (24 - (y - 34) * 0.14, y), (30 - (y - 34) * 0.25, y + 1)]
        _both(lambda s: p.line(smooth(s, closed=False), 1.1, "dark"), seam)
    p.body(smooth([(35, 15), (29, 20), (27, 45), (25, 70), (28, 88), (50, 90), (72, 88), (75, 70), (73, 45),
        (71, 20), (65, 15), (50, 18)]))
    if rng.random() < 0.5:
        p.paint(smooth([(36, 16), (34, 8), (42, 3), (50, 2), (58, 3), (66, 8), (64, 16), (50, 22)]), "accent", True)
        p.paint(ellipse(50, 13, 9, 7), "dark")
    else:
        p.body(rounded(38, 7, 62, 20, 4))
    for y in range(28, 88, 10):
        p.line(smooth([(27, y), (38, y + 2.4), (50, y + 0.5), (62, y + 2.4), (73, y)], closed=False), 1.2, "dark")
        p.line(smooth([(29, y + 3), (38, y + 5), (47, y + 3.6)], closed=False), 0.9, "light")
    p.line([(50, 10), (50, 89)], 1.6, "metal")


def _torso(p: Painter, hem: float = 88) -> None:
    p.body([(37, 14), (30, 19), (31, 46), (30, hem), (70, hem), (69, 46), (70, 19), (63, 14)])


def t_shirt(p: Painter, rng: random.Random) -> None:
    """Short sleeves, round neck."""
    cuff = rng.uniform(40, 46)
    _both(p.body, [(37, 14), (24, 20), (9, cuff - 3), (22, cuff + 5), (32, 36)])
    p.body([(38, 14), (30, 18), (31, 45), (30, 88), (70, 88), (69, 45), (70, 18), (62, 14), (57, 18), (50, 20),
        (43, 18)])
    p.line(ellipse(50, 13, 12, 8, 15, 165), 2.2, "dark")
    p.line([(30, 85), (70, 85)], 0.7, "dark")


def shirt(p: Painter, rng: random.Random) -> None:
    """Long sleeves, pointed collar, buttons, chest pocket."""
    _both(p.body, [(36, 14), (25, 19), (11, 72), (21, 76), (33, 42)])
    _both(lambda s: p.paint(s, "accent", True), [(11.5, 70), (10, 77), (20, 81), (22, 74)])
    p.body([(37, 14), (30, 18), (31, 45), (30, 84), (36, 90), (64, 90), (70, 84), (69, 45), (70, 18), (63, 14)])
    p.line([(47, 19), (47, 90)], 0.8, "dark")
    p.line([(53, 19), (53, 90)], 0.8, "dark")
    for y in range(27, 88, 11):
        p.paint(ellipse(50, y, 1.5, 1.5), "detail")
    _both(lambda s: p.body(s, shade=0.1), [(38, 10), (34, 17), (43, 27), (50, 18)])
    p.paint([(42, 11), (50, 18), (58, 11), (50, 13)], "dark")
    if rng.random() < 0.7:
        p.line([(56, 36), (65, 36), (65, 47), (60.5, 49), (56, 47), (56, 36)], 0.9, "dark")


def dress(p: Painter, rng: random.Random) -> None:
    """Straps, waist, flared skirt."""
    flare = rng.uniform(16, 24)
    _both(lambda s: p.line(s, 2.6, "dark"), [(41, 4), (40, 18)])
    p.body(smooth([(36, 42), (28, 60), (flare, 92), (36, 95), (50, 92), (64, 95), (100 - flare, 92), (72, 60),
        (64, 42)]))
    for x in (34, 44, 56, 66):
        p.line([(50 + (x - 50) * 0.6, 46), (50 + (x - 50) * 1.5, 92)], 0.8, "dark")
    p.body(smooth([(36, 16), (34, 28), (38, 42), (50, 44), (62, 42), (66, 28), (64, 16), (57, 20), (50, 17),
        (43, 20)]))
    p.paint(rounded(36.5, 40, 63.5, 46, 1.5), "accent", True)


def jeans(p: Painter, rng: random.Random) -> None:
    """Two legs, waistband, pockets, seams."""
    width = rng.uniform(0, 5)
    _both(p.body, [(32, 8), (50, 8), (50, 30), (45 + width * 0.4, 95), (26 - width, 95), (28, 34)])
    p.paint([(31.5, 6), (68.5, 6), (69, 13), (31, 13)], "accent", True)
    for x in (36, 50, 64):
        p.line([(x, 5), (x, 14)], 1.6, "dark")
    p.paint(ellipse(50, 9.5, 1.7, 1.7), "metal")
    _both(lambda s: p.line(s, 1.0, "stitch"), smooth([(33, 24), (40, 22), (43, 14)], closed=False))
    p.line(smooth([(50, 13), (51, 22), (50, 31)], closed=False), 1.1, "dark")
    _both(lambda s: p.line(s, 0.8, "stitch"), [(31, 34), (29 - width * 0.8, 92)])
    _both(lambda s: p.line(s, 0.8, "dark"), [(27, 91), (46, 91)])


def skirt(p: Painter, rng: random.Random) -> None:
    """Waistband and pleats."""
    hem = rng.uniform(76, 88)
    p.body(smooth([(34, 20), (24, 46), (13, hem), (32, hem + 5), (50, hem + 6), (68, hem + 5), (87, hem), (76, 46),
        (66, 20)]))
    for x in (-28, -17, -6, 6, 17, 28):
        p.line([(50 + x * 0.5, 24), (50 + x * 1.15, hem + 3)], 1.0, "dark")
    p.paint(rounded(33, 14, 67, 22, 2), "accent", True)


def sweater(p: Painter, rng: random.Random) -> None:
    """Loose knit: ribbed neck, cuffs and hem."""
    _both(p.body, smooth([(35, 16), (22, 24), (12, 52), (9, 74), (21, 77), (28, 58), (34, 44)]))
    p.body(smooth([(36, 16), (28, 22), (29, 50), (27, 80), (50, 84), (73, 80), (71, 50), (72, 22), (64, 16),
        (50, 19)]))
    p.paint(rounded(27, 80, 73, 90, 3), "accent", True)
    _both(lambda s: p.paint(s, "accent", True), [(8.5, 73), (8, 82), (20, 84), (22, 75)])
    if rng.random() < 0.5:
        p.paint(rounded(38, 6, 62, 19, 4), "accent", True)
        ribs = range(41, 62, 4)
        for x in ribs:
            p.line([(x, 7), (x, 18)], 0.7, "dark")
    else:
        p.paint(ellipse(50, 15, 14, 7), "accent", True)
        p.paint(ellipse(50, 13.5, 10, 5), "dark")
    for x in range(30, 73, 4):
        p.line([(x, 81), (x, 89)], 0.7, "dark")
    for y in range(28, 78, 8):
        for x in range(33, 70, 6):
            p.line([(x - 1.3, y - 1.5), (x, y), (x + 1.3, y - 1.5)], 0.6, "dark")


def sneakers(p: Painter, rng: random.Random) -> None:
    """Side view: thick sole, laces, swoosh-like band."""
    p.paint(rounded(4, 66, 96, 80, 6), "sole", True)
    p.line([(6, 74), (94, 74)], 1.2, "accent")
    p.body(smooth([(8, 34), (6, 52), (6, 68), (50, 69), (94, 68), (93, 57), (76, 50), (60, 40), (47, 27), (40, 31),
        (24, 35), (14, 28)]))
    p.paint(smooth([(94, 67), (92, 56), (82, 53), (76, 60), (78, 68)]), "accent", True)
    p.paint(smooth([(7, 44), (6, 67), (17, 67), (18, 48)]), "accent", True)
    p.line(smooth([(26, 64), (40, 58), (54, 44)], closed=False), 3.6, "detail")
    for x, y in ((47, 31), (53, 36.5), (59, 42), (65, 46)):
        p.line([(x - 3, y + 5), (x + 4, y)], 1.8, "detail")
    p.paint(ellipse(27, 33, 13, 4.5), "dark")


def high_heels(p: Painter, rng: random.Random) -> None:
    """Side view: arched shoe on a thin heel."""
    p.paint([(13, 44), (20, 46), (15, 86), (11, 86)], "dark", True)
    p.paint([(14.5, 46), (19, 47), (14.5, 85), (12, 85)], "accent")
    p.body(smooth([(8, 24), (8, 44), (16, 50), (34, 56), (54, 74), (70, 84), (92, 86), (96, 81), (84, 72),
        (66, 66), (50, 54), (34, 42), (22, 30)]))
    p.line(smooth([(14, 50), (34, 58), (54, 77), (72, 87), (94, 87)], closed=False), 1.8, "dark")
    p.paint(smooth([(10, 25), (12, 38), (30, 46), (50, 60), (62, 65), (48, 53), (30, 40)]), "darker")
    if rng.random() < 0.4:
        p.line(smooth([(9, 26), (20, 18), (32, 26), (30, 40)], closed=False), 2.0, "accent")


def boots(p: Painter, rng: random.Random) -> None:
    """Side view: tall shaft, heel block, laces."""
    top = rng.uniform(6, 20)
    p.paint([(20, 82), (42, 82), (42, 93), (20, 93)], "sole", True)
    p.paint(rounded(44, 84, 93, 92, 3), "sole", True)
    p.body(smooth([(22, top), (21, 40), (18, 66), (20, 86), (56, 87), (92, 86), (93, 74), (80, 64), (62, 58),
        (56, 44), (57, top), (40, top + 2)]))
    p.line([(20, 85), (92, 85)], 1.6, "dark")
    p.paint(ellipse(39.5, top + 1, 17, 3.4), "darker", True)
    for i in range(4):
        y = top + 16 + i * (52 - top - 10) / 4
        p.line([(47, y), (57, y - 3)], 1.8, "detail")
    p.line(smooth([(66, 60), (64, 74), (70, 85)], closed=False), 1.0, "dark")
    p.line([(21, top + 6), (56, top + 6)], 1.0, "accent")


def sandals(p: Painter, rng: random.Random) -> None:
    """A pair from above: foot-shaped soles with crossed straps."""
    for dx in (0, 46):
        sole = smooth([(16 + dx, 8), (8 + dx, 24), (10 + dx, 48), (13 + dx, 70), (12 + dx, 86), (27 + dx, 95),
            (41 + dx, 86), (40 + dx, 66), (45 + dx, 40), (45 + dx, 22), (36 + dx, 8)])
        p.paint(sole, "sole", True)
        p.paint([(27 + dx + (x - 27 - dx) * 0.8, 51 + (y - 51) * 0.88) for x, y in sole], "insole")
        p.tube(smooth([(9 + dx, 44), (22 + dx, 28), (36 + dx, 24), (45 + dx, 32)], closed=False), 9)
        p.tube(smooth([(8 + dx, 26), (22 + dx, 26), (36 + dx, 36), (43 + dx, 50)], closed=False), 9)
        p.tube(smooth([(11 + dx, 72), (26 + dx, 64), (41 + dx, 72)], closed=False), 8)
        p.paint(ellipse(41 + dx, 71, 2, 2), "metal")


def cap(p: Painter, rng: random.Random) -> None:
    """Baseball cap from the side: crown, seams, visor."""
    p.body(smooth([(12, 64), (13, 44), (24, 27), (42, 20), (58, 25), (69, 40), (72, 62), (42, 68)]))
    p.line(smooth([(42, 20), (37, 42), (38, 66)], closed=False), 0.9, "dark")
    p.line(smooth([(42, 20), (56, 36), (60, 64)], closed=False), 0.9, "dark")
    p.paint(ellipse(42, 20, 3.2, 1.9), "accent", True)
    visor = smooth([(40, 64), (56, 56), (72, 57), (90, 63), (97, 72), (78, 70), (58, 71), (44, 74)])
    p.body(visor, shade=0.15)
    p.line(smooth([(45, 71), (60, 67), (80, 67), (95, 71)], closed=False), 0.8, "light")
    p.paint(rounded(48, 38, 58, 48, 2), "accent")


def scarf(p: Painter, rng: random.Random) -> None:
    """Wrapped loop with two fringed ends hanging."""
    for x0, x1, y in ((28, 46, 84), (50, 66, 76)):
        p.body([(x0 + 6, 34), (x1 + 2, 34), (x1, y), (x0, y)])
        for i in range(6):
            x = x0 + 1 + i * (x1 - x0 - 2) / 5
            p.line([(x, y), (x - 0.5, y + 9)], 1.3, "dark")
    p.body(smooth([(18, 26), (26, 12), (50, 8), (74, 12), (82, 26), (76, 42), (50, 48), (24, 42)]))
    p.paint(smooth([(32, 24), (50, 18), (68, 24), (60, 31), (40, 31)]), "darker", True)
    p.line(smooth([(22, 32), (36, 40), (54, 41), (72, 36)], closed=False), 1.0, "dark")
    p.body(smooth([(42, 36), (58, 34), (62, 48), (44, 52)]), shade=0.08)


def sunglasses(p: Painter, rng: random.Random) -> None:
    """Front view: two dark lenses in a coloured frame, temples behind."""
    round_lens = rng.random() < 0.4
    _both(lambda s: p.tube(s, 4), smooth([(6, 42), (3, 34), (10, 24), (20, 20)], closed=False))
    for cx in (27, 73):
        frame = ellipse(cx, 52, 22, 20) if round_lens else smooth([(cx - 23, 36), (cx, 33), (cx + 23, 36),
            (cx + 21, 60), (cx, 70), (cx - 21, 60)])
        p.body(frame)
        lens = [(cx + (x - cx) * 0.76, 52 + (y - 52) * 0.74) for x, y in frame]
        p.paint(lens, (52, 50, 58), True)
        p.line([(cx - 8, 57), (cx + 2, 44)], 2.2, (120, 120, 135))
    p.tube(smooth([(46, 44), (50, 41), (54, 44)], closed=False), 5)


WEAR = {f.__name__: f for f in (down_jacket, t_shirt, shirt, dress, jeans, skirt, sweater, sneakers, high_heels,
    boots,
                                sandals, cap, scarf, sunglasses)}
