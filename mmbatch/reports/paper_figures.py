"""PNG of how much each model contributes to late fusion, in the style of `mmbatch/reports/figures.py`.

Shapes: N products, M models.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from scipy.ndimage import gaussian_filter1d

from mmbatch.reports.figures import COLOURS, FAINT, INK, MUTED, blank_axes, png_bytes, right_hand, shorten, write_title
from mmbatch.reports.paper_analysis import MODEL_MODALITIES, ModelModality, ModelPredictions

SHOWN = (0.5, 99.5)
"""Percentiles between which a model's contributions are drawn: a handful of products would else set the scale."""

BINS = 240
"""Steps of the scale at which a density is taken: about three pixels each."""

NOTE = (
    "to the raw score of the category that late fusion predicts, per product (SHAP values, summed by model); drawn: "
    "the middle 99 % of the products, with median and quartiles; mean size: of what it adds or takes away"
)

MODEL_COLOURS: Mapping[ModelModality, str] = {
    "text": COLOURS["text"],
    "image": COLOURS["image"],
    "fused": "#6f42c1",
}

Floats = npt.NDArray[np.float64]


def contributions_png(predictions: ModelPredictions) -> bytes:
    """Figure 2 of the paper: how each model's contributions to the predictions are distributed, largest mean on top.

    A row's shape is the density of its products, with the median, the quartiles, and on the right the mean of the
    absolute contribution and the number of products that it is taken over.
    """
    known = [column[~np.isnan(column)] for column in predictions.contributions.astype(np.float64).T]
    means = np.array([np.abs(values).mean() for values in known])
    order = np.argsort(-means, kind="stable")
    figure, axes = blank_axes(width=6.6, height=0.46 * len(order))
    edges = _edges(known)
    for row, model in enumerate(order):
        _violin(axes, row, known[model], edges, MODEL_COLOURS[predictions.modalities[model]])
        right_hand(axes, row, f"{means[model]:.2f}", x=1.1)
        right_hand(axes, row, f"{len(known[model]):,}", x=1.23)
    right_hand(axes, -1, "mean size", x=1.1)
    right_hand(axes, -1, "products", x=1.23)
    axes.set_yticks(range(len(order)), [shorten([predictions.models[model]], 40) for model in order], size=9)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(len(order) - 0.5, -0.5))
    axes.axvline(0, color=MUTED, lw=1, zorder=1)
    axes.grid(axis="x", color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", labelsize=8, labelcolor=MUTED)
    axes.set_xlabel("contribution in nats", color=MUTED, size=9, labelpad=6)
    _modality_key(axes, predictions)
    write_title(axes, "What each model contributes", NOTE)
    return png_bytes(figure)


def _edges(known: list[Floats]) -> Floats:
    """Steps of a scale that has room for 0 and for what is drawn of each model."""
    ends = np.concatenate([[0.0], *(_ends(values) for values in known)])
    margin = 0.04 * (np.ptp(ends) or 1.0)
    return np.linspace(ends.min() - margin, ends.max() + margin, BINS + 1)


def _ends(values: Floats) -> Floats:
    """The contributions between which a model's are drawn: of few products the smallest and the largest."""
    ends: Floats = np.percentile(values, SHOWN, method="inverted_cdf")
    return ends


def _violin(axes: Axes, row: int, values: Floats, edges: Floats, colour: str) -> None:
    """Density of one model's contributions, as high as any other's at its peak, with its median and quartiles."""
    low, high = _ends(values)
    quarter, median, three_quarters = np.percentile(values, (25, 50, 75))
    drawn = values[(values >= low) & (values <= high)]
    step = edges[1] - edges[0]
    scott = drawn.std() * len(drawn) ** -0.2  # bandwidth of a normal kernel: Scott 1992
    density = gaussian_filter1d(np.histogram(drawn, edges)[0].astype(float), max(1.0, scott / step), mode="constant")
    half = 0.4 * density / density.max()
    middles = (edges[:-1] + edges[1:]) / 2
    within = (middles >= low - step) & (middles <= high + step)
    axes.fill_between(middles, row - half, row + half, where=within, color=colour, alpha=0.45, lw=0, zorder=2)
    axes.plot([quarter, three_quarters], [row, row], color=INK, lw=3, solid_capstyle="round", zorder=3)
    axes.plot(median, row, "o", mfc="white", mec=INK, mew=1.2, ms=5, zorder=4)


def _modality_key(axes: Axes, predictions: ModelPredictions) -> None:
    """What the colours mean, below the scale."""
    met = [modality for modality in MODEL_MODALITIES if modality in predictions.modalities]
    keys = [Patch(color=MODEL_COLOURS[modality], alpha=0.45, lw=0, label=modality) for modality in met]
    axes.legend(
        handles=keys,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        borderaxespad=3.8,
        ncols=len(keys),
        frameon=False,
        fontsize=9,
    )
