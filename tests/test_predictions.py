from pathlib import Path

import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.predictions import Predictions, marks, merged
from mmbatch.workspace import Settings, Workspace


@pytest.fixture
def predictions(tmp_path: Path) -> Predictions:
    settings = Settings(preset="sample", level=1, seed=0, buckets=1)
    return Predictions(workspace=Workspace.create(str(tmp_path / "w"), settings))


NONE: dict[schema.Modality, pa.Array] = {"image": pa.array([], pa.string()), "text": pa.array([], pa.string())}


def predicted(*rows: tuple[str | None, ...]) -> pa.Table:
    """Rows of id, text hash, image hash, and the modalities that are marked, predicted by p@1."""
    full = [
        dict.fromkeys(schema.PREDICTIONS.names)
        | {"product_id": key, "text_hash": text, "image_hash": image, "quarantined": marked, "predictor": "p@1"}
        | {"bucket": 0}
        for key, text, image, *marked in rows
    ]
    return pa.Table.from_pylist(full, schema=schema.PREDICTIONS)


def keys(*rows: tuple[str, str | None, str | None]) -> pa.Table:
    columns = zip(*rows, strict=True)
    named = dict(
        zip(("product_id", "text_hash", "image_hash"), (pa.array(c, pa.string()) for c in columns), strict=True)
    )
    return pa.table(named | {"bucket": pa.array([0] * len(rows), pa.int32())})


def publish(predictions: Predictions, rows: pa.Table, run: str, product_ids: list[str]) -> None:
    staged = predictions.staged(run)
    staged.commit([staged.write_file(rows, bucket=0)], app_id=run)
    version = predictions.table.version()
    before = predictions.table.files()
    rows = merged(predictions.table.read(), staged.read(), product_ids=pa.array(product_ids))
    added = [predictions.table.write_file(rows, bucket=0)] if rows.num_rows else []
    predictions.table.replace(added, before, app_id=run, read_version=version)


def test_a_prediction_stands_while_inputs_and_predictor_are_the_same(predictions: Predictions) -> None:
    publish(predictions, predicted(("a", "t", "i"), ("b", "t", None), ("c", "t", "i")), "run1", ["a", "b", "c"])
    now = keys(("a", "t", "i"), ("b", "t", "first image"), ("d", "t", None))
    found = predictions.outdated(now, predictor="p@1", buckets=[0], rejected=NONE)
    assert found.keys["product_id"].to_pylist() == ["b", "d"]
    assert (found.removed, found.unchanged) == (1, 1)
    assert predictions.outdated(now, predictor="p@2", buckets=[0], rejected=NONE).keys.num_rows == 3


@pytest.mark.parametrize(
    ("published", "now", "stands"),
    [
        (("a", "t", None), ("a", "t", None), False),  # the image has come into quarantine
        (("a", "t", None, "image"), ("a", "t", None), True),
        (("b", "t", None, "image"), ("b", "t", None), False),  # it has left quarantine: the product has no image now
        (("a", "t", None, "image"), ("a", "t", "i"), True),  # an image that cannot be encoded
        (("a", "t", None), ("a", "t", "i"), False),
        (("a", "t", "i"), ("a", "t", "i"), True),  # one of two encoders could
        (("b", "t", None, "image"), ("b", "t", "i"), False),  # it was encoded since
    ],
)
def test_a_prediction_stands_while_its_mark_is_true(
    published: tuple[str | None, ...], now: tuple[str, str, str | None], stands: bool, predictions: Predictions
) -> None:
    publish(predictions, predicted(published), "run1", ["a", "b"])
    rejected = NONE | {"image": pa.array(["a"])}
    found = predictions.outdated(keys(now), predictor="p@1", buckets=[0], rejected=rejected)
    assert (found.unchanged, found.keys.num_rows) == ((1, 0) if stands else (0, 1))


def test_marks_name_what_is_missing_and_in_quarantine() -> None:
    rows = keys(("a", None, None), ("b", None, "i"), ("c", None, None))
    rejected: dict[schema.Modality, pa.Array] = {"image": pa.array(["a", "b"]), "text": pa.array(["b", "a"])}
    assert marks(rows, rejected).to_pylist() == [["image", "text"], ["text"], []]


def test_staged_rows_are_not_seen_before_they_are_published(predictions: Predictions) -> None:
    staged = predictions.staged("run1")
    staged.commit([staged.write_file(predicted(("a", "t", None)), bucket=0)], app_id="run1")
    assert predictions.table.rows() == 0


def test_publishing_replaces_keeps_and_drops_in_one_version(predictions: Predictions) -> None:
    publish(
        predictions, predicted(("a", "old", None), ("b", "t", None), ("gone", "t", None)), "run1", ["a", "b", "gone"]
    )
    before = predictions.table.version()
    publish(predictions, predicted(("a", "new", None)), "run2", ["a", "b"])
    assert predictions.table.version() == before + 1
    rows = predictions.table.read(["product_id", "text_hash"]).to_pylist()
    assert rows == [{"product_id": "a", "text_hash": "new"}, {"product_id": "b", "text_hash": "t"}]
    old = predictions.table.snapshot(before).read(["product_id"])
    assert sorted(old["product_id"].to_pylist()) == ["a", "b", "gone"]
