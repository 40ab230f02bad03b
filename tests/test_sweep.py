"""What a sweep tries follows from the recipe, the space and the seed alone."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mmbatch.pipelines.maintain import _known_tables
from mmbatch.sweep import Search, changes, found_trials, record_trial, search_of, table_of, trials_of
from mmbatch.training import Training
from mmbatch.workspace import Settings, Workspace

RECIPE = Training(epochs=3, batch_size=16, learning_rate=1e-4, classifier_learning_rate=1e-3)
SIZE = len(fields(Search))


def test_the_recipe_comes_first_and_a_longer_sweep_begins_like_a_shorter_one() -> None:
    few, many = (trials_of(RECIPE, Search(), count=count, seed=0) for count in (5, 20))
    assert few[0] == RECIPE
    assert many[:5] == few
    assert len(set(many)) == 20
    assert trials_of(RECIPE, Search(), count=5, seed=1)[1:] != few[1:]


def test_every_trial_lies_within_the_space_and_changes_nothing_else() -> None:
    space = Search()
    for trial in trials_of(RECIPE, space, count=50, seed=0)[1:]:
        factor = trial.learning_rate / RECIPE.learning_rate
        assert 0.299 <= factor <= 3.01
        assert trial.classifier_learning_rate == pytest.approx(factor * RECIPE.classifier_learning_rate, rel=0.01)
        assert trial.batch_size in (8, 16, 32)
        for name in ("weight_decay", "label_smoothing", "dropout", "layer_decay"):
            assert getattr(trial, name) in getattr(space, name)
        assert (
            replace(
                trial,
                **{name.partition("=")[0]: getattr(RECIPE, name.partition("=")[0]) for name in changes(trial, RECIPE)},
            )
            == RECIPE
        )


def test_rates_are_log_uniform() -> None:
    trials = trials_of(RECIPE, Search(), count=201, seed=0)[1:]
    logs = np.log10([trial.learning_rate / RECIPE.learning_rate for trial in trials])
    shares, _ = np.histogram(logs, bins=np.linspace(np.log10(0.3), np.log10(3.0), 5))
    np.testing.assert_allclose(shares, 50, atol=3)


def test_a_space_of_one_point_holds_one_more_trial() -> None:
    space = Search(learning_rate=(), batch_size=(), weight_decay=(), label_smoothing=(0.2,), dropout=(), layer_decay=())
    assert trials_of(RECIPE, space, count=9, seed=0) == [RECIPE, replace(RECIPE, label_smoothing=0.2)]


def test_both_ends_of_the_unit_cube_are_in_the_space() -> None:
    last = np.full(SIZE, np.nextafter(1.0, 0.0))
    assert Search().at(np.zeros(SIZE), RECIPE).learning_rate == pytest.approx(3e-5)
    assert Search().at(last, RECIPE).learning_rate == pytest.approx(3e-4)
    assert Search().at(last, RECIPE).layer_decay == 0.8


def test_rates_decay_downwards_only_where_there_are_pretrained_layers() -> None:
    assert search_of("transformers").layer_decay
    assert search_of("timm").layer_decay
    assert not search_of("ngram").layer_decay


def test_changes_read_as_flags() -> None:
    trial = replace(RECIPE, learning_rate=1.23e-5, batch_size=8, epochs=9)
    assert changes(trial, RECIPE) == ["learning_rate=1.23e-05", "batch_size=8"]


def row(number: int, **changed: object) -> dict[str, object]:
    trained = {"learning_rate": 1e-4, "classifier_learning_rate": 1e-3, "batch_size": 16, "weight_decay": 0.01}
    more = {"label_smoothing": 0.0, "dropout": 0.1, "layer_decay": 1.0, "stopped": False, "reason": None, "bucket": 0}
    scored = {"epochs": 2, "macro_f1": 0.5, "scores": [0.4, 0.5], "seconds": 3.0}
    return {
        "run_id": "r",
        "encoder": "e",
        "trial": number,
        "recipe": f"d{number}",
        **trained,
        **more,
        **scored,
        **changed,
    }


def test_the_table_is_sorted_and_names_what_failed() -> None:
    trials = [RECIPE, replace(RECIPE, dropout=0.3), replace(RECIPE, batch_size=8)]
    rows = {
        0: row(0, macro_f1=None, scores=[], epochs=0, reason="too little memory"),
        1: row(1, macro_f1=0.4, stopped=True),
        2: row(2),
    }
    lines = table_of(rows, trials)
    assert [int(line.split()[0]) for line in lines[1:]] == [2, 1, 0]
    assert lines[1].endswith("batch_size=8")
    assert lines[2].endswith("dropout=0.3  (stopped early)")
    assert lines[3].endswith("none: the recipe itself  (too little memory)")


def test_ended_trials_are_found_and_failed_ones_are_tried_again(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=2))
    assert found_trials(workspace, "e") == {}
    for number, changed in enumerate([{}, {"reason": "too little memory"}, {"encoder": "another"}]):
        record_trial(workspace, row(number, **changed))
    record_trial(workspace, row(0))
    assert {recipe: found["trial"] for recipe, found in found_trials(workspace, "e").items()} == {"d0": 0}
    assert _known_tables(workspace)["trials"].rows() == 3
