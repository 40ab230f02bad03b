"""A sweep on Ray Tune: the best trial's model is stored, and every trial is in the table."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.finetune_encoder import FinetuneEncoder, main
from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.models import list_models
from mmbatch.pipelines.finetune import Resources, Subject
from mmbatch.pipelines.rows import training_labels
from mmbatch.pipelines.sweep import Swept, _best, sweep
from mmbatch.runs import last_run
from mmbatch.sweep import Search, trials_of, trials_table
from mmbatch.training import Training
from mmbatch.workspace import Settings, Workspace
from tests.conftest import run_job
from tests.pipelines.test_finetune import TRAINING, fit, local_ray, run_until, source, store, workspace

pytestmark = pytest.mark.filterwarnings("ignore::Warning:ray", "ignore:The TensorboardX")
"""Ray warns of its own settings while it makes its context."""

__all__ = ["local_ray", "source", "workspace"]
"""Fixtures of the fine-tuning tests."""

RECIPE = replace(TRAINING, epochs=2, learning_rate=1e30, classifier_learning_rate=1e30)
"""So high a rate that the loss is no number; the space lies far below it."""

SPACE = Search(
    learning_rate=(1e-33, 1e-31),
    batch_size=(0.5, 1.0),
    weight_decay=(),
    label_smoothing=(),
    dropout=(),
    layer_decay=(),
)


def run(workspace: Workspace, count: int) -> Swept:
    subject = Subject(
        workspace=workspace,
        name="swept",
        modality="text",
        kind="ngram",
        arguments={"buckets": 512, "width": 16},
        labels=training_labels(Catalog(workspace=workspace)),
    )
    found = sweep(subject, RECIPE, Resources(), count=count, search=SPACE)
    assert found is not None
    return found


def rows(workspace: Workspace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = trials_table(workspace).read().to_pylist()
    return found


@pytest.fixture(scope="module")
def swept(workspace: Workspace) -> Swept:
    return run(workspace, count=3)


@pytest.fixture(scope="module")
def tried(workspace: Workspace, swept: Swept) -> list[dict[str, Any]]:
    return sorted(rows(workspace), key=lambda row: int(row["trial"]))


@pytest.mark.slow
def test_the_best_trials_model_is_stored_and_nothing_else_is_left(
    workspace: Workspace, swept: Swept, tried: list[dict[str, Any]]
) -> None:
    best = max((row for row in tried if row["reason"] is None), key=lambda row: float(row["macro_f1"]))
    assert swept.model.card["recipe"] == best["recipe"]
    assert swept.model.card["metrics"]["macro_f1"] == best["macro_f1"]
    assert [entry["macro_f1"] for entry in swept.model.card["history"]] == best["scores"]
    assert swept.model.card["training"]["training"]["learning_rate"] == best["learning_rate"]
    assert [model.id for model in list_models(workspace, "encoder")] == [swept.model.id]
    assert not list(Path(workspace.path("tmp")).glob("*"))


@pytest.mark.slow
def test_the_table_has_every_trial_and_why_one_failed(tried: list[dict[str, Any]]) -> None:
    assert [row["trial"] for row in tried] == [0, 1, 2]
    assert tried[0]["reason"].startswith("loss is nan in epoch 1, step ")
    assert (tried[0]["macro_f1"], tried[0]["scores"], tried[0]["epochs"]) == (None, [], 0)
    for row, trial in zip(tried[1:], trials_of(RECIPE, SPACE, count=3, seed=0)[1:], strict=True):
        assert row["reason"] is None
        assert (row["learning_rate"], row["batch_size"]) == (trial.learning_rate, trial.batch_size)
        assert len(row["scores"]) == row["epochs"] == (1 if row["stopped"] else 2)
        assert row["macro_f1"] == max(row["scores"])
        assert row["seconds"] > 0


@pytest.mark.slow
def test_the_printed_changes_make_the_same_model_without_a_sweep(workspace: Workspace, swept: Swept) -> None:
    changed = {name: float(value) for name, _, value in (change.partition("=") for change in swept.changes)}
    changed["batch_size"] = int(changed.get("batch_size", RECIPE.batch_size))
    again: Training = replace(RECIPE, **changed)  # type: ignore[arg-type]
    assert fit(workspace, "swept", again).id == swept.model.id


@pytest.mark.slow
def test_only_the_failed_trial_is_tried_again(workspace: Workspace, swept: Swept, tried: list[dict[str, Any]]) -> None:
    assert run(workspace, count=3).model.id == swept.model.id
    ran = last_run(workspace, "sweep")
    assert ran is not None
    assert ran["counts"] == {"trials": 3, "found": 2, "tried": 1, "failed": 1}
    assert sorted(row["trial"] for row in rows(workspace)) == [0, 0, 1, 2]


def test_when_all_fail_the_first_reason_is_told() -> None:
    failed = {number: {"encoder": "e", "reason": f"reason {number}", "macro_f1": None} for number in (1, 0)}
    with pytest.raises(InputError, match="e: all 2 trials failed, the first of: reason 0"):
        _best(failed)


FLAGS = ("--encoder", "ngram-text", "--training", "epochs=2", "--sweep", 3)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(source: Path, tmp_path: Path) -> None:
    models, tables = [], []
    for kill in ("trial 1: epoch 1 / 2", None):
        workspace = store(source, tmp_path / f"{kill is None}")
        if kill:
            run_until(kill, "--workspace", workspace.uri, *FLAGS)
            assert len(rows(workspace)) == 1
        done = run_job("finetune_encoder", "--workspace", workspace.uri, *FLAGS, "--json")
        assert done.returncode == 0, done.stderr
        models += list(json.loads(done.stdout)["encoders"])
        tables.append({row["trial"]: (row["recipe"], row["scores"], row["stopped"]) for row in rows(workspace)})
    assert models[0] == models[1]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"sweep": 0, "encoder": "ngram-text"}, "--sweep 0: expected 1 or more"),
        ({"sweep": 2}, "--sweep 2: name the encoder that it is for with --encoder"),
    ],
)
def test_flags_that_mean_nothing_are_named(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=1))
    with pytest.raises(InputError, match=message):
        main(FinetuneEncoder(workspace=workspace.uri, **flags))


def test_a_dry_run_shows_what_is_searched(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=1))
    planned = main(FinetuneEncoder(workspace=workspace.uri, encoder="ngram-text", sweep=5, dry_run=True))
    search = planned["work"]["search"]["ngram-text"]
    assert (search["trials"], search["learning_rate"], search["layer_decay"]) == (5, (0.3, 3.0), ())
