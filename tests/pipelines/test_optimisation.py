"""Optimisers and learning rates follow the recipe."""

from dataclasses import replace

import numpy as np
import pytest

from mmbatch.encoders.image import TimmImage
from mmbatch.pipelines.classifier import Classifier
from mmbatch.pipelines.optimisation import optimizer_of, rates_of, schedule_of
from mmbatch.training import Training

TRAINING = Training(epochs=1, batch_size=8, learning_rate=1.0, classifier_learning_rate=2.0, weight_decay=0.1)


@pytest.fixture
def module() -> Classifier:
    return Classifier(TimmImage.from_scratch("test_resnet", size=32, seed=0), 3)


def rates(module: Classifier, training: Training, steps: int = 100) -> np.ndarray:
    optimizer = optimizer_of(module, training, rates_of(module, training))
    schedule = schedule_of(optimizer, training, steps=steps)
    found = []
    for _ in range(steps):
        found.append(max(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        schedule.step()
    return np.array(found)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_warms_up_and_falls_to_zero(module: Classifier, schedule: str) -> None:
    found = rates(module, replace(TRAINING, schedule=schedule, warmup_share=0.1))  # type: ignore[arg-type]
    assert found.argmax() in (9, 10)
    assert found[0] == pytest.approx(0.2)
    assert found[-1] < 0.05
    assert (np.diff(found[10:]) <= 0).all()
    assert found[55] == pytest.approx(1.0, abs=0.02)  # both are at half of the way


def test_a_constant_rate_stays_and_no_warm_up_begins_at_the_peak(module: Classifier) -> None:
    np.testing.assert_allclose(rates(module, replace(TRAINING, schedule="constant", warmup_share=0.0)), 2.0)
    assert rates(module, replace(TRAINING, warmup_share=0.0))[0] == 2.0


def test_the_sum_of_the_linear_rates_is_half_the_peak(module: Classifier) -> None:
    assert rates(module, replace(TRAINING, warmup_share=0.0)).mean() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("name", ["adamw", "adam", "radam"])
def test_the_optimiser_is_the_one_that_is_named(module: Classifier, name: str) -> None:
    assert (
        type(optimizer_of(module, replace(TRAINING, optimizer=name), rates_of(module, TRAINING))).__name__.lower()
        == name
    )  # type: ignore[arg-type]


def test_lower_layers_learn_more_slowly_and_biases_and_norms_do_not_decay(module: Classifier) -> None:
    training = replace(TRAINING, layer_decay=0.5)
    optimizer = optimizer_of(module, training, rates_of(module, training))
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    named = dict(module.named_parameters())
    assert len(groups) == len(named)
    rate = {name: groups[id(p)]["initial_lr" if "initial_lr" in groups[id(p)] else "lr"] for name, p in named.items()}
    assert rate["classifier.weight"] == 2.0
    assert rate["encoder.backbone.conv1.0.weight"] < rate["encoder.backbone.layer4.0.conv1.weight"] <= 1.0
    for name, parameter in named.items():
        assert groups[id(parameter)]["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name


def test_frozen_parameters_are_not_optimised(module: Classifier) -> None:
    module.freeze(prefixes=["backbone.conv1"], batch_norm=False)
    optimised = {
        id(p)
        for group in optimizer_of(module, TRAINING, rates_of(module, TRAINING)).param_groups
        for p in group["params"]
    }
    assert {id(p) for p in module.parameters() if p.requires_grad} == optimised
