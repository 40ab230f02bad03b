"""PNG figures of an evaluation, readable from one category to thousands, and thumbnails of product images.

C is the number of classes; a class's name is its category path, levels joined by `PATH_SEPARATOR`. With more than
`MOST` classes a figure shows the `MOST` that have most to say, and its second line says which those are.

Each figure is laid out in inches (one cell or bar has a fixed size) on axes as large as the canvas; labels lie outside
of it, and saving with a tight bounding box grows the image to take them in, however long they are.
"""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from itertools import groupby

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image, ImageOps

from mmbatch.metrics import ClassScores
from mmbatch.schema import MODALITIES, PATH_SEPARATOR, Modality

MOST = 40
"""Classes in one figure: forty labels are what one screen shows at a readable size."""

THUMBNAIL = 240
"""Longer side of a thumbnail in pixels: twice its size on the page, for dense screens."""

INK, MUTED, FAINT = "#1d2330", "#667085", "#e4e7ec"
COLOURS: Mapping[Modality, str] = {"image": "#d9730d", "text": "#2f6fd0"}
MARKERS: Mapping[Modality, str] = {"image": "s", "text": "o"}
SHARE = PowerNorm(0.5, vmin=0, vmax=1)
"""Square-root colour scale of shares: a confusion of 4 % already has a fifth of the full colour."""
RIGHT, WRONG = mpl.colormaps["Blues"], mpl.colormaps["Oranges"]

FONTS = ("DejaVu Sans", "Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans KR", "NanumGothic", "Malgun Gothic")
"""Tried in this order for each character, where installed; the first comes with matplotlib and has no Korean."""


def confusion_png(matrix: npt.NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """Confusion matrix [C, C] of counts, gold in rows: classes of one top-level category stand together.

    A cell holds the count, its colour the share of the gold class's products: blue where right, orange where wrong.
    """
    shown = sorted(most_confused(matrix), key=lambda label: classes[label].split(PATH_SEPARATOR))
    n, products = len(shown), np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    counts, share = matrix[np.ix_(shown, shown)], (matrix / products)[np.ix_(shown, shown)]
    cell = min(0.6, max(0.29, 9 / n))
    figure, axes = blank_axes(width=n * cell, height=n * cell)
    diagonal = np.eye(n, dtype=bool)
    for colours, cells in ((RIGHT, diagonal), (WRONG, ~diagonal)):
        axes.imshow(np.ma.array(share, mask=~cells | (counts == 0)), cmap=colours, norm=SHARE, aspect="auto")
    for row, column in zip(*np.nonzero(counts), strict=True):
        ink = "white" if share[row, column] > 0.45 else INK
        axes.text(column, row, _compact(counts[row, column]), ha="center", va="center", size=7, color=ink)
    for empty in np.flatnonzero(matrix[shown].sum(axis=1) == 0):
        axes.axhspan(empty - 0.5, empty + 0.5, color=FAINT, lw=0)
    _label_cells(axes, [classes[label] for label in shown])
    _colour_keys(axes, size=n * cell)
    write_title(axes, "Confusion matrix of the test products", _confusion_note(matrix, shown))
    return png_bytes(figure)


def most_confused(matrix: npt.NDArray[np.int64]) -> list[int]:
    """Labels to show of a matrix [C, C]: all of at most `MOST`, else those of its most frequent confusions.

    Both classes of a confusion are taken, so that its cell is there; places left over go to the largest classes.
    """
    if len(matrix) <= MOST:
        return list(range(len(matrix)))
    wrong = matrix - np.diag(np.diag(matrix))
    cells = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
    met = dict.fromkeys(np.stack(np.unravel_index(cells, wrong.shape), axis=1).ravel().tolist())
    largest = np.argsort(-matrix.sum(axis=1), kind="stable").tolist()
    return list(dict.fromkeys([*met, *largest]))[:MOST]


def per_class_png(scores: ClassScores, classes: Sequence[str]) -> bytes:
    """Bars of F1 per class, weakest first, with the number of products; classes without products are left out."""
    present = np.flatnonzero(scores.support)
    order = present[np.argsort(scores.f1[present], kind="stable")]
    shown = order[:MOST]
    figure, axes = _row_axes([classes[label] for label in shown])
    _bars(axes, scores.f1[shown])
    for row, label in enumerate(shown):
        right_hand(axes, row, f"{scores.support[label]:,}")
    right_hand(axes, -1, "products")
    macro = float(np.nanmean(scores.f1))
    axes.axvline(macro, color=INK, lw=1, ls=(0, (4, 3)))
    note = f"late fusion on the test split, weakest first; dashed line: macro-F1 {100 * macro:.1f}"
    write_title(axes, "F1 of each category, in percent", _selection(note, "the weakest", order, classes))
    return png_bytes(figure)


def modalities_png(fused: ClassScores, single: Mapping[Modality, ClassScores], classes: Sequence[str]) -> bytes:
    """F1 per class by the best model of each modality and fused, by what fusion gains over the better of them."""
    present = np.flatnonzero(fused.support)
    gain = fused.f1[present] - np.max([scores.f1[present] for scores in single.values()], axis=0)
    order = np.argsort(-gain, kind="stable")
    ends = np.concatenate([order[: MOST // 2], order[MOST // 2 :][-(MOST - MOST // 2) :]])
    shown = present[ends]
    figure, axes = _row_axes([classes[label] for label in shown])
    points = np.stack([scores.f1[shown] for scores in (fused, *single.values())])
    rows = np.arange(len(shown))
    axes.hlines(rows, points.min(axis=0), points.max(axis=0), color="#c3c9d4", lw=2, zorder=1)
    for modality in (modality for modality in MODALITIES if modality in single):
        f1, marker, colour = single[modality].f1[shown], MARKERS[modality], COLOURS[modality]
        axes.plot(f1, rows, marker, color=colour, ms=6, label=f"{modality} alone", clip_on=False)
    axes.plot(fused.f1[shown], rows, "o", mfc="none", mec=INK, mew=1.8, ms=10, label="fused", clip_on=False)
    for row, value in enumerate(gain[ends]):
        right_hand(axes, row, f"{100 * value:+.1f}".replace("-", "−"))
    right_hand(axes, -1, "gain")
    axes.legend(loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=2.6, ncols=3, frameon=False, fontsize=9)
    note = "on the test split; gain: points of late fusion over the better single modality"
    note = _selection(note, "where fusion gains most and least", order, classes)
    write_title(axes, "F1 by text, by image and by both, in percent", note)
    return png_bytes(figure)


def stress_png(macro: Mapping[str, float]) -> bytes:
    """Bars of macro-F1 by what is left of the products, as they are first, with the points that each row loses."""
    figure, axes = _row_axes(list(macro))
    f1 = np.array(list(macro.values()))
    _bars(axes, f1)
    for row, change in enumerate(f1[1:] - f1[0], start=1):
        right_hand(axes, row, f"{100 * change:+.1f}".replace("-", "−"))
    right_hand(axes, -1, "change")
    axes.axvline(f1[0], color=INK, lw=1, ls=(0, (4, 3)))
    write_title(
        axes, "Macro-F1 with parts removed, in percent", "late fusion on test products; dashed line: as they are"
    )
    return png_bytes(figure)


def thumbnail_jpeg(image: bytes) -> bytes | None:
    """A JPEG of at most `THUMBNAIL` pixels a side, upright, on white; None where `image` cannot be decoded."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    upright.thumbnail((THUMBNAIL, THUMBNAIL))
    paper = Image.new("RGBA", upright.size, "white")
    paper.alpha_composite(upright)
    written = io.BytesIO()
    paper.convert("RGB").save(written, "JPEG", quality=82, optimize=True)
    return written.getvalue()


def _confusion_note(matrix: npt.NDArray[np.int64], shown: Sequence[int]) -> str:
    products, right = int(matrix.sum()), int(np.trace(matrix))
    note = f"late fusion: {right:,} of {products:,} products right"
    if len(shown) < len(matrix):
        part = matrix[np.ix_(shown, shown)]
        mistakes = int(part.sum() - np.trace(part))
        note += f"; shown: the {len(shown)} most confused of {len(matrix):,} categories, with {mistakes:,} of "
        note += f"{products - right:,} mistakes"
    if not matrix[shown].sum(axis=1).all():
        note += "; grey rows: no products"
    return note


def _selection(note: str, which: str, order: npt.NDArray[np.intp], classes: Sequence[str]) -> str:
    """`note`, with a word on the classes that the figure leaves out."""
    if len(order) > MOST:
        note += f"; shown: {MOST} of {len(order):,} categories, {which}"
    if without := len(classes) - len(order):
        note += f"; {without:,} without test products (not shown)"
    return note


def _label_cells(axes: Axes, names: Sequence[str]) -> None:
    """Tick labels, cell borders, and a bracket with its name beside the rows of each top-level category."""
    n, paths = len(names), [name.split(PATH_SEPARATOR) for name in names]
    deep = any(len(path) > 1 for path in paths)
    labels = [shorten(path[1:] if deep and len(path) > 1 else path, 30) for path in paths]
    axes.set_xticks(range(n), labels, rotation=90, size=8)
    axes.set_yticks(range(n), labels, size=8)
    axes.set_xlabel("predicted category", color=MUTED, labelpad=10, size=9)
    axes.set_ylabel("gold category", color=MUTED, labelpad=10, size=9)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=FAINT, lw=0.6)
    axes.tick_params(which="both", length=0)
    for top, group in groupby(range(n), key=lambda row: paths[row][0]) if deep else ():
        rows = list(group)
        first, last = rows[0], rows[-1]
        axes.plot([n - 0.3, n - 0.3], [first - 0.4, last + 0.4], color=MUTED, lw=1.2, clip_on=False)
        axes.text(n - 0.1, (first + last) / 2, shorten([top], 34), size=8, va="center", color=INK)
        if first:
            axes.axhline(first - 0.5, color=MUTED, lw=0.8)
            axes.axvline(first - 0.5, color=MUTED, lw=0.8)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))


def _colour_keys(axes: Axes, *, size: float) -> None:
    """The two colour scales, in the corner below the row labels, which is free at any number of classes."""
    for line, (name, colours) in enumerate((("right", RIGHT), ("wrong", WRONG))):
        inset = axes.inset_axes((-2.05 / size, -(0.42 + 0.52 * line) / size, 1.3 / size, 0.12 / size))
        key = axes.figure.colorbar(ScalarMappable(SHARE, colours), cax=inset, orientation="horizontal")
        key.set_ticks([0, 0.1, 0.5, 1], labels=["0", "10", "50", "100 %"])
        key.ax.tick_params(labelsize=7, length=2, color=MUTED, labelcolor=MUTED)
        key.outline.set_visible(False)
        inset.set_ylabel(name, rotation=0, ha="right", va="center", size=8, color=INK)


def blank_axes(*, width: float, height: float) -> tuple[Figure, Axes]:
    """Axes of a given size in inches, without frame, on a figure of the same size."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.spines[:].set_visible(False)
    axes.tick_params(labelcolor=INK)
    return figure, axes


def _row_axes(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Axes from 0 to 100 % with one labelled row for each name, first on top."""
    n = max(1, len(names))
    figure, axes = blank_axes(width=6.6, height=0.27 * n)
    axes.set_yticks(range(len(names)), [shorten(name.split(PATH_SEPARATOR), 56) for name in names], size=8.5)
    axes.set_xticks(np.linspace(0, 1, 6), [f"{percent}" for percent in range(0, 101, 20)], size=8, color=MUTED)
    axes.set(xlim=(0, 1), ylim=(n - 0.5, -0.5))
    axes.grid(axis="x", color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    return figure, axes


def _bars(axes: Axes, f1: npt.NDArray[np.float64]) -> None:
    """A bar per row, with its figure at the end."""
    axes.barh(range(len(f1)), f1, height=0.66, color=COLOURS["text"])
    paper = {"facecolor": "white", "linewidth": 0, "pad": 1.5}
    for row, value in enumerate(f1):
        axes.text(value + 0.01, row, f"{100 * value:.1f}", va="center", size=8, color=INK, bbox=paper)


def right_hand(axes: Axes, row: int, text: str, *, x: float = 1.14) -> None:
    """A figure or, at row -1, a heading in a column right of the rows, which ends at `x` widths of the axes."""
    ink, place = MUTED if row < 0 else INK, axes.get_yaxis_transform()
    axes.text(x, row, text, transform=place, ha="right", va="center", size=8, color=ink)


def write_title(axes: Axes, title: str, note: str) -> None:
    """A bold title above the axes, and between them a note, broken into lines."""
    lines = textwrap.fill(note, 110)
    axes.annotate(
        lines, (0, 1), (0, 24), "axes fraction", "offset points", size=8.5, color=MUTED, va="bottom", linespacing=1.4
    )
    above = 30 + 13 * (1 + lines.count("\n"))
    axes.annotate(title, (0, 1), (0, above), "axes fraction", "offset points", size=13, weight="bold", color=INK)


def shorten(path: Sequence[str], width: int) -> str:
    """A category path in at most `width` characters: the levels in the middle go first, then the end."""
    levels = [" ".join(level.split()) for level in path]
    text = PATH_SEPARATOR.join(levels)
    if len(text) > width and len(levels) > 1:
        text = PATH_SEPARATOR.join(["…", levels[-1]])
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _compact(count: int) -> str:
    """A count in at most four characters."""
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= 10 * unit:
            return f"{count // unit}{letter}"
    return str(count)


def png_bytes(figure: Figure, *, tight: bool = True) -> bytes:
    """The figure as PNG bytes, 150 dots per inch; category names are plain text, never formulas.

    `tight` grows the image by what lies outside of the figure; without, the image is as large as the figure.
    """
    installed = set(fontManager.get_font_names())
    for text in figure.findobj(Text):
        text.set(family=[font for font in FONTS if font in installed], parse_math=False)
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # drawn as a box
        bounds = "tight" if tight else None
        figure.savefig(written, format="png", dpi=150, bbox_inches=bounds, pad_inches=0.25, facecolor="white")
    return written.getvalue()
