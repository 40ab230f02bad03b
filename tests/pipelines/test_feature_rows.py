"""Features of labelled products: each row once an epoch, by any number of workers, however they are cut into units."""

from dataclasses import replace

import numpy as np
import pytest

from mmbatch.catalog import Catalog
from mmbatch.feature_store import FeatureStore
from mmbatch.pipelines import feature_rows
from mmbatch.pipelines.dealing import Deal
from mmbatch.pipelines.feature_rows import FeatureRows, rows_per_bucket
from mmbatch.pipelines.rows import training_labels
from tests.stored_features import PATHS, encoders, write_workspace

PRODUCTS = 203
WITHOUT = (1, 2)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> FeatureRows:
    folder = tmp_path_factory.mktemp("stored") / "workspace"
    workspace = write_workspace(folder, products=PRODUCTS, without_vectors=WITHOUT)
    labels = training_labels(Catalog(workspace=workspace))
    return FeatureRows(workspace, encoders(workspace), labels.categories, rows_per_bucket(labels))


def epoch_of(rows: FeatureRows, epoch: int, worker: int = 0) -> list[tuple[float, ...]]:
    """Text vectors of the train rows, as the batches bring them."""
    batches = Deal(rows).batches(epoch, batch=16, seed=0, worker=worker)
    return [tuple(vector) for vectors, _, _ in batches for vector in vectors["text"].tolist()]


def test_categories_are_sorted_by_path_and_codes_are_theirs(rows: FeatureRows) -> None:
    assert rows.categories == tuple(" > ".join(path) for path in sorted(PATHS))
    for features, codes in rows.read("train"):
        vectors, present = features["text"]
        says_a = vectors[:, 0] > vectors[:, 1]
        assert present.all()
        assert (says_a == (codes < 2)).mean() > 0.9


def test_rows_without_any_vector_are_left_out_and_a_missing_image_is_said(rows: FeatureRows) -> None:
    features, codes = next(iter(rows.read("train")))
    numbers = [n for n in range(PRODUCTS) if n % 10 not in (0, 5) and n not in WITHOUT]
    assert len(codes) == len(numbers)
    assert features["image"][1].sum() == sum(n % 7 != 3 for n in numbers)
    assert not features["image"][0][~features["image"][1]].any()


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("unit_bytes", [1, 512 << 20])
def test_an_epoch_has_every_row_once_whoever_reads_it(
    rows: FeatureRows, workers: int, unit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sorted(epoch_of(rows, 0))
    monkeypatch.setattr(feature_rows, "UNIT_BYTES", unit_bytes)
    shared = replace(rows, workers=workers)
    shares = [epoch_of(shared, 1, worker) for worker in range(workers)]
    assert sorted(row for share in shares for row in share) == whole
    assert all(shares)
    steps = Deal(shared).steps(1, batch=16, seed=0)
    assert max(len(list(Deal(shared).batches(1, batch=16, seed=0, worker=w))) for w in range(workers)) <= steps


def test_epochs_differ_and_equal_ones_are_equal(rows: FeatureRows) -> None:
    assert epoch_of(rows, 0) == epoch_of(rows, 0)
    assert epoch_of(rows, 0) != epoch_of(rows, 1)


def test_few_rows_are_read_once_and_many_are_not_held(rows: FeatureRows, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = FeatureStore.read
    monkeypatch.setattr(FeatureStore, "read", lambda *args, **named: reads.append(1) or read(*args, **named))
    held = replace(rows)
    for _ in range(3):
        list(held.read("train"))
    assert len(reads) == 8  # four buckets of two encoders
    monkeypatch.setattr(feature_rows, "UNIT_BYTES", 1)
    streamed = replace(rows)
    for _ in range(3):
        list(streamed.read("train"))
    assert len(reads) == 8 + 3 * 8


def test_vectors_of_one_encoder_are_those_that_are_there(rows: FeatureRows) -> None:
    found = [len(codes) for _, codes in rows.vectors("image")]
    assert sum(found) == sum(n % 10 not in (0, 5) and n not in WITHOUT and n % 7 != 3 for n in range(PRODUCTS))
    assert np.isfinite(np.concatenate([vectors for vectors, _ in rows.vectors("image")])).all()
