"""PNG of how a training run went."""

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmbatch.reports.figures import FAINT, INK, MUTED

LOSS, SCORE = "#d9730d", "#2f6fd0"


def training_curves(name: str, history: Sequence[Mapping[str, float]]) -> bytes:
    """Loss on the train rows and macro-F1 on the fusion rows over the epochs, the kept one marked.

    `history` holds `epoch` (from 0), `loss` and `macro_f1` of each epoch, at least one.
    """
    epochs = [entry["epoch"] + 1 for entry in history]
    best = max(history, key=lambda entry: (entry["macro_f1"], -entry["epoch"]))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    loss, score = figure.subplots(1, 2)
    loss.plot(epochs, [entry["loss"] for entry in history], color=LOSS, marker="o", markersize=4)
    loss.set_title("loss on the train rows", color=INK, fontsize=10)
    loss.set_ylim(bottom=0)
    score.plot(epochs, [entry["macro_f1"] for entry in history], color=SCORE, marker="o", markersize=4)
    score.plot(best["epoch"] + 1, best["macro_f1"], color=SCORE, marker="o", markersize=9, fillstyle="none")
    kept = f"macro-F1 on the fusion rows, epoch {best['epoch'] + 1:.0f} kept: {best['macro_f1']:.4f}"
    score.set_title(kept, color=INK, fontsize=10)
    for axes in (loss, score):
        axes.set_xlabel("epoch", color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=FAINT)
        axes.tick_params(colors=MUTED)
        axes.spines[:].set_color(FAINT)
    figure.suptitle(name, color=INK, fontsize=11, fontweight="bold")
    canvas = io.BytesIO()
    figure.savefig(canvas, format="png", dpi=120)
    return canvas.getvalue()
