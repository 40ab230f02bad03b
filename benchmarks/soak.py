"""A month of nights: after each, is what is published what one run from scratch over the same snapshot would publish?

    python -m benchmarks.soak --folder DIR [--nights 30] [--rows 2000] [--seed 0]

The sample catalog, encoders as drawn from a seed, two predictors (the second over another text encoder). Each night's
snapshot is made from the last: 1 % of the products with the title, the description or the image of another product,
0.5 % new ones, 0.3 % removed. `jobs.nightly` is a process of its own each night; what `PLAN` names happens besides. The
truth is `ingest`, `extract` and `predict` into a new workspace with the same models and versions of the tree. After a
night that must be refused, what is published must not have moved.

Rows are compared by product: everything of `COMPARED` exactly, the confidence to `MAX_CONFIDENCE_GAP`, as vectors may
differ in their last bit where they were encoded in another batch. A line for each night; the last one has the sums.
Ends with 1 where a night ended otherwise than planned or a row differs.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.running import report, store_encoder
from mmbatch.drill.contents import MAX_CONFIDENCE_GAP
from mmbatch.encoders import build_encoder
from mmbatch.models import Model, newest_encoders, open_model
from mmbatch.pipelines.extract import extract
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.predict import predict
from mmbatch.pipelines.train_head import train_head
from mmbatch.pipelines.train_late_fusion import Goal, train_late_fusion
from mmbatch.predictions import Predictions
from mmbatch.presets.sample import SAMPLE
from mmbatch.sample import SAMPLE as COLUMNS
from mmbatch.sample import sample_batches
from mmbatch.workspace import Settings, Workspace

BUCKETS = 4

COMPARED = [
    "category",
    "decision",
    "decided_category",
    "predictor",
    "text_hash",
    "title_hash",
    "description_hash",
    "image_hash",
]
"""Columns of a prediction that a run from scratch makes the same."""


EDITED, NEW, REMOVED = 0.01, 0.005, 0.003
"""Shares of the products, each night."""

TREE = {"Shoes > Sneakers": "Shoes > Trainers", "Furniture > Benches": "Furniture > Sofas"}
"""A rename and a merge."""

OPEN = ("changed=1", "changed_per_category=1", "review=1", "drift=100", "golden=1")
"""Gate of a night whose predictor or tree is another: a person has looked."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happens in a night besides its edits."""

    upgrade: bool = False
    """The second predictor is taken."""
    tree: bool = False
    """The tree is edited before."""
    spoilt: str | None = None
    """Column that the snapshot of this night lacks everywhere; the night must be refused."""
    killed: bool = False
    """SIGKILL at some time, then the same command."""


PLAN: Mapping[int, Event] = {
    5: Event(killed=True),
    8: Event(upgrade=True),
    11: Event(killed=True),
    13: Event(tree=True),
    17: Event(spoilt="title"),
    18: Event(killed=True),
    21: Event(spoilt="image"),
    24: Event(killed=True),
    27: Event(killed=True),
}
"""By night, from 0."""


@dataclass
class Snapshots:
    """The catalog as it is delivered, night by night."""

    rng: np.random.Generator
    rows: pa.Table
    """`COLUMNS` of tonight's products."""
    waiting: pa.Table
    """Products that are not in the catalog yet."""

    @classmethod
    def drawn(cls, rows: int, nights: int, seed: int) -> "Snapshots":
        """The first night's, and what comes later."""
        later = nights * (1 + round(rows * NEW))
        drawn = pa.Table.from_batches(sample_batches(rows=rows + later, seed=seed), COLUMNS)
        return cls(np.random.default_rng(seed), drawn.slice(0, rows), drawn.slice(rows))

    def next(self) -> None:
        """One day later."""
        count = self.rows.num_rows
        order = self.rng.permutation(count)
        removed, edited = np.split(order[: round(count * (REMOVED + EDITED))], [round(count * REMOVED)])
        rows = self.rows
        for name, chosen in zip(("title", "description", "image"), np.array_split(edited, 3), strict=True):
            source = np.arange(count)
            source[chosen] = self.rng.integers(count, size=len(chosen))
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), rows[name].take(source))
        kept = np.delete(np.arange(count), removed)
        fresh = round(count * NEW)
        self.rows = pa.concat_tables([rows.take(kept), self.waiting.slice(0, fresh)])
        self.waiting = self.waiting.slice(fresh)

    def write(self, folder: Path, *, without: str | None = None) -> Path:
        """As one file; `without` one column's values."""
        rows = self.rows
        if without is not None:
            field = rows.schema.field(without)
            rows = rows.set_column(rows.schema.get_field_index(without), field, pa.nulls(rows.num_rows, field.type))
        folder.mkdir(parents=True)
        pq.write_table(rows, folder / "part-0.parquet", row_group_size=500)
        return folder


def prepared(folder: Path, source: Path) -> tuple[Workspace, Model, Model]:
    """A workspace with the first catalog, nothing published, and its two predictors."""
    settings = Settings(preset=SAMPLE.name, level=SAMPLE.level, seed=0, buckets=BUCKETS)
    workspace = Workspace.create(str(folder), settings)
    with workspace.writing("prepare") as owned:
        ingest(owned, source=str(source), columns=SAMPLE.columns, snapshot=True)
        _draw_encoders(owned, ("ngram-text", "small-image"), seed=0)
        first = _train(owned)
        _draw_encoders(owned, ("ngram-text",), seed=1)
        return owned, first, _train(owned)


def _draw_encoders(workspace: Workspace, names: Sequence[str], *, seed: int) -> None:
    for recipe in SAMPLE.encoders:
        if recipe.name in names:
            store_encoder(
                workspace, recipe.name, build_encoder(recipe.kind, weights=None, seed=seed, **recipe.arguments)
            )


def _train(workspace: Workspace) -> Model:
    encoders = newest_encoders(workspace)
    extract(workspace, encoders)
    head = train_head(workspace, encoders, recipe=replace(SAMPLE.head, epochs=5))
    return train_late_fusion(workspace, encoders, head, recipe=SAMPLE.late_fusion, goal=Goal(precision=0.8))


def truth_of(workspace: Workspace, folder: Path, source: Path, predictor: str) -> pa.Table:
    """What a new workspace with the same models and the same tree publishes of a snapshot."""
    if folder.exists():
        shutil.rmtree(folder)
    fresh = Workspace.create(str(folder), workspace.settings)
    for part in ("models", "taxonomy"):
        if Path(workspace.uri, part).exists():
            shutil.copytree(Path(workspace.uri, part), folder / part)
    with fresh.writing("truth") as owned:
        ingest(owned, source=str(source), columns=SAMPLE.columns, snapshot=True)
        model = open_model(owned, kind="predictor", model_id=predictor)
        extract(owned, [open_model(owned, kind="encoder", model_id=name) for name in model.card["encoders"]])
        predict(owned, model)
        return published(owned)


def published(workspace: Workspace) -> pa.Table:
    """`product_id`, `COMPARED` and `confidence` of every published prediction."""
    return Predictions(workspace=workspace).table.read(["product_id", *COMPARED, "confidence"])


def differences(found: pa.Table, truth: pa.Table) -> tuple[Counter[str], float]:
    """Counts that are to be empty, and the largest gap between two confidences.

    Products that are `lost`, `twice` or `unexpected`, and how many differ, by column; nothing where all is equal.
    """
    left, right = (rows.to_pandas(integer_object_nulls=True).set_index("product_id") for rows in (truth, found))
    once = right[~right.index.duplicated()]
    counts = Counter(
        lost=len(left.index.difference(right.index)),
        twice=int(right.index.duplicated().sum()),
        unexpected=len(once.index.difference(left.index)),
    )
    both = left.index.intersection(once.index)
    left, once = left.loc[both], once.loc[both]
    for name in COMPARED:
        same = (left[name] == once[name]) | (left[name].isna() & once[name].isna())
        counts[name] = int((~same).sum())
    gap = np.abs(left["confidence"].to_numpy(np.float64) - once["confidence"].to_numpy(np.float64))
    counts["confidence"] = int((gap > MAX_CONFIDENCE_GAP).sum())
    return +counts, float(gap.max(initial=0))


class Nights:
    """The command under test, and how each of its runs ended."""

    def __init__(self, workspace: Workspace, log: Path, rng: np.random.Generator) -> None:
        """Lines of all runs go to `log`."""
        self.workspace, self.log, self.rng = workspace, log, rng
        self.seconds = 20.0

    def run(self, job: str, *flags: str, killed: bool = False) -> int:
        """Exit code of a job; where it is to be `killed`, of the same command after that."""
        command = [sys.executable, "-m", f"jobs.{job}", "--workspace", self.workspace.uri, *flags]
        if killed:
            self._started(command, within=float(self.rng.uniform(1, self.seconds)))
        started = time.monotonic()
        code = self._started(command)
        self.seconds = time.monotonic() - started
        return code

    def _started(self, command: list[str], *, within: float | None = None) -> int:
        with self.log.open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            try:
                return process.wait(within)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return process.wait()


def soak(folder: Path, *, nights: int, rows: int, seed: int) -> dict[str, Any]:
    """All nights; figures of each and their sums."""
    snapshots = Snapshots.drawn(rows, nights, seed)
    workspace, champion, second = prepared(folder / "workspace", snapshots.write(folder / "snapshots" / "first"))
    runs = Nights(workspace, folder / "nights.log", np.random.default_rng(seed))
    found = []
    for night in range(nights):
        event = PLAN.get(night, Event())
        snapshots.next()
        source = snapshots.write(folder / "snapshots" / f"{night:02d}", without=event.spoilt)
        flags = ["--source", str(source)]
        if event.upgrade:
            champion = second
        if event.upgrade or not night:
            flags += ["--predictor", champion.id]  # without it a night takes the published one
        if event.tree:
            edits = folder / "edits.json"
            edits.write_text(json.dumps(TREE))
            runs.run("taxonomy", "--edits", str(edits))
        if event.upgrade or event.tree:
            flags += ["--gate", *OPEN]
        before = published(workspace)
        code = runs.run("nightly", *flags, killed=event.killed)
        expected = 3 if event.spoilt else 0
        truth = before if event.spoilt else truth_of(workspace, folder / "truth", source, champion.id)
        differing, gap = differences(published(workspace), truth)
        figures = {
            "night": night,
            "event": [name for name, value in vars(event).items() if value],
            "exit": code,
            "as_planned": code == expected,
            "seconds": round(runs.seconds, 1),
            "products": truth.num_rows,
            "changed": _changed(before, published(workspace)),
            "differences": dict(differing),
            "largest_gap": gap,
        }
        report(f"night {night}: {figures}", figures)
        found.append(figures)
    sums: Counter[str] = Counter()
    for figures in found:
        sums.update(figures["differences"])
    return {
        "nights": nights,
        "rows": rows,
        "rows_compared": sum(figures["products"] for figures in found),
        "otherwise_than_planned": [figures["night"] for figures in found if not figures["as_planned"]],
        "differences": dict(sums),
    }


def _changed(before: pa.Table, after: pa.Table) -> int:
    """Products with another category than before, new ones and removed ones among them."""
    left, right = (rows.to_pandas().set_index("product_id")["category"] for rows in (before, after))
    both = pd.concat([left, right], axis=1, keys=["before", "after"])
    return int((both["before"].fillna("") != both["after"].fillna("")).sum())


def main() -> int:
    """Run the nights; 0 where all ended as planned and no row differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="new folder, left as it is at the end")
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True)
    figures = soak(flags.folder.resolve(), nights=flags.nights, rows=flags.rows, seed=flags.seed)
    report(f"{flags.nights} nights: {figures}", figures)
    return int(bool(figures["differences"] or figures["otherwise_than_planned"]))


if __name__ == "__main__":
    raise SystemExit(main())
