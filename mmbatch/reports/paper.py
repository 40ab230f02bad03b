"""The tables and the figure of the paper as one Markdown page, with each table as CSV and the figure as PNG beside it.

Source: "Deep Multi-level Boosted Fusion Learning Framework for Multi-modal Product Classification", SIGIR eCom'20:
table 1 (models), table 2 (products that one model decides), figure 2 (contributions), section 9 (corrections).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
import numpy as np

from mmbatch.reports.figures import MOST
from mmbatch.reports.paper_analysis import MODEL_MODALITIES, Alone, ModalityValue, ModelModality, ModelPredictions
from mmbatch.reports.paper_figures import contributions_png
from mmbatch.reports.paper_tables import (
    CorrectionRow,
    LateFusionScores,
    ModelScore,
    alone_table,
    corrections_table,
    examples_table,
    late_fusion_table,
    modality_value_table,
    scores_table,
)
from mmbatch.reports.plain_tables import Column, csv_bytes, markdown_table, markdown_text, signed
from mmbatch.storage import put_files


@dataclass(frozen=True, kw_only=True)
class Paper:
    """All that the page shows; everything but table 1 and the optimistic score is of the test products.

    Raises:
        ValueError: `alone` or `value` is not of `predictions`.
    """

    predictor: str
    run_id: str
    scores: tuple[ModelScore, ...] = ()
    """None: the page has no table 1."""
    late_fusion: LateFusionScores | None = None
    """None: the page has neither score."""
    predictions: ModelPredictions
    """What figure 2 shows."""
    alone: tuple[Alone, ...]
    """Of each model of `predictions`, in their order."""
    corrections: tuple[CorrectionRow, ...]
    """None where the categories have one level only: no correction can be within a top-level category."""
    value: ModalityValue

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        models, rows = tuple(row.model for row in self.alone), len(self.predictions.gold)
        if models != self.predictions.models:
            raise ValueError(f"right alone: found models {models}, expected {self.predictions.models}")
        if self.value.products.sum() != rows:
            raise ValueError(f"value of modalities: found {self.value.products.sum()} products, expected {rows}")


def write_paper(folder_uri: str, paper: Paper) -> list[str]:
    """Write the CSV files of the tables, `figure_2.png` and `paper.md` to a folder or `s3://` prefix; their URIs.

    A table without rows has no file. The page comes last: where it is, everything that it links to is too.
    """
    tables = {
        "table_1": scores_table(paper.scores),
        "late_fusion": late_fusion_table(paper.late_fusion) if paper.late_fusion else [],
        "right_alone": alone_table(paper.alone),
        "table_2": examples_table(paper.alone, paper.predictions.models),
        "corrections": corrections_table(paper.corrections),
        "modality_value": modality_value_table(paper.value),
    }
    filled = {name: columns for name, columns in tables.items() if columns and columns[0].cells}
    files = {f"{name}.csv": csv_bytes(columns) for name, columns in filled.items()}
    files["figure_2.png"] = contributions_png(paper.predictions)
    return put_files(folder_uri, {**files, "paper.md": _page(paper, filled).encode()})


def _page(paper: Paper, tables: Mapping[str, Sequence[Column]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmbatch.reports", ""),
        autoescape=False,  # for HTML; texts are escaped for Markdown where they are put in
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    rows = {"modality_value": _ends(len(paper.value.categories))}
    return environment.get_template("paper.md.j2").render(
        predictor=markdown_text(paper.predictor),
        run_id=markdown_text(paper.run_id),
        products=f"{len(paper.predictions.gold):,}",
        categories=f"{len(paper.value.categories):,}",
        tables={name: markdown_table(columns, rows.get(name)) for name, columns in tables.items()},
        gap=signed(100 * paper.late_fusion.gap) if paper.late_fusion else None,
        gains=_gains(paper.value),
        judges=_judges(paper.value),
        shown=MOST if len(paper.value.categories) > MOST else None,
    )


def _ends(rows: int) -> list[int]:
    """All of at most `MOST` rows, else as many from both ends."""
    return [row for row in range(rows) if row < MOST // 2 or row >= rows - (MOST - MOST // 2)]


def _gains(value: ModalityValue) -> str:
    gains, losses = np.count_nonzero(value.gain > 0), np.count_nonzero(value.gain < 0)
    return f"Late fusion gains in {gains:,} of {len(value.gain):,} categories and loses in {losses:,}."


def _judges(value: ModalityValue) -> str:
    """Which models stand for the modalities."""
    models: dict[ModelModality, str] = {"fused": "late fusion"}
    models.update(value.models.items())
    judges = (f"{name} by {markdown_text(models[name])}" for name in MODEL_MODALITIES if name in models)
    return ", ".join(judges)
