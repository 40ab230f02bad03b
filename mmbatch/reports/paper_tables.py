"""The tables of the paper as columns, and the rows that are given to them."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmbatch.reports.figures import shorten
from mmbatch.reports.paper_analysis import MODEL_MODALITIES, Alone, AloneExample, Corrections, ModalityValue
from mmbatch.reports.plain_tables import DASH, Column, counts, markdown_text, nats, percents, points, signed, texts
from mmbatch.schema import PATH_SEPARATOR

TITLE = 80
"""Characters of a title in Markdown."""

CATEGORY = 60
"""Characters of a category in Markdown."""


@dataclass(frozen=True, kw_only=True)
class ModelScore:
    """Macro-F1 of one model on one split: a row of table 1."""

    group: str
    """Rows of a group stand together; in the paper: `Base Models`, `Multi-Modal`, and, in its text, boosting."""
    model: str
    split: str
    rows: int
    macro_f1: float
    """0..1 (`mmbatch.metrics.f1_scores`)."""

    def __post_init__(self) -> None:
        """Refuse percent, and a score of no rows."""
        _check_score(self.model, self.macro_f1, self.rows)


@dataclass(frozen=True, kw_only=True)
class LateFusionScores:
    """Macro-F1 of late fusion, 0..1, on products that it has not seen, and as the paper's code has it."""

    honest: float
    """On test products."""
    honest_rows: int
    optimistic: float
    """On the products that also stopped its boosting, as in the paper's notebook."""
    optimistic_rows: int

    def __post_init__(self) -> None:
        """Refuse percent, and scores of no rows."""
        _check_score("late fusion, honest", self.honest, self.honest_rows)
        _check_score("late fusion, optimistic", self.optimistic, self.optimistic_rows)

    @property
    def gap(self) -> float:
        """How much better the optimistic score is, -1..1."""
        return self.optimistic - self.honest


@dataclass(frozen=True, kw_only=True)
class CorrectionRow:
    """What one model sets right of another."""

    base: str
    """In the paper: a model of text."""
    fused: str
    """In the paper: the concatenation."""
    corrections: Corrections


def scores_table(scores: Sequence[ModelScore]) -> list[Column]:
    """Table 1: a row per model and split; the groups in order of their first rows."""
    groups = list(dict.fromkeys(row.group for row in scores))
    rows = sorted(scores, key=lambda row: groups.index(row.group))
    return [
        texts("group", "Model type", (row.group for row in rows)),
        texts("model", "Model", (row.model for row in rows)),
        texts("split", "Split", (row.split for row in rows)),
        counts("rows", "Rows", (row.rows for row in rows)),
        percents("macro_f1", "Macro-F1", (row.macro_f1 for row in rows)),
    ]


def late_fusion_table(scores: LateFusionScores) -> list[Column]:
    """The honest and the optimistic score."""
    where = ("test products, which it has not seen", "the products that also stopped its boosting")
    return [
        texts("score", "Score", ("honest", "optimistic")),
        texts("scored_on", "Scored on", where),
        counts("rows", "Rows", (scores.honest_rows, scores.optimistic_rows)),
        percents("macro_f1", "Macro-F1", (scores.honest, scores.optimistic)),
    ]


def alone_table(alone: Sequence[Alone]) -> list[Column]:
    """How often each model was right alone, and late fusion followed it."""
    return [
        texts("model", "Model", (row.model for row in alone)),
        counts("products", "Right alone", (row.products for row in alone)),
        counts("followed", "Followed", (row.followed for row in alone)),
    ]


def examples_table(alone: Sequence[Alone], models: Sequence[str]) -> list[Column]:
    """Table 2: a row per example; of each model its verdict in Markdown, its category and contribution in CSV."""
    found = [(row.model, example) for row in alone for example in row.examples]
    examples = [example for _, example in found]
    columns = [
        texts("right_alone", "Right alone", (model for model, _ in found)),
        texts("product_id", "Product", (example.product_id for example in examples)),
        texts("title", "Title", (example.title for example in examples))._replace(shown=_title),
        texts("gold_category", "Gold category", (example.gold for example in examples))._replace(shown=_category),
    ]
    for index, model in enumerate(models):
        said, sizes = f"{model} category", f"{model} contribution_nats"
        columns += [
            Column(None, model, [_verdict(example, index) for example in examples], str, right=True),
            Column(said, None, [example.categories[index] for example in examples], str, right=False),
            Column(sizes, None, [example.contributions[index] for example in examples], str, right=True),
        ]
    return columns


def corrections_table(rows: Sequence[CorrectionRow]) -> list[Column]:
    """How many wrong categories of the base models were corrected, and how wrong they had been."""
    found = [row.corrections for row in rows]
    return [
        texts("base", "Base model", (row.base for row in rows)),
        texts("fused", "Fused by", (row.fused for row in rows)),
        counts("wrong", "Wrong", (row.wrong for row in found)),
        counts("corrected", "Corrected", (row.top_level + row.within + row.unscored for row in found)),
        counts("top_level", "Top level", (row.top_level for row in found)),
        percents("top_level", "in %", (row.top_level_share for row in found)),
        counts("within", "Within", (row.within for row in found)),
        percents("within", "in %", (1 - row.top_level_share for row in found)),
        counts("not_scored", "Not scored", (row.unscored for row in found)),
        counts("spoiled", "Spoiled", (row.spoiled for row in found)),
    ]


def modality_value_table(value: ModalityValue) -> list[Column]:
    """What each modality is worth in each category."""
    accuracies = [
        percents(f"{modality}_accuracy", modality.capitalize(), value.accuracies[modality])
        for modality in MODEL_MODALITIES
        if modality in value.accuracies
    ]
    contributions = [
        nats(f"{modality}_contribution", f"{modality.capitalize()} adds", value.contributions[modality])
        for modality in MODEL_MODALITIES
    ]
    return [
        texts("category", "Category", value.categories)._replace(shown=_category),
        counts("products", "Products", value.products),
        *accuracies,
        points("gain", "Gain", value.gain),
        *contributions,
    ]


def _verdict(example: AloneExample, index: int) -> str:
    """Whether one model was right, and what it contributed; bold where it was."""
    category, contribution = example.categories[index], signed(example.contributions[index])
    if category == example.gold:
        return f"**✓ {contribution}**"
    return f"{DASH if category is None else '✗'} {contribution}"


def _title(title: str | None) -> str:
    return markdown_text(shorten([title or ""], TITLE))


def _category(category: str) -> str:
    return markdown_text(shorten(category.split(PATH_SEPARATOR), CATEGORY))


def _check_score(name: str, macro_f1: float, rows: int) -> None:
    if not 0 <= macro_f1 <= 1:
        raise ValueError(f"{name}: found macro-F1 {macro_f1}, expected 0 to 1")
    if rows < 1:
        raise ValueError(f"{name}: found {rows} rows, expected at least 1")
