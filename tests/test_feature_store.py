import numpy as np
import pyarrow as pa
import pytest

from mmbatch.errors import InputError
from mmbatch.feature_store import FeatureStore, require_features
from mmbatch.workspace import Settings, Workspace


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    settings = Settings(preset="sample", level=1, seed=0, buckets=4)
    workspace = Workspace.create(str(tmp_path / "w"), settings)
    return FeatureStore(workspace=workspace, encoder="e@1", modality="text", width=3)


def put(store: FeatureStore, rows: list[tuple[str, str, int]], run: str) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(len(rows), 3)).astype(np.float16)
    files = [
        store.write(pa.array([r[0]]), pa.array([r[1]]), vectors[i : i + 1], bucket=r[2]) for i, r in enumerate(rows)
    ]
    store.table.commit(files, app_id=run)
    return vectors


def test_vectors_come_back_bit_for_bit_in_the_asked_order(store: FeatureStore) -> None:
    vectors = put(store, [("a", "h1", 0), ("b", "h2", 0), ("c", "h3", 1)], "run")
    found, present = store.read(pa.array(["h2", None, "h1", "hx"]), buckets=[0])
    assert present.tolist() == [True, False, True, False]
    assert (found[[0, 2]] == vectors[[1, 0]]).all()
    assert (found[[1, 3]] == 0).all()


def test_vectors_of_another_width_or_dtype_are_refused(store: FeatureStore) -> None:
    with pytest.raises(ValueError, match=r"e@1: vectors are float16 \(1, 2\), expected float16 \(1, 3\)"):
        store.write(pa.array(["a"]), pa.array(["h"]), np.zeros((1, 2), np.float16), bucket=0)
    with pytest.raises(ValueError, match="float32"):
        store.write(pa.array(["a"]), pa.array(["h"]), np.zeros((1, 3), np.float32), bucket=0)


def test_features_of_another_fingerprint_are_refused_by_name(store: FeatureStore) -> None:
    with pytest.raises(InputError, match=r"/features/e@1: not there, found none of any encoder: run jobs.extract"):
        require_features(store.workspace, ["e@1"])
    put(store, [("a", "h1", 0)], "run")
    require_features(store.workspace, ["e@1"])
    with pytest.raises(InputError, match=r"/features/e@2: not there, found e@1: run jobs.extract_features first"):
        require_features(store.workspace, ["e@2"])
    require_features(store.workspace, ["e@1", "image@1"])  # nothing in the catalog may be for that one
