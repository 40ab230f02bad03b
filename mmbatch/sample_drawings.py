"""What the products of the built-in sample catalog look like: one drawing a leaf, two families sharing one.

Coordinates are those of `sample_canvas`: 0..100 both ways, y downwards, standing on y = GROUND.
"""

from collections.abc import Callable, Mapping
from random import Random

from mmbatch.sample_canvas import GROUND, Canvas, Colour, shade

SAME_DRAWING: tuple[tuple[str, ...], ...] = (
    ("Comics", "Cookbooks", "Novels"),
    ("Conditioners", "Shampoos", "Shower gels"),
)
"""Leaves that are drawn alike: only the text tells them apart."""

_WOODS: tuple[Colour, ...] = ((150, 104, 66), (186, 142, 96), (96, 66, 46), (214, 180, 136))
_METAL: Colour = (186, 190, 196)
_DARK: Colour = (40, 42, 48)
_PAPER: Colour = (250, 248, 242)
_LAMPLIGHT: Colour = (252, 236, 190)
_BOX_SHARE = 0.1
"""Pictures that show the closed carton; furniture and shoes are always photographed unpacked."""

Drawing = Callable[[Canvas, Colour, Random], None]


def draw_picture(*, leaf: str, colour: Colour, rng: Random) -> bytes:
    """A JPEG of a product of `leaf` whose main colour is about `colour`."""
    canvas = Canvas(rng)
    light = rng.uniform(0.9, 1.12)
    drawing = _DRAWINGS[leaf]
    if drawing not in _UNPACKED and rng.random() < _BOX_SHARE:
        drawing = _carton
    drawing(canvas, shade(colour, light), rng)
    return canvas.jpeg(rng)


def _legs(canvas: Canvas, xs: tuple[float, ...], top: float, colour: Colour, width: float = 2.6) -> None:
    for x in xs:
        canvas.box((x - width / 2, top, x + width / 2, GROUND), colour)


def _upholstered(canvas: Canvas, colour: Colour, rng: Random, *, width: float, seats: int, top: float) -> None:
    """Back, arms and `seats` cushions, `width` wide, the back's edge at `top`."""
    left, right, arm = 50 - width / 2, 50 + width / 2, rng.uniform(6, 9)
    canvas.shadow(left, right)
    _legs(canvas, (left + 5, right - 5), 76, rng.choice(_WOODS))
    canvas.box((left + 3, top, right - 3, 74), shade(colour, 0.8), radius=rng.uniform(2, 7))
    step = (width - 2 * arm) / seats
    for seat in range(seats):
        x0, x1 = left + arm + seat * step + 0.6, left + arm + (seat + 1) * step - 0.6
        canvas.box((x0, top + 4, x1, 62), shade(colour, 1.08), radius=3)
        canvas.box((x0, 59, x1, 69), shade(colour, 1.2), radius=3)
    canvas.box((left + 3, 69, right - 3, 78), shade(colour, 0.9), radius=1)
    arms_top = rng.uniform(50, 56)
    for x in (left, right - arm):
        canvas.box((x, arms_top, x + arm, 79), shade(colour, 0.72), radius=3)


def _sofa(canvas: Canvas, colour: Colour, rng: Random) -> None:
    seats = rng.choice((2, 3, 3))
    _upholstered(canvas, colour, rng, width=rng.uniform(60, 68) + 6 * seats, seats=seats, top=rng.uniform(36, 46))


def _armchair(canvas: Canvas, colour: Colour, rng: Random) -> None:
    _upholstered(canvas, colour, rng, width=rng.uniform(42, 56), seats=1, top=rng.uniform(24, 38))


def _bench(canvas: Canvas, colour: Colour, rng: Random) -> None:
    half, wood = rng.uniform(34, 42), rng.choice(_WOODS)
    left, right, seat = 50 - half, 50 + half, rng.uniform(60, 66)
    canvas.shadow(left, right)
    _legs(canvas, (left + 6, right - 6), seat, shade(wood, 0.7), width=4)
    if rng.random() < 0.6:
        _legs(canvas, (left + 6, right - 6), seat - 24, shade(wood, 0.8), width=3)
        for slat in range(3):
            canvas.box((left, seat - 24 + 7 * slat, right, seat - 20 + 7 * slat), wood)
    canvas.box((left, seat, right, seat + 3.5), wood)
    if rng.random() < 0.6:
        canvas.box((left + 2, seat - 4, right - 2, seat), shade(colour, 1.1), radius=2)


def _table(canvas: Canvas, colour: Colour, rng: Random) -> None:
    half, top = rng.uniform(28, 42), rng.uniform(42, 64)
    wood = rng.choice((*_WOODS, colour))
    left, right = 50 - half, 50 + half
    canvas.shadow(left + 4, right - 4)
    if rng.random() < 0.3:
        canvas.box((47, top, 53, GROUND), shade(wood, 0.75))
        canvas.disc((34, GROUND - 4, 66, GROUND + 2), shade(wood, 0.65))
        canvas.disc((left, top - 5, right, top + 5), wood)
        return
    _legs(canvas, (left + 12, right - 12), top, shade(wood, 0.6))
    _legs(canvas, (left + 4, right - 4), top, shade(wood, 0.8), width=3.6)
    canvas.box((left + 3, top, right - 3, top + 6), shade(wood, 0.85))
    canvas.shape(((left, top), (left + 8, top - 6), (right - 8, top - 6), (right, top)), shade(wood, 1.25))
    canvas.box((left, top, right, top + 3), wood)


def _lamp(canvas: Canvas, colour: Colour, rng: Random) -> None:
    tall = rng.random() < 0.5
    top, drop, wide = (14, 20, rng.uniform(14, 20)) if tall else (26, 26, rng.uniform(18, 26))
    stem = rng.choice((_METAL, _DARK, *_WOODS))
    canvas.shadow(36, 64)
    canvas.line(((50, top + drop), (50, GROUND)), stem, width=1.8 if tall else 3)
    if not tall and rng.random() < 0.6:
        canvas.disc((40, top + drop + 4, 60, GROUND), shade(stem, 1.15))
    canvas.disc((38, GROUND - 4, 62, GROUND + 2), shade(stem, 0.8))
    canvas.shape(((50 - wide / 2, top), (50 + wide / 2, top), (50 + wide, top + drop), (50 - wide, top + drop)), colour)
    canvas.shape(((50, top), (50 + wide / 2, top), (50 + wide, top + drop), (50, top + drop)), shade(colour, 0.86))
    canvas.disc((50 - wide, top + drop - 2, 50 + wide, top + drop + 2), _LAMPLIGHT)


def _sneaker(canvas: Canvas, colour: Colour, rng: Random) -> None:
    collar, sole = rng.uniform(46, 56), rng.choice((_PAPER, _PAPER, _DARK, (214, 186, 140)))
    canvas.shadow(14, 88)
    upper = ((14, 78), (13, 58), (18, collar), (24, collar + 3), (40, collar), (62, 64), (82, 68), (88, 78))
    canvas.shape(upper, colour)
    canvas.shape(((64, 65), (82, 68), (88, 78), (66, 78)), shade(colour, 1.3))
    canvas.shape(((14, 78), (13, 58), (22, 60), (24, 78)), shade(colour, 0.75))
    accent = rng.choice((_PAPER, shade(colour, 0.5), shade(colour, 1.5)))
    for x in (34, 42)[: rng.randrange(3)]:
        canvas.line(((x, 77), (x + 9, 62)), accent, width=3)
    for step in range(4):
        canvas.line(
            ((40 + 6 * step, collar + 3 + 3 * step), (46 + 6 * step, collar + 1 + 3.6 * step)), _PAPER, width=1.6
        )
    canvas.box((12, 76, 89, GROUND), sole, radius=3)
    canvas.line(((13, 81), (88, 81)), shade(sole, 0.8), width=1)


def _boot(canvas: Canvas, colour: Colour, rng: Random) -> None:
    top, heel = rng.uniform(16, 40), rng.choice((4, 6, 10))
    canvas.shadow(22, 82)
    canvas.shape(((24, top), (50, top), (51, 58), (72, 66), (82, 72), (83, 80), (24, 80)), colour)
    canvas.shape(((24, top), (33, top), (32, 80), (24, 80)), shade(colour, 0.78))
    canvas.box((23, top - 2, 51, top + 4), shade(colour, 1.2), radius=2)
    if rng.random() < 0.5:
        for step in range(3):
            canvas.line(((44, top + 10 + 7 * step), (52, top + 8 + 7 * step)), _PAPER, width=1.4)
    else:
        canvas.line(((38, top + 4), (38, 62)), shade(colour, 0.6), width=1.4)
    canvas.box((23, 79, 84, 82), shade(colour, 0.4))
    canvas.box((23, 79, 38, 79 + heel), shade(colour, 0.35))


def _sandal(canvas: Canvas, colour: Colour, rng: Random) -> None:
    heel = rng.choice((0, 0, 6, 12))
    sole, dark = rng.choice((*_WOODS, _DARK)), shade(colour, 0.7)
    canvas.shadow(12, 88)
    canvas.ring((11, 52 - heel, 37, 62 - heel), dark, width=2.4)
    canvas.shape(((11, 57 - heel), (15, 59 - heel), (17, 77 - heel), (11, 76 - heel)), colour)
    canvas.shape(((30, 60 - heel), (35, 59 - heel), (42, 78 - heel), (36, 78 - heel)), colour)
    if rng.random() < 0.6:
        canvas.shape(((46, 78), (50, 65), (59, 66), (60, 79)), shade(colour, 0.85))
    canvas.shape(((62, 79), (66, 67), (78, 69), (84, 79)), colour)
    canvas.shape(
        ((10, 75 - heel), (34, 76 - heel), (58, 78), (90, 78), (89, GROUND), (54, GROUND), (34, 81), (11, 80)), sole
    )
    if heel:
        canvas.shape(((11, 78 - heel), (27, 78 - heel), (22, GROUND), (14, GROUND)), shade(sole, 0.8))


def _book(canvas: Canvas, colour: Colour, rng: Random) -> None:
    half, top = rng.uniform(24, 30), rng.uniform(14, 24)
    left, right = 50 - half, 50 + half
    canvas.shadow(left, right)
    canvas.shape(((right, top + 2), (right + 5, top + 5), (right + 5, GROUND - 2), (right, GROUND)), _PAPER)
    canvas.box((left, top, right, GROUND), colour)
    canvas.box((left, top, left + 5, GROUND), shade(colour, 0.75))
    ink = _PAPER if sum(colour) < 480 else _DARK
    for row in range(rng.randrange(1, 3)):
        canvas.box((left + 11, top + 8 + 7 * row, right - 6 - rng.uniform(0, 12), top + 12 + 7 * row), ink)
    _emblem(canvas, rng.choice((shade(colour, 1.5), shade(colour, 0.6), (240, 200, 80), (236, 120, 90))), rng)
    canvas.box((left + 16, GROUND - 9, right - 11, GROUND - 7), ink)


def _emblem(canvas: Canvas, colour: Colour, rng: Random) -> None:
    """What stands on a cover or a T-shirt: a disc, a mountain, a ring or waves."""
    kind = rng.randrange(4)
    if kind == 0:
        canvas.disc((42, 46, 62, 66), colour)
    elif kind == 1:
        canvas.shape(((36, 68), (48, 46), (54, 56), (59, 50), (68, 68)), colour)
    elif kind == 2:
        canvas.ring((42, 46, 62, 66), colour, width=3)
    else:
        for y in (48, 55, 62):
            canvas.line(((38, y), (45, y + 3), (52, y), (59, y + 3), (66, y)), colour, width=2)


def _bottle(canvas: Canvas, colour: Colour, rng: Random) -> None:
    half, top = rng.uniform(13, 20), rng.uniform(30, 40)
    left, right = 50 - half, 50 + half
    canvas.shadow(left, right)
    cap = rng.choice((_PAPER, _DARK, shade(colour, 0.6), _METAL))
    if rng.random() < 0.5:
        canvas.box((48, top - 16, 52, top), cap)
        canvas.box((42, top - 18, 66, top - 13), cap, radius=2)
    else:
        canvas.box((50 - half / 2, top - 9, 50 + half / 2, top + 2), cap, radius=1)
    canvas.box((left, top, right, GROUND), colour, radius=rng.uniform(4, 9))
    canvas.box((left + 2.5, top + 6, left + 5, GROUND - 8), shade(colour, 1.4), radius=1)
    low = rng.uniform(68, 76)
    canvas.box((left + 1, top + 12, right - 1, low), shade(colour, 1.75))
    canvas.box((left + 6, top + 16, right - 5, top + 19), shade(colour, 0.5))
    canvas.disc((44, top + 23, 56, low - 3), shade(colour, 1.2))


def _mug(canvas: Canvas, colour: Colour, rng: Random) -> None:
    half, top = rng.uniform(17, 24), rng.uniform(36, 48)
    left, right = 50 - half, 50 + half
    canvas.shadow(left, right)
    canvas.ring((right - 9, top + 8, right + 14, GROUND - 10), shade(colour, 0.8), width=4.5)
    canvas.box((left, top, right, GROUND - 1), colour, radius=3)
    canvas.box((left + 3, top + 6, left + 7, GROUND - 6), shade(colour, 1.35), radius=1)
    canvas.disc((left, top - 4, right, top + 5), shade(colour, 1.3))
    canvas.disc((left + 2.5, top - 2.5, right - 2.5, top + 3.5), (96, 62, 42))
    if rng.random() < 0.5:
        canvas.box((left, GROUND - 18, right, GROUND - 12), shade(colour, 1.6))
    if rng.random() < 0.3:
        canvas.line(((46, top - 8), (49, top - 13), (46, top - 18), (49, top - 23)), (226, 226, 230), width=1.6)


def _saucepan(canvas: Canvas, colour: Colour, rng: Random) -> None:
    half, top = rng.uniform(22, 28), rng.uniform(54, 64)
    left, right = 42 - half, 42 + half
    body = rng.choice((_METAL, colour, shade(colour, 0.9)))
    canvas.shadow(left, right)
    canvas.box((right - 2, top + 4, right + 30, top + 8.5), rng.choice((_DARK, rng.choice(_WOODS))), radius=2)
    canvas.box((left, top, right, GROUND), body, radius=3)
    canvas.box((left + 4, top + 5, left + 8, GROUND - 4), shade(body, 1.4), radius=1)
    canvas.box((left, GROUND - 5, right, GROUND), shade(body, 0.7), radius=2)
    canvas.box((left - 1, top - 1.5, right + 1, top + 2), shade(body, 1.25), radius=1)
    if rng.random() < 0.5:
        canvas.disc((left, top - 9, right, top + 7), shade(body, 0.9))
        canvas.box((left, top - 1, right, top + 8), body)
        canvas.disc((39, top - 14, 45, top - 8), _DARK)


def _kettle(canvas: Canvas, colour: Colour, rng: Random) -> None:
    top, half = rng.uniform(44, 54), rng.uniform(22, 27)
    left, right = 50 - half, 50 + half
    body = rng.choice((_METAL, colour, colour))
    canvas.shadow(left, right)
    canvas.arch((left + 6, top - 24, right - 6, top + 20), _DARK, width=4)
    canvas.shape(
        ((right - 8, top + 16), (right + 15, top - 3), (right + 19, top + 1), (right - 2, top + 27)), shade(body, 0.8)
    )
    canvas.shape(((left + 10, top), (right - 10, top), (right, GROUND - 3), (left, GROUND - 3)), body)
    canvas.box((left, GROUND - 8, right, GROUND), shade(body, 0.75), radius=3)
    canvas.shape(
        ((left + 13, top + 4), (left + 18, top + 4), (left + 12, GROUND - 10), (left + 6, GROUND - 10)),
        shade(body, 1.4),
    )
    canvas.disc((left + 9, top - 4, right - 9, top + 4), shade(body, 1.2))
    canvas.disc((47, top - 9, 53, top - 3), _DARK)


def _headphones(canvas: Canvas, colour: Colour, rng: Random) -> None:
    half, cup = rng.uniform(24, 30), rng.uniform(11, 15)
    canvas.arch((50 - half, 18, 50 + half, 90), shade(colour, 0.7), width=rng.uniform(4, 6))
    canvas.arch((50 - half + 4, 20, 50 + half - 4, 86), shade(colour, 1.2), width=1.6)
    for side in (-1, 1):
        x = 50 + side * half
        canvas.box((x - cup / 1.4, 48, x + cup / 1.4, 80), shade(colour, 0.6), radius=5)
        outer = x + side * cup / 3
        canvas.box((outer - cup / 2, 45, outer + cup / 2, 83), colour, radius=5)
    if rng.random() < 0.3:
        canvas.line(((50 - half, 80), (50 - half + 8, 88), (50, 90)), _DARK, width=2)


def _screen(canvas: Canvas, colour: Colour, rng: Random, *, half: float, tall: float, bezel: float) -> None:
    """A handheld, `2 * half` wide and `2 * tall` high, with a wallpaper and icons."""
    canvas.box((50 - half, 50 - tall, 50 + half, 50 + tall), shade(colour, 0.45), radius=3.5)
    left, right, top, bottom = 50 - half + bezel, 50 + half - bezel, 50 - tall + bezel, 50 + tall - bezel
    glass = rng.choice(((70, 120, 190), (150, 90, 170), (60, 150, 140), (230, 150, 110), (40, 44, 60)))
    canvas.box((left, top, right, bottom), glass, radius=1.5)
    canvas.shape(
        ((left, bottom), (left, bottom - tall * 0.6), (right, bottom - tall * 0.2), (right, bottom)), shade(glass, 1.3)
    )
    columns, size = rng.choice((3, 4)), 3.4
    for row in range(rng.randrange(1, 4)):
        for column in range(columns):
            x = left + (right - left) * (column + 0.5) / columns
            y = top + 6 + row * 8
            tint = ((236, 90, 80), (250, 200, 70), (250, 250, 250), (100, 200, 130))[(row + column) % 4]
            canvas.box((x - size / 2, y, x + size / 2, y + size), tint)


def _smartphone(canvas: Canvas, colour: Colour, rng: Random) -> None:
    half = rng.uniform(15, 21)
    _screen(canvas, colour, rng, half=half, tall=rng.uniform(33, 38), bezel=rng.uniform(1.2, 2.4))


def _tablet(canvas: Canvas, colour: Colour, rng: Random) -> None:
    half, tall = rng.uniform(21, 29), rng.uniform(32, 38)
    if rng.random() < 0.4:
        half, tall = tall, half
    _screen(canvas, colour, rng, half=half, tall=tall, bezel=rng.uniform(2, 4))


def _keyboard(canvas: Canvas, colour: Colour, rng: Random) -> None:
    rows, columns, top = rng.choice((4, 5)), rng.choice((11, 13)), rng.uniform(40, 50)
    bottom = top + 6.2 * rows + 4
    dark = rng.random() < 0.5
    case, keys = (shade(colour, 0.4), shade(colour, 1.2)) if dark else (shade(colour, 1.5), shade(colour, 0.6))
    canvas.box((7, top + 2, 93, bottom + 2), shade(case, 0.7), radius=3)
    canvas.box((7, top, 93, bottom), case, radius=3)
    step = 82 / columns
    for row in range(rows - 1):
        for column in range(columns):
            x, y = 9 + column * step, top + 2 + row * 6.2
            canvas.box((x + 0.7, y, x + step - 0.7, y + 4.8), keys)
    y = top + 2 + (rows - 1) * 6.2
    for left, right in ((9.7, 26), (28, 70), (72, 90)):
        canvas.box((left, y, right, y + 4.8), keys)


def _tshirt(canvas: Canvas, colour: Colour, rng: Random) -> None:
    cuff, hem, half = rng.uniform(42, 56), rng.uniform(76, 86), rng.uniform(19, 23)
    left, right = 50 - half, 50 + half
    for side in (-1, 1):
        sleeve = ((50 + side * 12, 19), (50 + side * half, 24), (50 + side * 39, cuff - 6), (50 + side * 30, cuff))
        canvas.shape((*sleeve, (50 + side * (half - 1), 42)), shade(colour, 0.85))
    canvas.shape(((38, 18), (62, 18), (right, 24), (right, hem), (left, hem), (left, 24)), colour)
    canvas.disc((41, 12, 59, 25), shade(colour, 0.7))
    canvas.disc((42, 11, 58, 22), (246, 246, 246))
    if rng.random() < 0.6:
        _emblem(canvas, rng.choice((shade(colour, 1.6), shade(colour, 0.5), (236, 180, 60))), rng)


def _dress(canvas: Canvas, colour: Colour, rng: Random) -> None:
    waist, hem, flare = rng.uniform(42, 50), rng.uniform(78, 90), rng.uniform(18, 34)
    if rng.random() < 0.5:
        for side in (-1, 1):
            sleeve = ((50 + side * 12, 18), (50 + side * 28, 28), (50 + side * 23, 36), (50 + side * 12, 32))
            canvas.shape(sleeve, shade(colour, 0.85))
    else:
        for x in (41, 59):
            canvas.line(((x, 10), (x, 24)), colour, width=2.5)
    canvas.shape(((37, 20), (45, 24), (55, 24), (63, 20), (61, waist), (39, waist)), colour)
    canvas.shape(((39, waist), (61, waist), (50 + flare, hem), (50 - flare, hem)), shade(colour, 1.08))
    for fold in (-0.4, 0.1, 0.5):
        canvas.line(((50 + 10 * fold, waist), (50 + flare * fold, hem)), shade(colour, 0.85), width=1.2)
    canvas.box((39, waist - 2, 61, waist + 2), shade(colour, rng.choice((0.55, 1.5))))


def _trousers(canvas: Canvas, colour: Colour, rng: Random) -> None:
    half, cuff, hem = rng.uniform(15, 20), rng.uniform(9, 15), rng.uniform(80, 90)
    for side in (-1, 1):
        centre = 50 + side * rng.uniform(11, 15)
        leg = ((50, 16), (50 + side * half, 16), (50 + side * (half + 4), 34))
        canvas.shape((*leg, (centre + side * cuff / 2, hem), (centre - side * cuff / 2, hem), (50, 42)), colour)
        canvas.line(((50 + side * (half - 3), 20), (50 + side * (half + 1), 28)), shade(colour, 0.6), width=1.2)
    canvas.box((50 - half, 13, 50 + half, 18), shade(colour, 0.75))
    canvas.line(((50, 18), (50, 40)), shade(colour, 0.65), width=1.4)


def _carton(canvas: Canvas, _: Colour, rng: Random) -> None:
    """The closed box it is shipped in."""
    half, top, card = rng.uniform(24, 34), rng.uniform(36, 52), rng.choice(((190, 150, 106), (206, 170, 126)))
    left, right = 50 - half, 50 + half
    canvas.shadow(left, right)
    canvas.box((left, top, right, GROUND), card)
    canvas.shape(((left, top), (left + 8, top - 12), (right - 8, top - 12), (right, top)), shade(card, 1.25))
    canvas.shape(((46, top), (47, top - 12), (53, top - 12), (54, top)), shade(card, 0.85))
    canvas.box((46, top, 54, top + 9), shade(card, 0.85))
    canvas.box((left + 5, GROUND - 15, left + 19, GROUND - 5), _PAPER)


_UNPACKED: tuple[Drawing, ...] = (_sofa, _armchair, _bench, _table, _lamp, _sneaker, _boot, _sandal)

_DRAWINGS: Mapping[str, Drawing] = {
    "Armchairs": _armchair,
    "Benches": _bench,
    "Boots": _boot,
    "Comics": _book,
    "Conditioners": _bottle,
    "Cookbooks": _book,
    "Dresses": _dress,
    "Headphones": _headphones,
    "Kettles": _kettle,
    "Keyboards": _keyboard,
    "Lamps": _lamp,
    "Mugs": _mug,
    "Novels": _book,
    "Sandals": _sandal,
    "Saucepans": _saucepan,
    "Shampoos": _bottle,
    "Shower gels": _bottle,
    "Smartphones": _smartphone,
    "Sneakers": _sneaker,
    "Sofas": _sofa,
    "T-shirts": _tshirt,
    "Tables": _table,
    "Tablets": _tablet,
    "Trousers": _trousers,
}
