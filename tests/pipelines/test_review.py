"""The review job: what is published and labelled -> queue, files and ledger."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy_edits import Edits
from mmbatch.models import Model, publish_model
from mmbatch.pipelines import review as reviewing
from mmbatch.pipelines.out_of_fold import SUSPECTS, FoldRows, Suspected
from mmbatch.pipelines.review import best_models, review
from mmbatch.predictions import Predictions
from mmbatch.review import REVIEW
from mmbatch.runs import finished_runs
from mmbatch.schema import PREDICTIONS, bucket_of
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Settings, Workspace
from tests import stored_features
from tests.conftest import run_json
from tests.stored_products import BUCKETS, NO_IMAGE, Stored, write_products

ABSTAINED, CONFLICT, SUSPECTED = 4, 6, 8
PREDICTOR = "predictor@dc22d009724a"  # a digest of its one file, which is empty
"""Numbers of the products that are published with these reasons; number 8 is given as `even`, and said to be `odd`."""

ray_warns = pytest.mark.filterwarnings("ignore::Warning:ray")
"""Ray warns of its own settings while it makes its context."""


@dataclass(frozen=True)
class Published:
    workspace: Workspace
    predictor: Model


@pytest.fixture
def published(tmp_path: Path, in_process: None) -> Published:
    """Twelve products with published predictions, some of them to be reviewed."""
    stored = write_products(tmp_path)
    publish(stored.workspace, [row_of(number) for number in range(stored.products)])
    return Published(stored.workspace, store_predictor(stored, tmp_path))


@pytest.fixture
def one_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Number 8 is the only suspect, and no Ray is started."""
    row = {"product_id": "p08", "suggested_category": "odd", "quality": 0.1, "bucket": bucket(8)}
    found = Suspected(pa.Table.from_pylist([row], schema=SUSPECTS), 12, 0)
    stand_in(monkeypatch, lambda *_: found)


def stand_in(monkeypatch: pytest.MonkeyPatch, task: Any) -> None:
    @contextmanager
    def lines() -> Iterator[Any]:
        yield type("Lines", (), {"put": staticmethod(lambda line: None)})

    monkeypatch.setattr(reviewing, "start_ray", lambda *_: None)
    monkeypatch.setattr(reviewing, "lines_from_workers", lines)
    monkeypatch.setattr(reviewing, "run_task", task)


def bucket(number: int) -> int:
    return int(bucket_of([f"p{number:02}"], BUCKETS)[0])


def row_of(number: int) -> dict[str, Any]:
    category = "even" if number % 2 == 0 else "odd"
    by_image = "odd" if number == CONFLICT else category
    return {
        "product_id": f"p{number:02}",
        "category": category,
        "confidence": 0.4 if number == ABSTAINED else 0.9,
        "decision": REVIEW if number == ABSTAINED else "accepted",
        "predictor": PREDICTOR,
        "model_categories": [("text", category), ("image", by_image)],
        "model_probabilities": [("text", 0.95), ("image", 0.85)],
        "bucket": bucket(number),
    }


def publish(workspace: Workspace, rows: list[dict[str, Any]]) -> None:
    table = Predictions(workspace=workspace).table
    table.commit(table.write_buckets(pa.Table.from_pylist(rows, schema=PREDICTIONS)), app_id=f"{table.version()}")


def store_predictor(stored: Stored, folder: Path) -> Model:
    (folder / "predictor").mkdir()
    (folder / "predictor" / "empty").write_text("")
    card = {
        "encoders": [model.id for model in stored.encoders],
        "models": ["image", "text"],
        "late_fusion": {"weights": {"image": 0.4, "text": 0.6}},
    }
    return publish_model(
        stored.workspace,
        kind="predictor",
        name="predictor",
        folder=folder / "predictor",
        identity=["empty"],
        recipe="",
        card=card,
    )


def written(entry: dict[str, Any]) -> tuple[list[dict[str, str]], str]:
    with Path(entry["counts"]["csv"]).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, Path(entry["counts"]["page"]).read_text()


@pytest.mark.usefixtures("one_suspect")
def test_the_queue_has_what_is_to_be_reviewed_and_nothing_else(published: Published) -> None:
    entry = review(published.workspace, published.predictor)
    rows, page = written(entry)
    found = {row["product_id"]: row for row in rows}
    assert {product: row["reasons"] for product, row in found.items()} == {
        "p04": "abstained",
        "p06": "modality_conflict",
        "p08": "suspected_label",
    }
    assert (found["p08"]["label"], found["p08"]["suggested_category"]) == ("even", "odd")
    assert (found["p06"]["text_category"], found["p06"]["image_category"]) == ("even", "odd")
    titles = Catalog(workspace=published.workspace).table.read(["product_id", "title", "source"]).to_pylist()
    for row in titles:
        if row["product_id"] in found:
            assert (found[row["product_id"]]["title"], found[row["product_id"]]["source"]) == (
                row["title"],
                row["source"],
            )
    assert page.count("data:image/jpeg") == 3
    assert [page.index(f"<code>{product}</code>") for product in ("p08", "p06", "p04")] == sorted(
        page.index(f"<code>{product}</code>") for product in found
    )
    assert "of 12 published" in page
    counts = entry["counts"]
    assert counts["reasons"] == {"suspected_label": 1, "modality_conflict": 1, "abstained": 1}
    assert (counts["products"], counts["judged"], counts["unjudged"]) == (3, 12, 0)
    [kept] = finished_runs(published.workspace, "review")
    assert kept["counts"] == counts
    assert Path(counts["csv"]).parent == Path(published.workspace.path("reports", entry["run_id"]))


@pytest.mark.usefixtures("one_suspect")
def test_the_page_is_bounded_and_the_csv_is_not(published: Published) -> None:
    rows, page = written(review(published.workspace, published.predictor, limit=1))
    assert len(rows) == 3
    assert page.count("<article") == 1
    assert "<code>p08</code>" in page


@pytest.mark.usefixtures("one_suspect")
def test_a_product_without_an_image_says_so(published: Published) -> None:
    publish(published.workspace, [row_of(NO_IMAGE) | {"product_id": "unknown", "decision": REVIEW}])
    row = row_of(NO_IMAGE) | {"decision": REVIEW}
    table = Predictions(workspace=published.workspace).table
    old = table.files([row["bucket"]])
    kept = table.read_files(old).filter(pa.compute.not_equal(table.read_files(old)["product_id"], row["product_id"]))
    new = pa.concat_tables([kept, pa.Table.from_pylist([row], schema=PREDICTIONS)])
    table.replace([table.write_file(new, bucket=row["bucket"])], old, app_id="edit", read_version=table.version())
    rows, page = written(review(published.workspace, published.predictor))
    assert "unknown" not in {row["product_id"] for row in rows}, "the catalog has lost it"
    article = page[page.index(f"<code>{row['product_id']}</code>") - 900 :]
    assert '<div class="picture none">no image</div>' in article


@pytest.mark.usefixtures("one_suspect")
def test_the_same_queue_is_made_once(published: Published, tmp_path: Path) -> None:
    first = review(published.workspace, published.predictor)
    again = review(published.workspace, published.predictor, export=str(tmp_path / "out.csv"))
    assert (again["run_id"], again["counts"]) == (first["run_id"], first["counts"])
    assert (tmp_path / "out.csv").read_bytes() == Path(first["counts"]["csv"]).read_bytes()
    assert review(published.workspace, published.predictor, limit=2)["run_id"] != first["run_id"]
    publish(published.workspace, [row_of(0) | {"product_id": "new"}])
    later = review(published.workspace, published.predictor)
    assert later["run_id"] != first["run_id"]
    Path(later["counts"]["page"]).unlink()
    assert review(published.workspace, published.predictor)["run_id"] != later["run_id"]


@pytest.mark.usefixtures("one_suspect")
def test_categories_have_the_names_of_today(published: Published) -> None:
    edits: Edits = {("even",): (("level",),), ("odd",): (("uneven",),)}
    TaxonomyHistory.read(published.workspace).add(published.workspace, edits)
    rows, _ = written(review(published.workspace, published.predictor))
    [found] = [row for row in rows if row["product_id"] == "p08"]
    assert (found["label"], found["suggested_category"]) == ("level", "uneven")


@pytest.mark.usefixtures("one_suspect")
@pytest.mark.parametrize("edits", [{("odd",): (("even",),)}, {("odd",): ()}])
def test_a_suggestion_that_is_the_label_now_or_is_gone_is_none(published: Published, edits: Edits) -> None:
    TaxonomyHistory.read(published.workspace).add(published.workspace, edits)
    rows, _ = written(review(published.workspace, published.predictor))
    assert "p08" not in {row["product_id"] for row in rows}


@pytest.mark.usefixtures("one_suspect")
def test_what_cannot_be_reviewed_is_refused(published: Published, tmp_path: Path) -> None:
    workspace, predictor = published.workspace, published.predictor
    with pytest.raises(InputError, match="--limit 0: expected 1 or more"):
        review(workspace, predictor, limit=0)
    with pytest.raises(InputError, match=r"--export q.xlsx: expected a name that ends in .csv"):
        review(workspace, predictor, export="q.xlsx")
    with pytest.raises(InputError, match=r"none/q.csv: cannot be written: No such file"):
        review(workspace, predictor, export=str(tmp_path / "none" / "q.csv"))
    empty = Workspace.create(str(tmp_path / "empty"), Settings(preset="sample", level=1, seed=0, buckets=2))
    with pytest.raises(InputError, match=r"found no published predictions: run jobs\.predict first"):
        review(empty, predictor)


def test_without_labels_the_queue_has_the_other_reasons(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FoldRows, "of", lambda *_: None)
    monkeypatch.setattr(reviewing, "start_ray", pytest.fail)
    entry = review(published.workspace, published.predictor)
    assert entry["counts"]["reasons"] == {"suspected_label": 0, "modality_conflict": 1, "abstained": 1}
    assert (entry["counts"]["judged"], entry["counts"]["unjudged"]) == (0, 0)


def test_the_best_model_of_a_modality_has_the_most_weight() -> None:
    weights = {"a": 0.2, "b": 0.3, "c": 0.3, "image": 0.1, "fusion-head": 0.9}
    predictor = Model(kind="predictor", id="p@1", uri="", card={"late_fusion": {"weights": weights}})
    assert best_models(predictor, {"c": "text", "b": "text", "a": "text", "image": "image"}) == {
        "image": "image",
        "text": "b",
    }
    assert best_models(predictor, {"a": "text"}) == {"text": "a"}
    assert best_models(predictor, {"image": "image"}) == {"image": "image"}


@pytest.mark.slow
@ray_warns
def test_planted_wrong_labels_come_out_of_a_task_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = stored_features.write_workspace(tmp_path / "workspace", products=400)
    models = stored_features.encoders(workspace)
    monkeypatch.setattr(reviewing, "_encoders", lambda *_: list(models))
    wrong = plant(workspace, every=20)
    rows = Catalog(workspace=workspace).keys().select(["product_id", "bucket"]).to_pylist()
    publish(workspace, [row | {"category": "a > x", "confidence": 0.9} for row in rows])
    card = {"encoders": [], "late_fusion": {"weights": {"image": 0.5, "text": 0.5}}}
    try:
        entry = review(workspace, Model(kind="predictor", id="predictor@1", uri="", card=card))
    finally:
        ray.shutdown()
    queue, _ = written(entry)
    assert entry["counts"]["judged"] == 400
    found = {row["product_id"]: row for row in queue}
    assert len(wrong & set(found)) / len(wrong) >= 0.75, "recall"
    assert len(wrong & set(found)) / len(found) >= 0.75, "precision"
    assert all(row["suggested_category"] not in ("", row["label"]) for row in queue)


def plant(workspace: Workspace, *, every: int) -> set[str]:
    """Give every so many products of the catalog another label; returns their ids."""
    table, planted = Catalog(workspace=workspace).table, set()
    paths = [list(path) for path in stored_features.PATHS]
    for bucket in range(stored_features.BUCKETS):
        old = table.files([bucket])
        rows = table.read_files(old).to_pylist()
        for row in rows[::every]:
            row["label"] = paths[(paths.index(row["label"]) + 1) % len(paths)]
            planted.add(row["product_id"])
        new = pa.Table.from_pylist(rows, schema=table.schema)
        table.replace([table.write_file(new, bucket=bucket)], old, app_id=f"p{bucket}", read_version=table.version())
    return planted


@pytest.mark.usefixtures("in_process")
def test_the_job_plans_writes_and_exports(published: Published, tmp_path: Path) -> None:
    flags = ("review", "--workspace", published.workspace.uri)
    planned = run_json(*flags, "--dry-run")
    assert planned["work"] == {"predictor": published.predictor.id, "products": 12}
    assert not Path(published.workspace.path("reports")).exists()
    done = run_json(*flags, "--export", tmp_path / "queue.csv", "--limit", "2")
    assert done["job"] == "review"
    assert done["counts"]["reasons"]["abstained"] == done["counts"]["reasons"]["modality_conflict"] == 1
    assert (tmp_path / "queue.csv").read_text().count("\n") == done["counts"]["products"] + 1
    assert json.dumps(done)
