"""Layout of trend charts: one figure of many nights over time.

Lengths are units of the drawing, `WIDTH` x `HEIGHT`.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

WIDTH, HEIGHT, EDGE = 600, 140, 8
"""Of a chart, and what it leaves free inside of each edge for the marks."""

NEAR = 0.5
"""Lowest figure, as a share of the highest, above which the scale does not begin at 0.

A catalog that grows by a hundredth in a week would be a flat line.
"""

MARKED = ("refused", "approved", "rolled back")
"""States of nights that are marked in a chart."""


class Mark(NamedTuple):
    """A night that stands out."""

    x: float
    y: float
    state: str
    text: str


class Trend(NamedTuple):
    """A chart ready to be drawn."""

    title: str
    note: str
    latest: str
    lowest: str
    """Figure at the bottom of the scale."""
    highest: str
    line: str
    """Points of an SVG polyline."""
    marks: tuple[Mark, ...]
    end: tuple[float, float]
    """The newest night."""


def trend(
    title: str,
    note: str,
    values: Sequence[float],
    *,
    times: Sequence[datetime],
    states: Sequence[str],
    text: Callable[[float], str],
) -> Trend:
    """Chart of a figure of each night, at least one, the oldest first; `text` writes one figure."""
    low = min(values) if min(values) > NEAR * max(values) else 0.0
    span, start, length = max(values) - low, times[0], (times[-1] - times[0]).total_seconds()
    xs = [_within(_share((time - start).total_seconds(), length, 0.5), WIDTH) for time in times]
    ys = [HEIGHT - _within(_share(value - low, span, 0.5 if low else 0.0), HEIGHT) for value in values]
    marks = tuple(
        Mark(x, y, state, f"{time:%Y-%m-%d}: {state}, {text(value)}")
        for x, y, state, time, value in zip(xs, ys, states, times, values, strict=True)
        if state in MARKED
    )
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return Trend(title, note, text(values[-1]), text(low), text(max(values)), line, marks, (xs[-1], ys[-1]))


def _share(part: float, whole: float, nothing: float) -> float:
    return part / whole if whole else nothing


def _within(share: float, length: float) -> float:
    return EDGE + share * (length - 2 * EDGE)
