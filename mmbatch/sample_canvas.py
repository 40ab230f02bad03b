"""The paper that the sample catalog's pictures are drawn on: backdrop, clutter, product coordinates, JPEG bytes."""

import io
from collections.abc import Sequence
from functools import cache
from random import Random

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
"""RGB, 0..255."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in product coordinates."""
Points = Sequence[tuple[float, float]]
"""(x, y) in product coordinates: 0..100 both ways, y downwards, the product stands on y = `GROUND`."""

SIDE = 96
"""Pixels of a picture's side."""
GROUND = 84.0
_SCALE = 2  # drawn twice as large, then averaged: smooth edges
_UNIT = SIDE * _SCALE / 100  # pixels of one product coordinate
_JPEG_QUALITY = 90  # about 2.5 kB a picture

_STUDIO: tuple[Colour, ...] = ((252, 252, 252), (246, 246, 248), (250, 247, 242))
_PASTEL: tuple[Colour, ...] = ((214, 230, 240), (240, 222, 216), (220, 236, 218), (236, 230, 206), (226, 218, 238))
_FLOORS: tuple[Colour, ...] = ((206, 180, 148), (176, 146, 114), (200, 200, 204), (222, 212, 198))


def shade(colour: Colour, factor: float) -> Colour:
    """The colour, darker towards black for `factor` < 1, lighter towards white for `factor` > 1 (2: white)."""
    if factor <= 1:
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
    rest = 2 - factor
    return (
        255 - int((255 - colour[0]) * rest),
        255 - int((255 - colour[1]) * rest),
        255 - int((255 - colour[2]) * rest),
    )


class Canvas:
    """One picture: shapes are given in product coordinates and land moved, stretched and mirrored at random."""

    def __init__(self, rng: Random) -> None:
        self._image = _backdrop(rng)
        self._pen = ImageDraw.Draw(self._image)
        near = rng.random() < 0.08  # a close-up: the edges of the product are cut off
        size = rng.uniform(1.3, 1.6) if near else rng.uniform(0.76, 1.1)
        self._width = size * rng.uniform(0.9, 1.1) * _UNIT
        self._height = size * _UNIT
        self._mirror = -1 if rng.random() < 0.5 else 1
        self._left = (50 + rng.uniform(-8, 8)) * _UNIT
        self._top = (50 + rng.uniform(-6, 6)) * _UNIT

    def box(self, box: Box, colour: Colour, *, radius: float = 0) -> None:
        """A filled rectangle with corners rounded by `radius`."""
        if radius:
            self._pen.rounded_rectangle(self._place_box(box), radius * self._height, colour)
        else:
            self._pen.rectangle(self._place_box(box), colour)

    def disc(self, box: Box, colour: Colour) -> None:
        """A filled ellipse inside `box`."""
        self._pen.ellipse(self._place_box(box), colour)

    def shape(self, points: Points, colour: Colour) -> None:
        """A filled polygon."""
        self._pen.polygon([self._place(x, y) for x, y in points], colour)

    def line(self, points: Points, colour: Colour, *, width: float) -> None:
        """A line through `points`."""
        self._pen.line([self._place(x, y) for x, y in points], colour, self._stroke(width), "curve")

    def ring(self, box: Box, colour: Colour, *, width: float) -> None:
        """An ellipse's outline inside `box`."""
        self._pen.ellipse(self._place_box(box), None, colour, self._stroke(width))

    def arch(self, box: Box, colour: Colour, *, width: float) -> None:
        """The upper half of an ellipse's outline inside `box`."""
        self._pen.arc(self._place_box(box), 180, 360, colour, self._stroke(width))

    def shadow(self, left: float, right: float) -> None:
        """A soft shadow on the ground from `left` to `right`; drawn before the product."""
        blending = ImageDraw.Draw(self._image, "RGBA")
        for margin in (4, 1, -3):
            box = (left - margin, GROUND - 2 - margin / 2, right + margin, GROUND + 3 + margin / 2)
            blending.ellipse(self._place_box(box), (0, 0, 0, 18))

    def jpeg(self, rng: Random) -> bytes:
        """The finished picture as a JPEG file; at times a shop's sticker covers a corner."""
        if rng.random() < 0.12:
            _sticker(self._pen, rng)
        file = io.BytesIO()
        self._image.reduce(_SCALE).save(file, "JPEG", quality=_JPEG_QUALITY)
        return file.getvalue()

    def _place(self, x: float, y: float) -> tuple[float, float]:
        return self._left + (x - 50) * self._width * self._mirror, self._top + (y - 50) * self._height

    def _place_box(self, box: Box) -> Box:
        x0, y0 = self._place(box[0], box[1])
        x1, y1 = self._place(box[2], box[3])
        return min(x0, x1), y0, max(x0, x1), y1

    def _stroke(self, width: float) -> int:
        return max(round(width * self._height), 1)


@cache
def _ramp() -> Image.Image:
    """Mask from 0 at the top to 255 at the bottom."""
    side = SIDE * _SCALE
    return Image.linear_gradient("L").resize((side, side))


def _backdrop(rng: Random) -> Image.Image:
    """Studio paper (about half), a pastel gradient, or a room with wall, floor and things standing about."""
    kind, size = rng.random(), (SIDE * _SCALE, SIDE * _SCALE)
    tone = rng.choice(_STUDIO if kind < 0.5 else _PASTEL)
    paper = Image.composite(
        Image.new("RGB", size, shade(tone, 0.93)), Image.new("RGB", size, shade(tone, 1.5)), _ramp()
    )
    if kind > 0.75:
        _furnish(ImageDraw.Draw(paper), rng)
    return paper


def _furnish(pen: ImageDraw.ImageDraw, rng: Random) -> None:
    """A floor with a skirting board, and up to two of: picture frame, plant, window."""
    floor, skirting = rng.choice(_FLOORS), rng.uniform(60, 78) * _UNIT
    side = SIDE * _SCALE
    pen.rectangle((0, skirting, side, side), shade(floor, rng.uniform(1.1, 1.45)))
    pen.rectangle((0, skirting - 3, side, skirting), (244, 242, 238))
    for prop in rng.sample((_frame, _plant, _window), rng.randrange(3)):
        prop(pen, rng.choice((rng.uniform(2, 14), rng.uniform(74, 88))) * _UNIT, skirting, rng)


def _frame(pen: ImageDraw.ImageDraw, x: float, _: float, rng: Random) -> None:
    width, height, y = rng.uniform(20, 36), rng.uniform(24, 44), rng.uniform(8, 40)
    pen.rectangle((x, y, x + width, y + height), rng.choice(_PASTEL), (90, 76, 64), 3)
    pen.ellipse((x + width / 3, y + height / 3, x + width * 2 / 3, y + height * 2 / 3), rng.choice(_FLOORS))


def _plant(pen: ImageDraw.ImageDraw, x: float, floor: float, rng: Random) -> None:
    y, green = floor + rng.uniform(4, 16), (86, 132 + rng.randrange(30), 90)
    for lean in (-14, -5, 5, 14):
        pen.polygon(((x - 3, y - 18), (x + 3, y - 18), (x + lean, y - rng.uniform(44, 62))), green)
    pen.polygon(((x - 8, y - 18), (x + 8, y - 18), (x + 6, y), (x - 6, y)), (188, 112, 78))


def _window(pen: ImageDraw.ImageDraw, x: float, _: float, rng: Random) -> None:
    y, sky = rng.uniform(6, 24), (196, 222, 240)
    pen.rectangle((x, y, x + 44, y + 56), sky, (250, 250, 250), 4)
    pen.line((x + 22, y, x + 22, y + 56), (250, 250, 250), 3)


def _sticker(pen: ImageDraw.ImageDraw, rng: Random) -> None:
    """A round price sticker with a per cent sign, in one of the upper corners."""
    x, y, r = rng.choice((24, 168)), 24, rng.uniform(14, 20)
    pen.ellipse((x - r, y - r, x + r, y + r), rng.choice(((214, 40, 48), (246, 196, 40), (40, 140, 80))))
    pen.line((x - r / 3, y + r / 3, x + r / 3, y - r / 3), (255, 255, 255), 3)
    for dx in (-r / 2, r / 4):
        pen.ellipse((x + dx, y + dx, x + dx + 5, y + dx + 5), (255, 255, 255))
