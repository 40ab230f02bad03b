"""A saved training state goes on to the bit, and knows the run it is of."""

from pathlib import Path

import pytest
import torch

from mmbatch.encoders.ngram import NgramText
from mmbatch.errors import InputError
from mmbatch.pipelines.classifier import Classifier
from mmbatch.pipelines.optimisation import optimizer_of, rates_of, schedule_of
from mmbatch.pipelines.training_state import Progress, Trained, seed_step
from mmbatch.training import Training

TRAINING = Training(epochs=2, batch_size=4, learning_rate=1e-2, classifier_learning_rate=1e-2)


def trained(seed: int) -> Trained:
    torch.manual_seed(seed)
    module = Classifier(NgramText.from_scratch(buckets=32, width=4, seed=seed), 3, dropout=0.5)
    optimizer = optimizer_of(module, TRAINING, rates_of(module, TRAINING))
    return Trained(module, optimizer, schedule_of(optimizer, TRAINING, steps=20))


def take_steps(run: Trained, steps: range) -> list[float]:
    losses = []
    for step in steps:
        seed_step(0, epoch=0, step=step, rank=0)
        inputs = {"ids": torch.randint(0, 32, (8,)), "offsets": torch.arange(0, 8, 2), "weights": torch.rand(8)}
        loss = torch.nn.functional.cross_entropy(run.module(inputs), torch.tensor([0, 1, 2, 0]))
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.schedule.step()
        losses.append(loss.item())
    return losses


def test_a_run_that_goes_on_equals_one_that_was_not_interrupted(tmp_path: Path) -> None:
    whole = take_steps(trained(0), range(10))
    first = trained(0)
    take_steps(first, range(4))
    first.save(tmp_path, Progress(recipe="r", epoch=0, step=4, loss=1.5, history=[{"epoch": 0, "macro_f1": 0.5}]))
    second = trained(1)
    progress = second.load(tmp_path, recipe="r")
    assert (progress.step, progress.loss, progress.history) == (4, 1.5, [{"epoch": 0, "macro_f1": 0.5}])
    assert take_steps(second, range(4, 10)) == whole[4:]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    trained(0).save(tmp_path, Progress(recipe="a" * 64))
    with pytest.raises(InputError, match=r"another run \(of recipe aaaaaaaaaaaa, expected bbbbbbbbbbbb\)"):
        trained(0).load(tmp_path, recipe="b" * 64)


def test_the_best_epoch_is_the_earliest_of_the_best_ones() -> None:
    scores = [0.1, 0.7, 0.7, 0.3]
    progress = Progress(recipe="r", history=[{"epoch": i, "macro_f1": score} for i, score in enumerate(scores)])
    assert progress.best == {"epoch": 1, "macro_f1": 0.7}
    assert Progress(recipe="r").best is None


@pytest.mark.parametrize(("patience", "expected"), [(None, False), (1, True), (2, True), (3, False)])
def test_patience_counts_the_epochs_since_the_best(patience: int | None, expected: bool) -> None:
    history = [{"epoch": i, "macro_f1": score} for i, score in enumerate([0.1, 0.7, 0.6, 0.5])]
    assert Progress(recipe="r", epoch=4, history=history).stalled(patience) is expected
