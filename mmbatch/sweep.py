"""A search over an encoder's recipe, as plain data: the space, the trials drawn from it, the table of what they gave.

Trial 0 is the recipe itself, so that a sweep never ends below it. The others are points of a scrambled Halton sequence
(Owen 2017), which fill a space of few dimensions more evenly than independent draws, and those do so better than a grid
(Bergstra & Bengio 2012). The first trials are the same however many are asked for: a longer sweep goes on
from a shorter one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import qmc

from mmbatch import schema
from mmbatch.tables import Table
from mmbatch.training import Training
from mmbatch.workspace import Workspace

_LAYERED = ("timm", "transformers")
"""Kinds of encoders with pretrained layers one above the other, whose rates may decay downwards."""

_REQUESTS = 8
"""Points looked at for each trial asked for: a space of a few choices may hold fewer distinct ones."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a sweep tries. An empty tuple leaves a field as the recipe has it."""

    learning_rate: tuple[float, float] | tuple[()] = (0.3, 3.0)
    """Least and greatest factor of both peak rates together, log-uniform: a decade around the recipe's own, as wide as
    the grids that BERT (2e-5 to 5e-5, Devlin et al. 2019) and ELECTRA (3e-5 to 2e-4, Clark et al. 2020) search."""
    batch_size: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Factors of the recipe's own; BERT and RoBERTa (Liu et al. 2019) try 16 and 32."""
    weight_decay: tuple[float, ...] = (0.0, 0.01, 0.1)
    """None, BERT's and RoBERTa's."""
    label_smoothing: tuple[float, ...] = (0.0, 0.1)
    """None, and that of Szegedy et al. 2016."""
    dropout: tuple[float, ...] = (0.0, 0.1, 0.3)
    """None, BERT's, and one for few products."""
    layer_decay: tuple[float, ...] = (1.0, 0.9, 0.8)
    """None, and ELECTRA's for its large and its small and base models."""

    def at(self, point: np.ndarray, training: Training) -> Training:
        """The recipe at a point of the unit cube, float64 `[D]`, a coordinate for each field in its order.

        Rates have three digits, so that the flag which repeats a trial says all of them.
        """
        found: dict[str, Any] = {}
        for field, share in zip(fields(self), point.tolist(), strict=True):
            values = getattr(self, field.name)
            if not values:
                continue
            if field.name == "learning_rate":
                least, greatest = values
                factor = least * (greatest / least) ** share
                for rate in ("learning_rate", "classifier_learning_rate"):
                    found[rate] = float(f"{getattr(training, rate) * factor:.3g}")
                continue
            chosen = values[int(share * len(values))]
            found[field.name] = max(1, round(chosen * training.batch_size)) if field.name == "batch_size" else chosen
        return replace(training, **found)


TRIED = ("learning_rate", "classifier_learning_rate", *[field.name for field in fields(Search)][1:])
"""Fields of `Training` that a sweep changes: columns of the table."""


def search_of(kind: str) -> Search:
    """The search space for an encoder of that kind (`mmbatch.encoders.BUILDERS`)."""
    return Search() if kind in _LAYERED else Search(layer_decay=())


def trials_of(training: Training, search: Search, *, count: int, seed: int) -> list[Training]:
    """The first `count` trials of a space, none twice: the recipe itself, then points of the space.

    Fewer where the space holds fewer.
    """
    points = qmc.Halton(len(fields(search)), rng=np.random.default_rng(seed)).random(_REQUESTS * count)
    distinct = dict.fromkeys([training, *(search.at(point, training) for point in points)])
    return list(distinct)[:count]


def changes(training: Training, base: Training) -> list[str]:
    """What a trial changes of the recipe, as `--training` takes it: `learning_rate=0.0123 batch_size=32`."""
    found, before = asdict(training), asdict(base)
    return [f"{name}={found[name]:g}" for name in TRIED if found[name] != before[name]]


def trials_table(workspace: Workspace) -> Table:
    """The workspace's trials; it need not exist yet."""
    return workspace.table("trials", schema=schema.TRIALS)


def found_trials(workspace: Workspace, encoder: str) -> dict[str, dict[str, Any]]:
    """Every trial of an encoder that came to an end and has a score, by its recipe's digest.

    Failed ones are left out: what they failed of, such as too little memory, may be another now.
    """
    ended = (pc.field("encoder") == encoder) & pc.field("reason").is_null()
    return {row["recipe"]: row for row in trials_table(workspace).read(filters=ended).to_pylist()}


def record_trial(workspace: Workspace, row: Mapping[str, Any]) -> None:
    """Append a row of `schema.TRIALS`, unless this run has done so."""
    table = trials_table(workspace)
    rows = pa.Table.from_pylist([dict(row)], schema=table.schema)
    table.commit([table.write_file(rows, bucket=0)], app_id=f"{row['run_id']}-{row['trial']}")


def table_of(rows: Mapping[int, Mapping[str, Any]], trials: list[Training]) -> list[str]:
    """Lines of the table of trials, the best first and failed ones last, for a person."""

    def rank(number: int) -> tuple[bool, float, int]:
        return rows[number]["reason"] is not None, -(rows[number]["macro_f1"] or 0.0), number

    lines = ["trial  macro-F1  epochs  seconds  changes"]
    for number in sorted(rows, key=rank):
        row = rows[number]
        score = "-" if row["macro_f1"] is None else f"{row['macro_f1']:.4f}"
        tried = " ".join(changes(trials[number], trials[0])) or "none: the recipe itself"
        note = f"  ({row['reason']})" if row["reason"] else "  (stopped early)" if row["stopped"] else ""
        lines.append(f"{number:5d}  {score:>8}  {row['epochs']:6d}  {row['seconds']:7.1f}  {tried}{note}")
    return lines
