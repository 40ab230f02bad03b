"""Edits of the category tree: counted, added, predicted in and scored in. Without Ray, and without any encoder."""

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.models import CARD, Model, publish_model
from mmbatch.pipelines import evaluate as evaluate_module
from mmbatch.pipelines import measure as measure_module
from mmbatch.pipelines import predict as predict_module
from mmbatch.pipelines import publish as publish_module
from mmbatch.pipelines import stress as stress_module
from mmbatch.pipelines.evaluate import evaluate
from mmbatch.pipelines.maintain import plan_maintenance
from mmbatch.pipelines.predict import outdated, predict
from mmbatch.pipelines.taxonomy import add_edits, list_versions, plan_edits
from mmbatch.predictions import Predictions
from mmbatch.predictor import EncoderPart, Scorer, stored_categories
from mmbatch.runs import last_run
from mmbatch.schema import PREDICTIONS
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Settings, Workspace
from tests.made_predictor import card_of, predictor_of
from tests.stored_features import PATHS, WIDTHS, encoders, write_workspace

PRODUCTS = 200
EDITS = {("a", "x"): (("a", "new"),), ("b", "x"): (("b",),), ("a", "y"): ()}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Features and labels of 200 products; the jobs' tasks run in this process."""

    def here(units: list[dict[str, Any]], work: Any, **_: Any) -> list[dict[str, Any]]:
        return [row for unit in units for row in work(unit)]

    for module in (predict_module, stress_module, measure_module):
        monkeypatch.setattr(module, "start_ray", lambda *_: None)
    for module in (predict_module, publish_module, stress_module, measure_module):
        monkeypatch.setattr(module, "stream", here)
    monkeypatch.setattr(stress_module, "run_task", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(stress_module, "processors", lambda: (1, 0))
    nothing = np.zeros(0, np.int64), np.zeros((0, WIDTHS["text"]), np.float16)
    monkeypatch.setattr(stress_module, "_encode", lambda *_: nothing)
    return write_workspace(tmp_path / "w", products=PRODUCTS)


def published(workspace: Workspace) -> dict[str, dict[str, Any]]:
    rows = Predictions(workspace=workspace).table.read().to_pylist()
    return {row["product_id"]: row for row in rows}


def publish_predictor(workspace: Workspace, folder: Path, *, paths: tuple[tuple[str, ...], ...] = PATHS) -> Model:
    """Probes that read a path's names off the made-up vectors, and their weighting."""
    taxonomy = Taxonomy(paths)
    first = np.array([[path[0] == "a", path[0] == "b", *[False] * 6] for path in taxonomy.paths], np.float32)
    second = np.array([[path[1:] == ("x",), path[1:] == ("y",), len(path) == 1] for path in taxonomy.paths], np.float32)
    parts = tuple(
        EncoderPart(id=model.id, modality=model.name, width=WIDTHS[model.name]) for model in encoders(workspace)
    )
    probes = {
        "image": (20 * second, np.zeros(len(paths), np.float32)),
        "text": (20 * first, np.zeros(len(paths), np.float32)),
    }
    scorer = Scorer(encoders=parts, classifiers=probes, head=None, levels=Levels(taxonomy))
    codes = np.arange(40) % len(paths)
    vectors = {"image": second[codes].astype(np.float16), "text": first[codes].astype(np.float16)}
    given = {name: (values, np.ones(40, bool)) for name, values in vectors.items()}
    folder.mkdir()
    predictor = predictor_of(scorer, given, codes)
    predictor.save(folder)
    files, card = sorted(path.name for path in folder.iterdir()), card_of(predictor)
    return publish_model(
        workspace, kind="predictor", name="predictor", folder=folder, identity=files, recipe=str(paths), card=card
    )


def publish_cards(workspace: Workspace) -> None:
    """The encoders' cards alone: nobody can load these encoders."""
    for model in encoders(workspace):
        folder = Path(model.uri)
        folder.mkdir(parents=True)
        (folder / CARD).write_text(json.dumps({"id": model.id, "sha256": {}, **model.card}))


def labelled(workspace: Workspace) -> Counter[str]:
    return Counter(Catalog(workspace=workspace).labels()["category"].to_pylist())


def test_a_plan_counts_what_stands_in_each_category_and_changes_nothing(workspace: Workspace, tmp_path: Path) -> None:
    predict(workspace, publish_predictor(workspace, tmp_path / "p"))
    gold, said = labelled(workspace), Counter(row["category"] for row in published(workspace).values())
    before = sorted(Path(workspace.uri).rglob("*"))
    found = plan_edits(workspace, EDITS, source="e.json")
    touched = found.pop("touched")
    assert found == {
        "version": 1,
        "renamed": 1,
        "merged": 1,
        "split": 0,
        "removed": 1,
        "categories_before": 4,
        "categories_after": 2,
    }
    assert [(row["category"], row["change"], row["becomes"]) for row in touched] == [
        ("a > x", "renamed", ["a > new"]),
        ("a > y", "removed", []),
        ("b > x", "merged", ["b"]),
    ]
    assert all(
        (row["labelled"], row["predictions"]) == (gold[row["category"]], said[row["category"]]) for row in touched
    )
    assert sorted(Path(workspace.uri).rglob("*")) == before


def test_a_version_is_added_once_and_stands_in_the_ledger(workspace: Workspace, capsys: pytest.CaptureFixture) -> None:
    with workspace.writing("taxonomy") as owned:
        done = add_edits(owned, EDITS, source="e.json")
        entry = last_run(workspace, "taxonomy")
        assert entry is not None
        assert (entry["run_id"], entry["counts"]) == (done["run_id"], done["counts"])
        assert (entry["settings"], entry["versions"]) == ({"edits": "e.json"}, {"taxonomy": 1})
        again = add_edits(owned, EDITS, source="e.json")
    assert again["counts"] == {"version": 1}
    assert "taxonomy   version 1 holds these edits already" in capsys.readouterr().err
    assert TaxonomyHistory.read(workspace).versions == (EDITS,)
    assert last_run(workspace, "taxonomy") == entry


def test_the_next_version_is_of_the_edited_tree_and_counts_by_its_names(workspace: Workspace) -> None:
    add_edits(workspace, EDITS, source="1.json")
    gold = labelled(workspace)
    [row] = add_edits(workspace, {("b",): (("c",),)}, source="2.json")["counts"]["touched"]
    assert (row["category"], row["labelled"]) == ("b", gold["b"] + gold["b > x"])
    with pytest.raises(InputError, match=r"^--edits 3.json: taxonomy edits: old path 'a > x' is gone since version 1"):
        plan_edits(workspace, EDITS, source="3.json")
    assert list_versions(workspace) == {
        "versions": [
            {"version": 1, "edits": 3, "moved": 2, "split": 0, "removed": 1},
            {"version": 2, "edits": 1, "moved": 1, "split": 0, "removed": 0},
        ],
        "categories": 2,
    }


def test_edits_that_cannot_be_added_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    publish_predictor(workspace, tmp_path / "p", paths=PATHS[:2])
    for edits, message in (
        ({}, "taxonomy edits: no category changes, expected at least one edit"),
        ({("A",): ()}, "taxonomy edits: old path 'A' is unknown"),
        ({("b",): (("b", "c", "d"),)}, "taxonomy edits: path 'b > c > d' has 3 levels, this workspace has at most 2"),
        ({("a",): ()}, r"taxonomy-000001@\w+: every category of the model is removed"),
    ):
        with pytest.raises(InputError, match=f"^--edits e.json: {message}"):
            add_edits(workspace, edits, source="e.json")
    assert TaxonomyHistory.read(workspace) == TaxonomyHistory()


def test_without_a_label_and_a_predictor_there_is_no_tree(tmp_path: Path) -> None:
    empty = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=2, seed=0, buckets=4))
    with pytest.raises(InputError, match="no category there yet: no labelled product, and no predictor"):
        plan_edits(empty, EDITS, source="e.json")
    assert list_versions(empty) == {"versions": [], "categories": 0}


def test_every_prediction_is_decided_anew_once_and_only_by_new_edits(workspace: Workspace, tmp_path: Path) -> None:
    model = publish_predictor(workspace, tmp_path / "p")
    assert predict(workspace, model)["counts"]["predicted"] == PRODUCTS
    before = published(workspace)
    assert {row["predictor"] for row in before.values()} == {model.id}
    assert outdated(workspace, model).counts["unchanged"] == PRODUCTS
    add_edits(workspace, EDITS, source="e.json")
    assert predict(workspace, model)["counts"]["predicted"] == PRODUCTS
    entry = last_run(workspace, "predict")
    assert entry is not None
    assert entry["settings"] == {"predictor": TaxonomyHistory((EDITS,)).identity(model.id)}
    after = published(workspace)
    assert {row["predictor"] for row in after.values()} == {TaxonomyHistory((EDITS,)).identity(model.id)}
    assert not Path(workspace.path("models", "encoder")).exists()
    for product, row in after.items():
        assert row["category"] in {"a > new", "b"}
        assert set(dict(row["model_categories"]).values()) <= {"a > new", "b"}
        if (old := before[product])["category"] == "a > x":
            assert row["category"] == "a > new" or row["confidence"] > old["confidence"]
    assert predict(workspace, model)["counts"] == {
        "products": PRODUCTS,
        "unchanged": PRODUCTS,
        "removed": 0,
        "predicted": 0,
    }


def test_a_version_whose_file_is_taken_away_is_undone(workspace: Workspace, tmp_path: Path) -> None:
    model = publish_predictor(workspace, tmp_path / "p")
    add_edits(workspace, EDITS, source="wrong.json")
    predict(workspace, model)
    Path(workspace.path("taxonomy", "000001.json")).unlink()
    add_edits(workspace, {("b", "x"): (("b", "z"),)}, source="right.json")
    assert predict(workspace, model)["counts"]["predicted"] == PRODUCTS
    assert {row["category"] for row in published(workspace).values()} == {"a > x", "a > y", "b", "b > z"}


def test_without_edits_predictions_are_what_they_were(workspace: Workspace, tmp_path: Path) -> None:
    model = publish_predictor(workspace, tmp_path / "p")
    predict(workspace, model)
    kept = [name for name in PREDICTIONS.names if name != "run_id" and not name.startswith("modality_")]
    before = Predictions(workspace=workspace).table.read(kept)  # a category that changed is explained
    add_edits(workspace, {("a", "x"): (("a", "z"),)}, source="1.json")
    predict(workspace, model)
    add_edits(workspace, {("a", "z"): (("a", "x"),)}, source="2.json")  # undone: no edit touches the predictor
    predict(workspace, model)
    after = Predictions(workspace=workspace).table.read(before.column_names)
    named = after.set_column(after.column_names.index("predictor"), "predictor", before["predictor"])
    assert named.sort_by("product_id").equals(before.sort_by("product_id"))
    assert set(after["predictor"].to_pylist()) == {TaxonomyHistory.read(workspace).identity(model.id)}


def test_a_predictor_that_was_trained_on_the_new_names_predicts_in_them(workspace: Workspace, tmp_path: Path) -> None:
    add_edits(workspace, {("a", "x"): (("c", "x"),), ("b",): (("d",),), ("b", "x"): ()}, source="e.json")
    later = publish_predictor(workspace, tmp_path / "p", paths=(("a", "y"), ("c", "x"), ("d",)))
    assert predict(workspace, later)["counts"]["predicted"] == PRODUCTS
    assert {row["category"] for row in published(workspace).values()} <= {"a > y", "c > x", "d"}


def test_a_split_without_a_common_parent_leaves_products_without_a_category(
    workspace: Workspace, tmp_path: Path
) -> None:
    model = publish_predictor(workspace, tmp_path / "p")
    predict(workspace, model)
    before = published(workspace)
    add_edits(workspace, {("a", "x"): (("c",), ("d",))}, source="e.json")
    predict(workspace, model)
    found = published(workspace)
    reviewed = [product for product, row in found.items() if row["category"] is None]
    assert reviewed == [product for product, row in before.items() if row["category"] == "a > x"]
    for product in reviewed:
        assert found[product]["label"] is None
        assert found[product]["top_categories"][0] is None
        assert found[product]["confidence"] == found[product]["top_probabilities"][0] > 0


def evaluated(workspace: Workspace, model: Model) -> dict[str, Any]:
    counts = evaluate(workspace, model)["counts"]
    return {(row["model"], row["split"]): row for row in counts["table"]} | {"stress": counts["stress"]}


def test_labels_of_old_names_are_scored_by_their_new_ones(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_cards(workspace)
    monkeypatch.setattr(evaluate_module, "write_report", lambda uri, evaluation: reports.append(evaluation) or uri)
    reports: list[Any] = []
    model = publish_predictor(workspace, tmp_path / "p")
    predict(workspace, model)
    before = evaluated(workspace, model)
    add_edits(workspace, EDITS, source="e.json")
    predict(workspace, model)
    after = evaluated(workspace, model)
    gold = labelled(workspace)
    assert (
        f"left out {gold['a > y']:,} labelled products, whose category was removed or split" in capsys.readouterr().err
    )
    kept = sum(after["late fusion", split]["rows"] for split in ("train", "fusion", "test"))
    assert kept == PRODUCTS - gold["a > y"]
    assert after["late fusion", "test"]["micro"] >= before["late fusion", "test"]["micro"] > 0.8
    assert reports[1].predictor == TaxonomyHistory((EDITS,)).identity(model.id)
    assert reports[1].classes == ("a > new", "b")
    assert reports[1].counts["labelled, category removed or split"] == gold["a > y"]
    assert (reports[1].counts["labelled"], reports[1].counts["unlabelled"]) == (PRODUCTS, 0)
    assert "labelled, category removed or split" not in reports[0].counts
    [whole] = [row for row in after["stress"] if row["input"] == "all"]
    assert whole == {"input": "all"} | {name: after["late fusion", "test"][name] for name in ("rows", "macro", "micro")}


def test_a_report_is_found_until_the_tree_is_edited_and_reads_older_predictions_by_new_names(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_cards(workspace)
    monkeypatch.setattr(evaluate_module, "write_report", lambda uri, evaluation: uri)
    model = publish_predictor(workspace, tmp_path / "p")
    predict(workspace, model)
    first = evaluate(workspace, model)
    assert evaluate(workspace, model)["run_id"] == first["run_id"]
    add_edits(workspace, {("a", "x"): (("a", "new"),)}, source="e.json")
    second = evaluate(workspace, model)
    assert second["run_id"] != first["run_id"]
    assert second["counts"]["table"] == first["counts"]["table"]


@pytest.mark.parametrize("parts", [(("c",), ("d",)), (("a", "c"), ("a", "d"))], ids=["review", "common parent"])
def test_a_split_category_counts_alike_in_every_table(
    parts: Any, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_cards(workspace)
    monkeypatch.setattr(evaluate_module, "write_report", lambda uri, evaluation: uri)
    model = publish_predictor(workspace, tmp_path / "p")
    add_edits(workspace, {("a", "x"): parts, ("b", "x"): (("b", "z"),)}, source="e.json")
    predict(workspace, model)
    assert {None, "a"} & {row["category"] for row in published(workspace).values()}
    after = evaluated(workspace, model)
    [whole] = [row for row in after["stress"] if row["input"] == "all"]
    assert whole == {"input": "all"} | {name: after["late fusion", "test"][name] for name in ("rows", "macro", "micro")}


def test_maintenance_leaves_versions_alone(workspace: Workspace) -> None:
    add_edits(workspace, EDITS, source="e.json")
    plan = plan_maintenance(workspace, keep=timedelta(0)).summary()
    assert "taxonomy" not in json.dumps(plan)
    assert TaxonomyHistory.read(workspace).versions == (EDITS,)


def test_a_stored_predictor_tells_its_categories(workspace: Workspace, tmp_path: Path) -> None:
    model = publish_predictor(workspace, tmp_path / "p")
    assert stored_categories(model) == Taxonomy(PATHS).paths


def test_what_was_never_predicted_is_not_evaluated(workspace: Workspace, tmp_path: Path) -> None:
    publish_cards(workspace)
    model = publish_predictor(workspace, tmp_path / "p")
    with pytest.raises(InputError, match="no published prediction of a labelled test product to score"):
        evaluate(workspace, model)
