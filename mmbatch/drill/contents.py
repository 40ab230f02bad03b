"""What a workspace holds, row by row under a key, and how it differs from what it should hold."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog, digest
from mmbatch.changes import Changes
from mmbatch.feature_store import FeatureStore
from mmbatch.models import list_models
from mmbatch.predictions import Predictions
from mmbatch.quarantine import quarantine_table
from mmbatch.workspace import Workspace

MIN_COSINE = 0.9999
"""Of two vectors of one content: batches of other rows move a float16 vector by about 1e-6."""

MAX_CONFIDENCE_GAP = 1e-3
"""Between two predictions from vectors that are as like as that."""


class Rows(NamedTuple):
    """One table."""

    keys: list[str]
    """What makes a row one of a kind, `[N]`."""
    exact: list[str]
    """Everything of the row that must be equal, `[N]`."""
    numbers: np.ndarray | None = None
    """float32 `[N, D]`: vectors (D > 1, by cosine) or a confidence (D = 1, by difference)."""


@dataclass
class Difference:
    """Rows that are not as they should be."""

    lost: int = 0
    twice: int = 0
    different: int = 0
    """Rows of a known key with another content, and rows of a key that should not be there."""
    examples: list[str] = field(default_factory=list)
    """A few of them: table, what is wrong, key."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.twice or self.different)

    def add(self, other: "Difference") -> None:
        """Add what was found elsewhere."""
        self.lost, self.twice = self.lost + other.lost, self.twice + other.twice
        self.different += other.different
        self.examples += other.examples


_CHANGED = ["product_id", "category_before", "category_after", "reason"]


def contents(workspace: Workspace) -> dict[str, Rows]:
    """Every table of a workspace but its ledger, by name."""
    catalog = Catalog(workspace=workspace)
    rows = catalog.table.read(["product_id", "text_hash", "image_hash", "image_uri", "label"])
    rows = rows.set_column(4, "label", pc.binary_join(rows["label"], "/"))
    images, splits = catalog.images.read(), catalog.splits.read(["product_id", "split"])
    stored = quarantine_table(workspace).read(["quarantine_id", "reason"])
    found = {
        "catalog": Rows(*_texts(rows, keys=1)),
        "images": Rows(
            _joined(images.select(["image_hash", "bucket"])), [digest(image.as_py()) for image in images["image"]]
        ),
        "splits": Rows(*_texts(splits, keys=1)),
        "quarantine": Rows(*_texts(stored, keys=1)),
        "predictions": predictions(workspace),
        "changes": Rows(*_texts(Changes(workspace=workspace).table.read(_CHANGED), keys=2)),
    }
    return found | {f"features/{name}": rows for name, rows in _features(workspace)}


def predictions(workspace: Workspace) -> Rows:
    """What is published."""
    rows = Predictions(workspace=workspace).table.read(
        ["product_id", "category", "predictor", "text_hash", "image_hash", "confidence"]
    )
    confidence = rows["confidence"].to_numpy().reshape(-1, 1)
    return Rows(*_texts(rows.drop_columns("confidence"), keys=1), confidence)


def _features(workspace: Workspace) -> list[tuple[str, Rows]]:
    found = []
    for model in list_models(workspace, "encoder"):
        modality, width = model.card["modality"], model.card["width"]
        store = FeatureStore(workspace=workspace, encoder=model.id, modality=modality, width=width)
        rows = store.table.read(["product_id", "content_hash", "vector"])
        data = b"".join(rows["vector"].to_pylist())
        vectors = np.frombuffer(data, dtype="<f2").reshape(rows.num_rows, width).astype(np.float32)
        found.append((model.name, Rows(*_texts(rows.drop_columns("vector"), keys=2), vectors)))
    return found


def _texts(rows: pa.Table, *, keys: int) -> tuple[list[str], list[str]]:
    names = rows.column_names
    exact = _joined(rows.select(names[keys:])) if len(names) > keys else [""] * rows.num_rows
    return _joined(rows.select(names[:keys])), exact


def _joined(rows: pa.Table) -> list[str]:
    columns = [column.cast(pa.string()) for column in rows.columns]
    joined = pc.binary_join_element_wise(*columns, " ", null_handling="replace", null_replacement="-")
    texts: list[str] = joined.to_pylist()
    return texts


def compare(truth: Mapping[str, Rows], found: Mapping[str, Rows]) -> Difference:
    """What `found` lacks, has twice or has otherwise, over all tables of `truth`."""
    total = Difference()
    for table, expected in truth.items():
        total.add(compare_rows(table, expected, found[table]))
    return total


def compare_rows(table: str, truth: Rows, found: Rows) -> Difference:
    """The same for one table."""
    wanted, held = Counter(truth.keys), Counter(found.keys)
    lost = wanted - held
    extra = held - wanted
    twice = {key: count for key, count in extra.items() if key in wanted}
    strange = {key: count for key, count in extra.items() if key not in wanted}
    places = {key: row for row, key in enumerate(truth.keys)}
    changed = [
        key for row, key in enumerate(found.keys) if key in wanted and not _equal(truth, places[key], found, row)
    ]
    examples = [("lost", key) for key in lost] + [("twice", key) for key in twice]
    examples += [("unexpected", key) for key in strange] + [("different", key) for key in changed]
    return Difference(
        lost=lost.total(),
        twice=sum(twice.values()),
        different=sum(strange.values()) + len(changed),
        examples=[f"{table}: {kind} {key}" for kind, key in examples[:5]],
    )


def _equal(truth: Rows, row: int, found: Rows, other: int) -> bool:
    if truth.exact[row] != found.exact[other]:
        return False
    if truth.numbers is None or found.numbers is None:
        return True
    a, b = truth.numbers[row], found.numbers[other]
    if len(a) == 1:
        return bool(abs(a[0] - b[0]) <= MAX_CONFIDENCE_GAP)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return bool(np.array_equal(a, b) or (length > 0 and float(a @ b) / length >= MIN_COSINE))
