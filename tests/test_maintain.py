import os
import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.catalog import Catalog, digest
from mmbatch.contents import joint_hashes
from mmbatch.epochs import KEPT_CLAIMS
from mmbatch.errors import CountMismatchError, LostRaceError
from mmbatch.feature_store import FeatureStore
from mmbatch.joined import joined_store
from mmbatch.models import publish_model
from mmbatch.pipelines import maintain as module
from mmbatch.pipelines.maintain import maintain, plan_maintenance
from mmbatch.runs import last_run
from mmbatch.sequence_store import SequenceStore
from mmbatch.sequences import Sequences, offsets_of
from mmbatch.tables import FileEntry, Table
from mmbatch.workspace import Settings, Workspace

WEEK = timedelta(days=7)
NONE = timedelta(0)
WIDTH = 8


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=2, seed=0, buckets=2))


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units run here, one after another."""
    monkeypatch.setattr(module, "start_ray", lambda *_: None)
    monkeypatch.setattr(module, "stream", lambda units, work, **_: (row for unit in units for row in work(unit)))


def catalog_of(workspace: Workspace, products: dict[str, str], *, images: bool = False) -> None:
    """Make the catalog these products with the hash of each, all in bucket 0."""
    table = Catalog(workspace=workspace).table
    column = "image_hash" if images else "text_hash"
    rows = [{"product_id": name, column: content, "bucket": 0} for name, content in products.items()]
    found = table.snapshot()
    added = [table.write_file(pa.Table.from_pylist(rows, schema=schema.CATALOG), bucket=0)] if rows else []
    table.replace(added, found.entries, app_id=f"c{found.version}", read_version=found.version)


def store_of(workspace: Workspace) -> FeatureStore:
    folder = Path(workspace.uri).parent / "model"
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_bytes(b"w")
    model = publish_model(
        workspace,
        kind="encoder",
        name="words",
        folder=folder,
        identity=["weights"],
        recipe="r",
        card={"modality": "text", "width": WIDTH},
    )
    return FeatureStore(workspace=workspace, encoder=model.id, modality="text", width=WIDTH)


def put(store: FeatureStore, *files: dict[str, str], bucket: int = 0) -> None:
    """Commit files of vectors, product -> content hash; the vector is the content's own noise."""
    for number, pairs in enumerate(files):
        vectors = np.stack([vector_of(content) for content in pairs.values()])
        entry = store.write(pa.array(list(pairs)), pa.array(list(pairs.values())), vectors, bucket=bucket)
        store.table.commit([entry], app_id=f"{store.table.version()}-{number}")


def vector_of(content: str) -> np.ndarray:
    seed = int.from_bytes(content.encode(), "little") % 2**32
    return np.random.default_rng(seed).standard_normal(WIDTH).astype("<f2")


def multiset(table: Table) -> Counter[tuple[object, ...]]:
    return Counter(tuple(row.values()) for row in table.read().to_pylist())


def pairs_of(store: FeatureStore) -> list[tuple[str, str]]:
    rows = store.table.read(["product_id", "content_hash"]).to_pylist()
    return sorted((row["product_id"], row["content_hash"]) for row in rows)


@pytest.mark.usefixtures("no_ray")
def test_small_files_become_one_with_the_same_rows_and_vectors(workspace: Workspace) -> None:
    store, products = store_of(workspace), {f"p{n:02}": digest(bytes([n])) for n in range(40)}
    catalog_of(workspace, products)
    names = list(products)
    put(store, *({name: products[name] for name in names[start::8]} for start in range(8)))
    before = multiset(store.table)
    counts = maintain(workspace, keep=WEEK)["counts"]["tables"][f"features/{store.encoder}"]
    assert (counts["files_before"], counts["files_after"], counts["rows_dropped"]) == (8, 1, 0)
    assert multiset(store.table) == before
    hashes = pa.array(sorted(products.values()))
    assert store.table.read(["content_hash"])["content_hash"].combine_chunks().equals(hashes)
    vectors, present = store.read(hashes, buckets=[0])
    assert present.all()
    assert vectors.tobytes() == np.stack([vector_of(content) for content in hashes.to_pylist()]).tobytes()


@pytest.mark.usefixtures("no_ray")
def test_vectors_that_no_product_has_go_and_the_others_stay(workspace: Workspace) -> None:
    store = store_of(workspace)
    catalog_of(workspace, {"kept": "a", "edited": "new", "twin": "shared", "moved": "orphaned"})
    put(
        store,
        {"kept": "a", "edited": "old", "removed": "gone"},
        {"removed-twin": "shared", "twin": "shared", "removed-2": "orphaned", "removed-3": "orphaned"},
    )
    entry = maintain(workspace, keep=WEEK)["counts"]["tables"][f"features/{store.encoder}"]
    assert pairs_of(store) == [("kept", "a"), ("removed-2", "orphaned"), ("twin", "shared")]
    assert (entry["rows_before"], entry["rows_after"], entry["rows_dropped"]) == (7, 3, 4)
    vectors, present = store.read(pa.array(["shared", "orphaned", "new"]), buckets=[0])
    assert present.tolist() == [True, True, False]
    assert vectors[0].tobytes() == vector_of("shared").tobytes()


@pytest.mark.usefixtures("no_ray")
def test_sequences_follow_the_catalog_as_vectors_do(workspace: Workspace) -> None:
    store = SequenceStore(workspace=workspace, encoder=store_of(workspace).encoder, width=WIDTH)
    catalog_of(workspace, {"kept": "a", "edited": "new", "also": "b"})
    for number, (product, content) in enumerate([("kept", "a"), ("edited", "old"), ("also", "b"), ("removed", "gone")]):
        states = np.stack([vector_of(content)] * (number + 1))
        sequences = Sequences(states, offsets_of(np.array([number + 1])))
        entry = store.write(pa.array([product]), pa.array([content]), sequences, bucket=0)
        store.table.commit([entry], app_id=f"{number}")
    entry = maintain(workspace, keep=WEEK)["counts"]["tables"][f"sequences/{store.encoder}"]
    assert (entry["rows_after"], entry["rows_dropped"], entry["files_after"]) == (2, 2, 1)
    found = store.read(pa.array(["b", "old", "a"]), buckets=[0])
    assert found.lengths.tolist() == [3, 0, 1]
    assert found.states.tobytes() == np.stack([vector_of("b")] * 3 + [vector_of("a")]).tobytes()


@pytest.mark.usefixtures("no_ray")
def test_joined_embeddings_stay_while_the_catalog_may_have_what_they_were_computed_from(workspace: Workspace) -> None:
    store_of(workspace)
    card = {"encoders": [], "sequences": True, "width": WIDTH}
    folder = Path(workspace.uri).parent / "model"
    head = publish_model(
        workspace, kind="head", name="fusion-head", folder=folder, identity=["weights"], recipe="r", card=card
    )
    rows = [{"product_id": "p", "text_hash": "t", "image_hash": "i", "bucket": 0}]
    table = Catalog(workspace=workspace).table
    table.commit([table.write_file(pa.Table.from_pylist(rows, schema=schema.CATALOG), bucket=0)], app_id="made")
    pairs = {"both": ("t", "i"), "text alone": ("t", None), "image alone": (None, "i"), "edited": ("old", "i")}
    hashes = {
        name: joint_hashes(*(pa.array([one], pa.string()) for one in pair))[0].as_py() for name, pair in pairs.items()
    }
    store = joined_store(workspace, head)
    put(store, *({"p": content} for content in hashes.values()), {"removed": hashes["both"]})
    maintain(workspace, keep=WEEK)
    assert pairs_of(store) == sorted(("p", content) for name, content in hashes.items() if name != "edited")


@pytest.mark.usefixtures("no_ray")
def test_a_few_unreferenced_rows_wait_for_the_next_rewrite(workspace: Workspace) -> None:
    store = store_of(workspace)
    products = {f"p{n}": f"content {n}" for n in range(99)}
    catalog_of(workspace, products)
    put(store, products | {"removed": "gone"})
    assert plan_maintenance(workspace, keep=WEEK).nothing
    put(store, {"p0": "first"}, {"p1": "second"}, {"p2": "third"})
    maintain(workspace, keep=WEEK)
    assert pairs_of(store) == sorted(products.items())


@pytest.mark.usefixtures("no_ray")
def test_images_without_a_product_go(workspace: Workspace) -> None:
    images = Catalog(workspace=workspace).images
    rows = [{"image_hash": name, "image": name.encode() * 99, "bucket": 0} for name in ("a", "b", "c")]
    images.commit([images.write_file(pa.Table.from_pylist(rows, schema=schema.IMAGES), bucket=0)], app_id="one")
    catalog_of(workspace, {"p": "b"}, images=True)
    maintain(workspace, keep=WEEK)
    assert images.read().to_pylist() == [rows[1]]


@pytest.mark.usefixtures("no_ray")
def test_nothing_is_dropped_where_there_is_no_catalog(workspace: Workspace) -> None:
    store = store_of(workspace)
    put(store, *({f"p{n}": "a"} for n in range(4)))
    maintain(workspace, keep=WEEK)
    assert len(pairs_of(store)) == 4


@pytest.mark.usefixtures("no_ray")
def test_splits_of_removed_products_stay(workspace: Workspace) -> None:
    splits = Catalog(workspace=workspace).splits
    for n in range(4):
        rows = pa.table({"product_id": [f"p{n}"], "split": ["test"], "bucket": [0]}, schema.SPLIT)
        splits.commit([splits.write_file(rows, bucket=0)], app_id=f"{n}")
    catalog_of(workspace, {"p1": "a"})
    before = multiset(splits)
    maintain(workspace, keep=WEEK)
    assert multiset(splits) == before
    assert len(splits.files()) == 1


@pytest.mark.usefixtures("no_ray")
def test_old_versions_stay_readable_within_the_window_and_go_after_it(workspace: Workspace) -> None:
    store = store_of(workspace)
    catalog_of(workspace, {f"p{n}": "a" for n in range(5)})
    put(store, *({f"p{n}": "a"} for n in range(5)))
    old = store.table.snapshot()
    maintain(workspace, keep=WEEK)
    assert old.read().num_rows == store.table.snapshot(old.version).read().num_rows == 5
    entry = maintain(workspace, keep=NONE)["counts"]["tables"][f"features/{store.encoder}"]
    assert (entry["files_deleted"], entry["rows_after"]) == (5, 5)
    with pytest.raises(FileNotFoundError):
        old.read()
    assert len(pairs_of(store)) == 5


@pytest.mark.usefixtures("no_ray")
def test_files_of_a_running_job_survive_and_those_of_a_dead_one_go(workspace: Workspace) -> None:
    store = store_of(workspace)
    put(store, {"p": "a"})
    young, old = (write(store, {"q": "b"}) for _ in range(2))
    age(Path(store.table.uri) / old.path, days=8)
    maintain(workspace, keep=WEEK)
    assert (Path(store.table.uri) / young.path).exists()
    assert not (Path(store.table.uri) / old.path).exists()
    store.table.commit([young], app_id="late")
    assert pairs_of(store) == [("p", "a"), ("q", "b")]


@pytest.mark.usefixtures("no_ray")
def test_folders_of_runs_that_are_over_go(workspace: Workspace) -> None:
    for name, days in (("tmp/old", 8), ("tmp/young", 6), ("staged/old", 8), ("staged/young", 0)):
        file = Path(workspace.path(name, "rows.parquet"))
        file.parent.mkdir(parents=True)
        file.touch()
        age(file, days=days)
    maintain(workspace, keep=WEEK)
    left = sorted(
        str(path.relative_to(workspace.uri)) for kind in ("tmp", "staged") for path in folders(workspace, kind)
    )
    assert left == ["staged/young", "tmp/young"]


@pytest.mark.usefixtures("no_ray")
def test_old_claims_go_and_the_next_number_stays(workspace: Workspace) -> None:
    for _ in range(KEPT_CLAIMS + 3):
        with workspace.writing("test"):
            pass
    with workspace.writing("maintain") as owned:
        maintain(owned, keep=WEEK)
        number = owned.epoch.number if owned.epoch else 0
    names = sorted(path.name for path in folders(workspace, "epochs") if path.suffix == ".json")
    assert (len(names), names[-1]) == (KEPT_CLAIMS, f"{number:08d}.json")
    with workspace.writing("next") as owned:
        assert owned.epoch is not None
        assert owned.epoch.number == number + 1


@pytest.mark.usefixtures("no_ray")
def test_a_long_log_is_joined_and_the_fence_in_it_holds(workspace: Workspace) -> None:
    store = store_of(workspace)
    with workspace.writing("asleep") as asleep:
        pass
    with workspace.writing("awake") as awake:
        owned = FeatureStore(workspace=awake, encoder=store.encoder, modality="text", width=WIDTH)
        put(owned, *({f"p{n}": "a"} for n in range(12)))
        assert owned.table.loose_commits() >= 12
        maintain(awake, keep=WEEK)
        assert owned.table.loose_commits() == 0
    late = FeatureStore(workspace=asleep, encoder=store.encoder, modality="text", width=WIDTH)
    Path(workspace.path("epochs", "00000002.json")).unlink()
    with pytest.raises(LostRaceError, match="epoch 1 is over"):
        put(late, {"q": "b"})


def test_a_checkpoint_does_not_forget_removed_files(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    store, now = store_of(workspace), time.time()
    old = write(store, {"p": "a"})
    store.table.commit([old], app_id="old")
    age(Path(store.table.uri) / old.path, days=20)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now - 10 * 86_400)
        store.table.replace([write(store, {"p": "a"})], [old], app_id="new", read_version=store.table.version())
    store.table.checkpoint()
    assert store.table.unreferenced(timedelta(days=12)) == {}
    assert list(store.table.unreferenced(timedelta(days=9))) == [old.path]


@pytest.mark.usefixtures("no_ray")
def test_features_without_a_model_are_reported_and_left_alone(workspace: Workspace) -> None:
    other = FeatureStore(workspace=workspace, encoder="other@1", modality="text", width=WIDTH)
    put(other, *({f"p{n}": "a"} for n in range(5)))
    catalog_of(workspace, {"p": "b"})
    plan = plan_maintenance(workspace, keep=NONE)
    assert plan.left_alone == ("features/other@1",)
    assert plan.nothing


@pytest.mark.usefixtures("no_ray")
def test_a_second_run_has_nothing_to_do(workspace: Workspace) -> None:
    store = store_of(workspace)
    put(store, *({f"p{n}": "a"} for n in range(12)))
    assert maintain(workspace, keep=WEEK)["counts"]
    assert last_run(workspace, "maintain") is not None
    files = sorted((path, path.stat().st_mtime_ns) for path in Path(workspace.uri).rglob("*"))
    assert maintain(workspace, keep=WEEK)["counts"] == {}
    assert sorted((path, path.stat().st_mtime_ns) for path in Path(workspace.uri).rglob("*")) == files


@pytest.mark.usefixtures("no_ray")
def test_a_large_table_is_committed_in_parts(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_UNITS", 1)
    store = store_of(workspace)
    for bucket in range(2):
        put(store, *({f"{bucket}-{n}": f"content {n}"} for n in range(4)), bucket=bucket)
    before, version = multiset(store.table), store.table.version()
    maintain(workspace, keep=WEEK)
    assert multiset(store.table) == before
    assert (store.table.version(), len(store.table.files())) == (version + 2, 2)


@pytest.mark.usefixtures("no_ray")
def test_a_file_with_other_rows_than_the_log_says_stops_the_run(workspace: Workspace) -> None:
    store = store_of(workspace)
    put(store, *({f"p{n}": "a"} for n in range(3)))
    store.table.commit([replace(write(store, {"p3": "a"}), rows=2)], app_id="wrong")
    version = store.table.version()
    with pytest.raises(CountMismatchError, match=f"maintain {store.table.uri}: 5 rows in"):
        maintain(workspace, keep=WEEK)
    assert store.table.version() == version


def test_files_are_grouped_up_to_the_target_and_huge_ones_left_alone() -> None:
    sizes = [100, 20, 60, 40, 130, 2_000]
    files = [FileEntry(path=str(size), rows=1, size=size << 20, bucket=0) for size in sizes]
    groups = [[entry.size >> 20 for entry in group] for group in module._grouped(files)]
    assert groups == [[20, 40, 60], [100], [130]]


def write(store: FeatureStore, pairs: dict[str, str]) -> FileEntry:
    vectors = np.stack([vector_of(content) for content in pairs.values()])
    return store.write(pa.array(list(pairs)), pa.array(list(pairs.values())), vectors, bucket=0)


def age(path: Path, *, days: float) -> None:
    then = path.stat().st_mtime - days * 86_400
    os.utime(path, (then, then))


def folders(workspace: Workspace, name: str) -> list[Path]:
    return list(Path(workspace.path(name)).iterdir())
