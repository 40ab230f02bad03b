"""The evaluation of a predictor as a terminal table, as JSON and as one self-contained HTML page with its figures."""

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from mmbatch.metrics import ClassScores
from mmbatch.reports.confidence import Confidence
from mmbatch.reports.figures import MOST, confusion_png, modalities_png, per_class_png, stress_png, thumbnail_jpeg
from mmbatch.reports.page import bars, data_uri, duration, no_picture, page_environment
from mmbatch.schema import Modality, Split
from mmbatch.storage import put_files

Role = Literal["text encoder", "image encoder", "fusion head", "late fusion"]

ROLES: tuple[Role, ...] = get_args(Role)
SINGLE: Mapping[Role, Modality] = {"text encoder": "text", "image encoder": "image"}
"""Roles of the models that see one modality only."""

GALLERY = 12
"""Products in each gallery of the page: three rows of four."""

SCORED: tuple[Split, ...] = ("train", "fusion", "test")
"""Splits of the tables: calibration products change no category."""

HONESTY = (
    "The encoders were fitted on the train products; their training was stopped, and late fusion fitted, on the fusion "
    "products; calibration products, a few more, fitted its confidence. No model has seen the test products: only the "
    "test column is an honest estimate."
)

LEVELS = "Accuracy in percent on each level, test products; hF1: hierarchical F1"

STRESS = "F1 in percent of late fusion on test products with parts removed"


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """F1 of one model on one split, each figure in 0..1 (`mmbatch.metrics.f1_scores`)."""

    model: str
    role: Role
    split: Split
    rows: int
    macro: float
    micro: float
    weighted: float


@dataclass(frozen=True, kw_only=True)
class LevelRow:
    """How right one model is on the test products on each level of their categories, each figure in 0..1."""

    model: str
    rows: int
    accuracies: tuple[float, ...]
    """Of each level, root first (`mmbatch.metrics.level_accuracies`)."""
    hierarchical_f1: float
    """`mmbatch.metrics.hierarchical_scores`."""
    kakao: float | None
    """The Kakao arena's score, 0 to 1.225 (`mmbatch.metrics.kakao_score`); None where there are not four levels."""


@dataclass(frozen=True, kw_only=True)
class StressRow:
    """F1 of late fusion, in 0..1, on a sample of the test products of which a part is removed."""

    input: str
    """What is left of each product, or is not: `all`, `no image`, `title only`."""
    rows: int
    macro: float
    micro: float


@dataclass(frozen=True, kw_only=True)
class Example:
    """One test product to look at; categories are strings, levels joined by `PATH_SEPARATOR`."""

    product_id: str
    title: str | None
    image: bytes | None
    """Encoded image file; None: the product has none."""
    gold: str
    predicted: str
    """By late fusion."""
    confidence: float
    """Probability of `predicted`, 0..1."""
    model_categories: Mapping[str, str]
    """Model -> its own best category; a model that could not score the product is left out."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that a report shows. C is the number of classes."""

    workspace: str
    predictor: str
    run_id: str
    classes: tuple[str, ...]
    """Category strings, levels joined by `PATH_SEPARATOR`, in label order."""
    table: tuple[ScoreRow, ...]
    """One row per model and split; of late fusion and the encoders the test split is always there."""
    confusion: npt.NDArray[np.int64]
    """[C, C], gold in rows: late fusion on the test split."""
    per_class: Mapping[str, ClassScores]
    """Model -> its figures on the test split: late fusion, and the best encoder of each modality in the table."""
    counts: Mapping[str, int]
    """What the catalog holds, by name, in the order to show."""
    late_fusion: Mapping[str, object]
    """Facts about the fitted late fusion: numbers, strings, or mappings of model to number."""
    levels: tuple[LevelRow, ...]
    """Of each model; none where no category has a second level."""
    confidence: Confidence
    """On the test split."""
    stress: tuple[StressRow, ...]
    """The products as they are (`all`) come first; every row is of the same ones."""
    examples: tuple[Example, ...]
    timings: Mapping[str, float]
    """Stage -> seconds."""


class _Model(NamedTuple):
    name: str
    role: Role
    splits: Mapping[Split, ScoreRow]


def table_text(evaluation: Evaluation) -> str:
    """F1 in percent as plain text: a row per model, by role, and macro, micro and weighted F1 on each split.

    Below it the levels, where there are several, and the stress table.
    """
    models = _models(evaluation)
    name_width = max(map(len, ["model", *(model.name for model in models)]))
    role_width = max(map(len, ROLES))
    above, heads = " " * (role_width + 2 + name_width), f"{'role':{role_width}}  {'model':{name_width}}"
    for split in SCORED:
        above += f"   {f'{split} ({_rows(evaluation, split)})':^23}"
        heads += f"   {'macro':>6}  {'micro':>6} {'weighted':>8}"
    lines = [f"F1 in percent, {evaluation.predictor}", above.rstrip(), heads, "-" * len(heads)]
    for model in models:
        line = f"{model.role:{role_width}}  {model.name:{name_width}}"
        for split in SCORED:
            macro, micro, weighted = (_percent(figure) for figure in _figures(model.splits.get(split)))
            line += f"   {macro:>6}  {micro:>6} {weighted:>8}"
        lines.append(line)
    return (
        "\n".join(
            [
                *lines,
                *textwrap.wrap(HONESTY, len(heads)),
                "",
                *_level_lines(evaluation.levels),
                *evaluation.confidence.lines(),
                "",
                *_stress_lines(evaluation.stress),
            ]
        )
        + "\n"
    )


def _level_lines(rows: Sequence[LevelRow]) -> list[str]:
    if not rows:
        return []
    width = max(len("model"), *(len(row.model) for row in rows))
    levels = "".join(f"  {f'level {level}':>7}" for level in range(1, len(rows[0].accuracies) + 1))
    heads = f"{'model':{width}}{levels}  {'hF1':>6}" + ("" if rows[0].kakao is None else f"  {'Kakao':>6}")
    lines = [
        f"{row.model:{width}}{''.join(f'  {_percent(accuracy):>7}' for accuracy in row.accuracies)}"
        f"  {_percent(row.hierarchical_f1):>6}" + ("" if row.kakao is None else f"  {row.kakao:.4f}")
        for row in rows
    ]
    return [LEVELS, heads, "-" * len(heads), *lines, ""]


def _stress_lines(rows: Sequence[StressRow]) -> list[str]:
    width = max(len(row.input) for row in rows)
    heads = f"{'input':{width}}  {'macro':>6}  {'micro':>6}  {'rows':>6}"
    lines = [f"{row.input:{width}}  {_percent(row.macro):>6}  {_percent(row.micro):>6}  {row.rows:>6,}" for row in rows]
    return [STRESS, heads, "-" * len(heads), *lines]


def write_report(folder_uri: str, evaluation: Evaluation) -> str:
    """Write `report.html`, its figures and `metrics.json` to a folder or `s3://` prefix; the page's URI.

    The page comes last: where it is, everything else is too. It loads nothing from anywhere.
    """
    figures = {
        "confusion_matrix.png": confusion_png(evaluation.confusion, evaluation.classes),
        "per_class_f1.png": per_class_png(_fused(evaluation), evaluation.classes),
        "modalities.png": modalities_png(_fused(evaluation), _single(evaluation), evaluation.classes),
        "stress.png": stress_png({row.input: row.macro for row in evaluation.stress}),
        **evaluation.confidence.figures(),
    }
    page = _page(evaluation, figures)
    files = {**figures, "metrics.json": _metrics_json(evaluation), "report.html": page.encode()}
    return put_files(folder_uri, files)[-1]


def _models(evaluation: Evaluation) -> list[_Model]:
    """The table's models, by role, then as they come."""
    found: dict[str, _Model] = {}
    for row in sorted(evaluation.table, key=lambda row: ROLES.index(row.role)):
        model = found.setdefault(row.model, _Model(row.model, row.role, {}))
        found[row.model] = model._replace(splits={**model.splits, row.split: row})
    return list(found.values())


def _fused(evaluation: Evaluation) -> ClassScores:
    roles = {row.model: row.role for row in evaluation.table}
    return next(scores for model, scores in evaluation.per_class.items() if roles[model] == "late fusion")


def _single(evaluation: Evaluation) -> dict[Modality, ClassScores]:
    roles = {row.model: row.role for row in evaluation.table}
    return {SINGLE[roles[model]]: scores for model, scores in evaluation.per_class.items() if roles[model] in SINGLE}


def _figures(row: ScoreRow | None) -> tuple[float, float, float]:
    return (row.macro, row.micro, row.weighted) if row else (math.nan, math.nan, math.nan)


def _rows(evaluation: Evaluation, split: Split) -> str:
    rows = sorted({row.rows for row in evaluation.table if row.split == split}) or [0]
    return f"{rows[0]:,} rows" if len(rows) == 1 else f"{rows[0]:,} to {rows[-1]:,} rows"


def _page(evaluation: Evaluation, figures: Mapping[str, bytes]) -> str:
    environment = page_environment()
    environment.filters["percent"] = _percent
    models = _models(evaluation)
    return environment.get_template("evaluation.html.j2").render(
        evaluation=evaluation,
        models=models,
        splits={split: _rows(evaluation, split) for split in SCORED},
        best=_best_on_test(models),
        headline=_headline(models),
        honesty=HONESTY,
        most=MOST,
        facts={name: _plain(value) for name, value in evaluation.late_fusion.items() if not isinstance(value, Mapping)},
        weights={
            name: bars(value, _plain) for name, value in evaluation.late_fusion.items() if isinstance(value, Mapping)
        },
        timings=bars(evaluation.timings, duration),
        figures={name.removesuffix(".png"): data_uri("image/png", png) for name, png in figures.items()},
        galleries=_galleries(evaluation, models),
    )


def _best_on_test(models: Sequence[_Model]) -> tuple[float, float, float]:
    """The highest macro, micro and weighted F1 on the test split."""
    columns = zip(*(_figures(model.splits["test"]) for model in models if "test" in model.splits), strict=True)
    macro, micro, weighted = (max(column) for column in columns)
    return macro, micro, weighted


def _headline(models: Sequence[_Model]) -> list[tuple[str, str]]:
    """Figure and what it is: late fusion on the test split, against the best encoder of a single modality."""
    fused = next(model.splits["test"] for model in models if model.role == "late fusion")
    tiles = [(f"{_percent(fused.macro)} %", "macro-F1 on test"), (f"{_percent(fused.micro)} %", "micro-F1 on test")]
    single = [model.splits["test"] for model in models if model.role in SINGLE and "test" in model.splits]
    if single:
        best = max(single, key=lambda row: row.macro)
        gain = 100 * (fused.macro - best.macro)
        tiles.append((f"{gain:+.2f}", f"points of macro-F1 over {best.model}, the best model of a single modality"))
    return [*tiles, (f"{fused.rows:,}", "test products")]


def _galleries(evaluation: Evaluation, models: Sequence[_Model]) -> list[dict[str, object]]:
    single = [model.name for model in models if model.role in SINGLE]
    members = [model.name for model in models if model.role != "late fusion"]

    def misled(example: Example) -> int:
        return sum(example.model_categories.get(name, example.gold) != example.gold for name in single)

    mistakes = [example for example in evaluation.examples if example.predicted != example.gold]
    saved = [example for example in evaluation.examples if example.predicted == example.gold and misled(example)]
    chosen = {
        "The most confident mistakes": sorted(mistakes, key=lambda example: -example.confidence),
        "Right together, wrong alone": sorted(saved, key=lambda example: (-misled(example), -example.confidence)),
    }
    notes = (
        "Late fusion was surest of these and disagrees with the label. Look at the label too: it may be the mistake.",
        "Late fusion is right, although at least one model of a single modality was wrong.",
    )
    return [
        {"title": title, "note": note, "cards": [_card(example, members) for example in examples[:GALLERY]]}
        for (title, examples), note in zip(chosen.items(), notes, strict=True)
    ]


def _card(example: Example, members: Iterable[str]) -> dict[str, object]:
    thumbnail = thumbnail_jpeg(example.image) if example.image is not None else None
    return {
        "example": example,
        "thumbnail": data_uri("image/jpeg", thumbnail) if thumbnail else None,
        "no_picture": no_picture(example.image),
        "opinions": [(name, example.model_categories.get(name)) for name in members],
    }


def _percent(figure: float) -> str:
    """A figure in 0..1 as percent; a dash where there is none."""
    return "–" if math.isnan(figure) else f"{100 * figure:.2f}"


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _metrics_json(evaluation: Evaluation) -> bytes:
    """Everything but the examples; figures that are not defined are null, the confusion matrix its cells above 0."""
    golds, predictions = (labels.tolist() for labels in np.nonzero(evaluation.confusion))
    metrics = {
        "workspace": evaluation.workspace,
        "predictor": evaluation.predictor,
        "run_id": evaluation.run_id,
        "classes": evaluation.classes,
        "table": [vars(row) for row in evaluation.table],
        "per_class": {model: scores._asdict() for model, scores in evaluation.per_class.items()},
        "levels": [vars(row) for row in evaluation.levels],
        "decisions": [vars(row) for row in evaluation.confidence.decisions],
        "reliability": {
            "before": evaluation.confidence.before._asdict(),
            "after": evaluation.confidence.after._asdict(),
        },
        "stress": [vars(row) for row in evaluation.stress],
        "confusion": [
            {"gold": gold, "predicted": predicted, "products": evaluation.confusion[gold, predicted]}
            for gold, predicted in zip(golds, predictions, strict=True)
        ],
        "counts": evaluation.counts,
        "late_fusion": evaluation.late_fusion,
        "timings": evaluation.timings,
    }
    return json.dumps(_jsonable(metrics), indent=1, ensure_ascii=False, allow_nan=False).encode()


def _jsonable(value: object) -> object:
    """`value` of JSON's own types: arrays become lists, NaN and infinities null."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(member) for member in value]
    if isinstance(value, np.ndarray | np.generic):
        return _jsonable(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
