"""PNG figures of confidences: are they as high as predictions are right, and what does abstaining leave out?"""

from matplotlib.axes import Axes

from mmbatch.confidence_metrics import Reliability, RiskCoverage, error_of
from mmbatch.reports.figures import COLOURS, FAINT, INK, MUTED, blank_axes, png_bytes, write_title

BEFORE, AFTER = "#98a2b3", COLOURS["text"]

WIDTH, HEIGHT = 6.6, 4.2
"""Of the upper or only axes, in inches."""

BARS = 0.3
"""Height of the counts below the reliability diagram, in heights of the diagram; the gap between is half of it."""

SMALLEST, LARGEST = 12, 260
"""Area in square points of a dot with hardly a product and with all of them."""

SETTLED = 0.02
"""Coverage from which a curve is shown in full: before, one mistake among few products is a large share of them."""


def reliability_png(before: Reliability, after: Reliability) -> bytes:
    """Reliability diagram before and after temperature scaling: accuracy by confidence, and below, where products are.

    Calibrated confidences lie on the dashed line; below it, predictions are right less often than their confidence
    says. A dot's area grows with its products. Both count the same products, at least one, in the same bins.
    """
    figure, axes = blank_axes(width=WIDTH, height=HEIGHT)
    below = figure.add_axes((0, -1.5 * BARS, 1, BARS), sharex=axes)
    axes.plot((0, 1), (0, 1), color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
    width = (after.highest - after.lowest) * 0.4
    for found, name, colour, side in ((before, "before", BEFORE, -0.5), (after, "after", AFTER, 0.5)):
        shares = found.products / found.products.sum()
        below.bar((found.lowest + found.highest) / 2 + side * width, shares, width, color=colour)
        label = f"{name}: calibration error {100 * error_of(found):.1f} points"
        has = found.products > 0
        axes.plot(found.confidence[has], found.accuracy[has], color=colour, lw=1.2, label=label)
        sizes = SMALLEST + (LARGEST - SMALLEST) * shares[has]
        axes.scatter(found.confidence[has], found.accuracy[has], sizes, color=colour, ec="white", lw=0.6, zorder=2)
    for part in (axes, below):
        _percentages(part)
    axes.set(ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
    axes.tick_params(labelbottom=False)
    axes.set_ylabel("right, percent", color=MUTED, size=9, labelpad=8)
    below.set_ylabel("products,\npercent", color=MUTED, size=9, labelpad=8)
    below.set_xlabel("confidence, percent", color=MUTED, size=9, labelpad=8)
    below.locator_params(axis="y", nbins=4)
    axes.legend(
        loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=0.9, ncols=2, frameon=False, fontsize=9, labelcolor=INK
    )
    note = f"late fusion before and after temperature scaling; {after.products.sum():,} products"
    note += "; dashed line: as often as confidence says"
    write_title(axes, "How often predictions are right, by confidence", note)
    return png_bytes(figure)


def risk_coverage_png(
    curve: RiskCoverage, *, target: float | None, accepted_coverage: float, accepted_risk: float
) -> bytes:
    """Share of mistakes among the surest products, by how many of them are accepted, with the target and what came out.

    Args:
        curve: of the products' categories, whatever was decided for them.
        target: precision to reach, 0 to 1; None: there is none.
        accepted_coverage: share of the products whose category was accepted, 0 to 1; at 0 no point is drawn.
        accepted_risk: share of these that is wrong, 0 to 1. With one threshold for all categories the point lies on the
            curve, with some of their own beside it.
    """
    figure, axes = blank_axes(width=WIDTH, height=HEIGHT)
    axes.step(curve.coverage, curve.risk, where="post", color=AFTER, lw=1.8)
    allowed = 0.0 if target is None else 1 - target
    top = 1.2 * max(*curve.risk[curve.coverage >= SETTLED], allowed, accepted_risk, 0.01)
    _percentages(axes)
    axes.set(xlim=(0, 1), ylim=(-0.015 * top, top))
    axes.set_xlabel("coverage: products accepted, the surest first, percent", color=MUTED, size=9, labelpad=8)
    axes.set_ylabel("risk: wrong among them, percent", color=MUTED, size=9, labelpad=8)
    note = f"late fusion on the test products; all of them: {100 * curve.risk[-1]:.1f} % wrong"
    if target is not None:
        axes.axhline(allowed, color=INK, lw=1, ls=(0, (4, 3)))
        note += f"; dashed line: a precision of {100 * target:g} %"
    if accepted_coverage:
        axes.plot(accepted_coverage, accepted_risk, "o", mfc="white", mec=INK, mew=1.8, ms=9, clip_on=False, zorder=3)
        note += f"; circle: what was accepted, {100 * accepted_coverage:.1f} % with {100 * accepted_risk:.1f} % wrong"
    write_title(axes, "Mistakes among the products accepted", note)
    return png_bytes(figure)


def _percentages(axes: Axes) -> None:
    """Both axes in percent, over a light grid."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    axes.grid(color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
