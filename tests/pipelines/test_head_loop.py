"""The loop that trains heads: it learns what needs both inputs, keeps its best epoch and goes on where it was."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.fusion.head import load_head
from mmbatch.fusion.levels import Levels
from mmbatch.pipelines.feature_rows import FeatureRows, rows_per_bucket
from mmbatch.pipelines.head_loop import HeadLoop, Trained
from mmbatch.pipelines.head_run import HeadTask, train_kinds
from mmbatch.pipelines.rows import training_labels
from mmbatch.training import HeadRecipe
from tests.stored_features import encoders, write_workspace

RECIPE = HeadRecipe(
    hidden=16, dropout=0.0, modality_dropout=0.1, epochs=12, batch_size=16, learning_rate=0.02, weight_decay=0.0
)
LEVELS = (1.0, 1.2)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> HeadTask:
    workspace = write_workspace(tmp_path_factory.mktemp("stored") / "workspace", products=400)
    labels = training_labels(Catalog(workspace=workspace))
    return HeadTask(
        rows=FeatureRows(workspace, encoders(workspace), labels.categories, rows_per_bucket(labels)),
        levels=Levels.of(labels.taxonomy, ()),
        recipe=RECIPE,
        digest="d",
    )


def by_level(task: HeadTask) -> HeadTask:
    return replace(task, levels=Levels.of(task.levels.taxonomy, LEVELS), recipe=replace(RECIPE, level_weights=LEVELS))


def test_every_kind_learns_what_no_input_says_alone(task: HeadTask, tmp_path: Path) -> None:
    kinds = ("addition", "concatenation", "cross-attention", "gated", "simple")
    task = replace(by_level(task), recipe=replace(RECIPE, kinds=kinds, level_weights=LEVELS, attention_heads=2))
    loop, done = task.loop(), {}
    train_kinds(task, loop, tmp_path, done=done)
    assert set(done) == set(kinds)
    for kind in kinds:
        head = loop.run(done[kind], keep=lambda _: None)  # its epochs are over: the best one is given back
        gold, said = loop.fusion_scores(head)
        assert len(gold) == 40
        assert (gold == said).mean() > 0.7, kind  # every seventh product has no image
    assert load_head(tmp_path).kind in kinds


def test_the_kept_epoch_is_the_one_with_the_lowest_loss(task: HeadTask) -> None:
    losses = []
    real = HeadLoop._judge

    def judged(loop: HeadLoop, head: object, done: Trained, epoch: int) -> None:
        before = done.log_loss
        done.log_loss = float("inf")
        real(loop, head, done, epoch)  # type: ignore[arg-type]
        losses.append(done.log_loss)
        done.log_loss = min(before, done.log_loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeadLoop, "_judge", judged)
        replace(task, recipe=replace(RECIPE, learning_rate=0.3)).loop().run(Trained("gated"), keep=lambda _: None)
    done = Trained("gated")
    replace(task, recipe=replace(RECIPE, learning_rate=0.3)).loop().run(done, keep=lambda _: None)
    assert done.best_epoch == int(np.argmin(losses)) < RECIPE.epochs - 1
    assert done.log_loss == min(losses)


def test_a_run_that_goes_on_equals_one_that_was_not_interrupted(task: HeadTask, tmp_path: Path) -> None:
    whole = task.loop().run(Trained("concatenation"), keep=lambda _: None)
    half = Trained("concatenation")

    def stop(done: Trained) -> None:
        torch.save(vars(done), tmp_path / "state")
        if done.epoch == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        task.loop().run(half, keep=stop)
    found = Trained(**torch.load(tmp_path / "state", weights_only=True))
    again = task.loop().run(found, keep=lambda _: None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_loss_that_is_no_number_stops_with_its_step(task: HeadTask) -> None:
    loop = replace(task, recipe=replace(RECIPE, learning_rate=1e30)).loop()
    with pytest.raises(InputError, match=r"concatenation head: loss is (nan|inf) in epoch 1, step \d+: lower learning"):
        loop.run(Trained("concatenation"), keep=lambda _: None)


def test_the_first_worker_tells_how_far_it_is_and_the_others_are_silent(task: HeadTask) -> None:
    class Lines(list[str]):
        """As Ray's queue, false while it is empty."""

        put = list.append

    lines = Lines()
    told = replace(task, recipe=replace(RECIPE, epochs=1), lines=lines)  # type: ignore[arg-type]
    assert told.loop(worker=1, workers=2).tell("a line") is None
    assert lines == []
    told.loop().run(Trained("gated"), keep=lambda _: None)
    assert lines[-1].startswith("head       gated")
    assert "100%" in lines[-1]
