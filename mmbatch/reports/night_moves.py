"""Layout of a chart of moves between categories: bands from the category before to the category after.

Lengths are units of the drawing, `WIDTH` wide, in which text is 12.5 high.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mmbatch.reports.figures import shorten
from mmbatch.schema import PATH_SEPARATOR

WIDTH, LEFT, RIGHT = 860, 270, 590
"""Width, and where the bands begin and end; labels stand outside of these."""

BANDS = 20
"""Moves in one chart: as many labels fit on a screen beside each other's bands."""

TALL = 360
"""Of all products together."""

NODE, GAP, THIN = 20, 8, 1.5
"""Least height of a category, which its label needs; space between two; least height of a band."""

COLOURS = 6
"""Of bands; those of one category before share one."""

LABEL = 28
"""Characters of a label."""

NO_CATEGORY = "no category"


class Node(NamedTuple):
    """A category at one side."""

    name: str
    """In full."""
    label: str
    products: int
    y: float
    height: float


class Band(NamedTuple):
    """Products that went from one category to another."""

    before: str
    after: str
    products: int
    path: str
    """Of an SVG path that is filled."""
    colour: int
    """0 to `COLOURS` - 1."""


class MoveChart(NamedTuple):
    """A chart ready to be drawn."""

    height: float
    before: tuple[Node, ...]
    after: tuple[Node, ...]
    bands: tuple[Band, ...]
    products: int
    """Of all bands."""


def move_chart(moves: Sequence[tuple[str | None, str | None, int]]) -> MoveChart | None:
    """Chart of the first `BANDS` moves (category before, after, products above 0); None where there is no move.

    Categories before stand by their products, those after near the categories that their products come from.
    """
    if not moves:
        return None
    shown = [(before or NO_CATEGORY, after or NO_CATEGORY, products) for before, after, products in moves[:BANDS]]
    total = sum(products for _, _, products in shown)
    thickness = {(before, after): max(THIN, TALL * count / total) for before, after, count in shown}
    left = _nodes(sorted(shown, key=lambda move: -_sum(shown, 0, move[0])), 0, thickness)
    middles = {name: node.y + node.height / 2 for name, node in left.items()}
    pulls = {
        after: sum(middles[move[0]] * move[2] for move in shown if move[1] == after) / _sum(shown, 1, after)
        for _, after, _ in shown
    }
    right = _nodes(sorted(shown, key=lambda move: pulls[move[1]]), 1, thickness)
    height = max(node.y + node.height for side in (left, right) for node in side.values())
    return MoveChart(height, tuple(left.values()), tuple(right.values()), _bands(shown, left, right, thickness), total)


def _sum(moves: Iterable[tuple[str, str, int]], side: int, name: str) -> int:
    return sum(move[2] for move in moves if move[side] == name)


def _nodes(
    moves: Sequence[tuple[str, str, int]], side: int, thickness: dict[tuple[str, str], float]
) -> dict[str, Node]:
    """Category -> its place, in the order in which the moves name them."""
    nodes: dict[str, Node] = {}
    y = 0.0
    for name in dict.fromkeys(str(move[side]) for move in moves):
        height = max(NODE, sum(thick for pair, thick in thickness.items() if pair[side] == name))
        label = shorten(name.split(PATH_SEPARATOR), LABEL)
        nodes[name] = Node(name, label, _sum(moves, side, name), y, height)
        y += height + GAP
    return nodes


def _bands(
    moves: Sequence[tuple[str, str, int]],
    left: dict[str, Node],
    right: dict[str, Node],
    thickness: dict[tuple[str, str], float],
) -> tuple[Band, ...]:
    """Bands that leave a category in the order in which they arrive at the other side, so that none of them twist."""
    colours = {name: place % COLOURS for place, name in enumerate(left)}
    starts = _ends(moves, 0, left, right, thickness)
    ends = _ends(moves, 1, right, left, thickness)
    bands = []
    for before, after, products in moves:
        thick = thickness[before, after]
        path = _band(starts[before, after], ends[before, after], thick)
        bands.append(Band(before, after, products, path, colours[before]))
    return tuple(bands)


def _ends(
    moves: Sequence[tuple[str, str, int]],
    side: int,
    here: dict[str, Node],
    there: dict[str, Node],
    thickness: dict[tuple[str, str], float],
) -> dict[tuple[str, str], float]:
    """Pair of categories -> where its band begins at this side, all of them in the middle of the node."""
    found: dict[tuple[str, str], float] = {}
    for name, node in here.items():
        pairs = [(before, after) for before, after, _ in moves if (before, after)[side] == name]
        y = node.y + (node.height - sum(thickness[pair] for pair in pairs)) / 2
        for pair in sorted(pairs, key=lambda pair: there[pair[1 - side]].y):
            found[pair] = y
            y += thickness[pair]
    return found


def _band(start: float, end: float, thick: float) -> str:
    middle = (LEFT + RIGHT) / 2
    return (
        f"M{LEFT} {start:.1f}C{middle:g} {start:.1f} {middle:g} {end:.1f} {RIGHT} {end:.1f}v{thick:.1f}"
        f"C{middle:g} {end + thick:.1f} {middle:g} {start + thick:.1f} {LEFT} {start + thick:.1f}z"
    )
