"""One picture of a night for a chat, readable at half its size.

Lengths are pixels of the picture, from its upper left corner.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from mmbatch.reports.figures import COLOURS, FAINT, INK, MUTED, blank_axes, png_bytes

WIDTH, HEIGHT = 1200, 630
"""The size that chats show in full."""

DPI, POINT = 150, 72 / 150
"""Of `png_bytes`, and points in a pixel."""

TONES = {"good": "#18794e", "bad": "#c2410c", "warn": "#9a5b00", "plain": "#475467"}
MARGIN, COLUMN = 56, 650
"""Left and right edge, and where the right column begins."""

MOST_BARS, MOST_RULES = 6, 4


def night_png(
    *,
    state: tuple[str, str, str],
    headline: str,
    note: str,
    numbers: Sequence[tuple[str, str]],
    reasons: Mapping[str, int],
    rules: Sequence[str],
    gate: str,
) -> bytes:
    """A PNG file of `WIDTH` x `HEIGHT` pixels.

    Args:
        state: word, sign and tone, as in `night_words.STATES`.
        headline: one sentence, as `night_words.headline`.
        note: one line below it.
        numbers: figure and what it is, four at most.
        reasons: what people call a reason -> products that changed for it, most first.
        rules: those that were breached, one line each.
        gate: one line about the gate as a whole.
    """
    figure, axes = blank_axes(width=WIDTH / DPI, height=HEIGHT / DPI)
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), xticks=[], yticks=[])
    word, sign, tone = state
    axes.fill_between((0, WIDTH), 0, 12, color=TONES[tone], lw=0)
    _write(axes, MARGIN, 62, f"{sign} {word.upper()}", size=26, color=TONES[tone], weight="bold")
    _write(axes, WIDTH - MARGIN, 62, shortened(note, 62), size=21, color=MUTED, ha="right")
    lines = textwrap.wrap(headline[:1].upper() + headline[1:], 48, max_lines=2, placeholder=" …")
    _write(axes, MARGIN, 144, "\n".join(lines), size=34, weight="bold", linespacing=1.2)
    _numbers(axes, numbers, top=215)
    _bars(axes, list(reasons.items()), top=372)
    _rules(axes, rules, gate, tone="bad" if rules else "good", top=372)
    return png_bytes(figure, tight=False)


def shortened(text: str, width: int) -> str:
    """One line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def _write(axes: Axes, x: float, y: float, text: str, *, size: float, color: str = INK, **style: Any) -> None:
    """Text whose middle is at `y`; `size` in pixels."""
    axes.text(x, y, text, size=size * POINT, color=color, va="center", **style)


def _numbers(axes: Axes, numbers: Sequence[tuple[str, str]], *, top: float) -> None:
    width = (WIDTH - 2 * MARGIN + 20) / max(1, len(numbers))
    for place, (figure, what) in enumerate(numbers):
        x = MARGIN + place * width
        box = FancyBboxPatch((x, top), width - 20, 108, boxstyle="round,pad=0,rounding_size=12", fc="#f6f7f9", ec=FAINT)
        axes.add_patch(box)
        _write(axes, x + 22, top + 42, figure, size=40, weight="bold")
        _write(axes, x + 22, top + 83, what, size=20, color=MUTED)


def _bars(axes: Axes, reasons: Sequence[tuple[str, int]], *, top: float) -> None:
    """The most frequent reasons; the last bar stands for all others where they are more than fit."""
    shown = list(reasons[:MOST_BARS])
    if len(reasons) > MOST_BARS:
        others = reasons[MOST_BARS - 1 :]
        shown[-1] = (f"{len(others)} other reasons", sum(count for _, count in others))
    _write(axes, MARGIN, top, "Changes by reason", size=22, weight="bold")
    if not shown:
        _write(axes, MARGIN, top + 40, "no changes", size=21, color=MUTED)
    longest = max((count for _, count in shown), default=1)
    for place, (name, count) in enumerate(shown):
        y = top + 38 + place * 34
        _write(axes, MARGIN + 225, y, shortened(name, 20), size=19, ha="right")
        axes.barh(y, max(3, 230 * count / longest), 20, left=MARGIN + 240, color=COLOURS["text"])
        _write(axes, MARGIN + 250 + max(3, 230 * count / longest), y, f"{count:,}", size=19, color=MUTED)


def _rules(axes: Axes, rules: Sequence[str], gate: str, *, tone: str, top: float) -> None:
    _write(axes, COLUMN, top, shortened(gate, 40), size=20, color=TONES[tone], weight="bold")
    shown = list(rules[:MOST_RULES])
    if len(rules) > MOST_RULES:
        shown[-1] = f"and {len(rules) - MOST_RULES + 1} more"
    for place, rule in enumerate(shown):
        _write(axes, COLUMN, top + 44 + place * 42, f"✕ {shortened(rule, 38)}", size=21)
