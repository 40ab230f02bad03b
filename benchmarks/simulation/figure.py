"""The figure of docs/scale.md: time by number of products and cluster, the colour saying what binds."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.simulation.model import RUNS, longest, seconds
from benchmarks.simulation.shapes import SHAPES
from benchmarks.simulation.tables import SIZES, size_name
from mmbatch.reports.figures import FAINT, INK, MUTED, png_bytes

POINTS = 10 ** np.arange(6, 9.01, 0.25)
"""Products."""

COLOURS = {
    "driver": "#c2410c",
    "training worker": "#7c3aed",
    "encode cores": "#2f6fd0",
    "decode cores": "#0e9aa7",
    "cores": "#5b8c2a",
    "GPU": "#111827",
    "store requests": "#d4a017",
    "store bandwidth": "#a16207",
    "start": "#98a2b3",
}
"""Resource -> colour."""

HOURS = {1 / 12: "5 min", 1: "1 hour", 8: "8 hours", 24: "1 day", 24 * 7: "1 week", 24 * 30: "30 days", 8760: "1 year"}


def figure_png() -> bytes:
    """One panel a run, one line a cluster."""
    figure = Figure(figsize=(14, 7), facecolor="white")
    panels = figure.subplots(1, len(RUNS), sharey=True)
    for axes, run in zip(panels, RUNS, strict=True):
        _panel(axes, run)
    met = dict.fromkeys(colour for run in RUNS for colour in _resources(run))
    keys = [Line2D([], [], marker="o", ls="", color=COLOURS[name], label=name) for name in COLOURS if name in met]
    figure.legend(
        handles=keys, loc="lower center", ncols=len(keys), frameon=False, title="what binds the longest stage"
    )
    figure.subplots_adjust(left=0.06, right=0.92, top=0.94, bottom=0.17, wspace=0.3)
    return png_bytes(figure)


def _resources(run: str) -> list[str]:
    return [
        longest(RUNS[run](int(products), shape))[1].partition(":")[0]
        for shape in SHAPES.values()
        for products in POINTS
    ]


def _panel(axes: Axes, run: str) -> None:
    ends = []
    for shape in SHAPES.values():
        found = [RUNS[run](int(products), shape) for products in POINTS]
        hours = [seconds(stages) / 3600 for stages in found]
        colours = [COLOURS[longest(stages)[1].partition(":")[0]] for stages in found]
        axes.plot(POINTS, hours, color=FAINT, lw=1.5, zorder=1)
        axes.scatter(POINTS, hours, c=colours, s=26, zorder=2)
        ends.append((hours[-1], shape.name))
    _name_lines(axes, ends)
    for hours_there in HOURS:
        axes.axhline(hours_there, color=FAINT, lw=0.8, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="products", ylim=(0.03, 3e5))
    axes.set_xticks(SIZES, [size_name(products) for products in SIZES])
    axes.set_yticks(list(HOURS), list(HOURS.values()), color=MUTED)
    axes.minorticks_off()
    axes.set_title(run, loc="left", color=INK, size=11)
    axes.spines[["top", "right"]].set_visible(False)


def _name_lines(axes: Axes, ends: list[tuple[float, str]]) -> None:
    """Names at the lines' ends, pushed apart where they would overlap."""
    lowest = 0.0
    for hours, name in sorted(ends):
        lowest = max(hours, lowest * 1.55)
        axes.annotate(
            name,
            (POINTS[-1], hours),
            (POINTS[-1] * 1.5, lowest),
            size=8,
            color=INK,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.6},
        )
