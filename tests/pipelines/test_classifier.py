"""The trained network: what is frozen stays, and a worker without rows still takes part."""

import pytest
import torch

from mmbatch.encoders.image import TimmImage
from mmbatch.errors import InputError
from mmbatch.pipelines.classifier import Classifier


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(TimmImage.from_scratch("test_resnet", size=32, seed=0), classes=3)


def test_frozen_parameters_and_statistics_stay_as_they_are(classifier: Classifier) -> None:
    classifier.freeze(prefixes=["backbone.conv1", "backbone.bn1"], batch_norm=True)
    before = {name: value.clone() for name, value in classifier.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in classifier.parameters() if p.requires_grad], lr=0.1)
    classifier.train()
    pixels = torch.randint(0, 255, (8, 32, 32, 3), dtype=torch.uint8)
    classifier({"pixels": pixels}).square().mean().backward()
    optimizer.step()
    after = classifier.encoder.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith(("backbone.conv1", "backbone.bn1"))} <= still
    assert {name for name in before if "running_mean" in name} <= still
    assert any(name not in still for name in before if name.startswith("backbone.layer4"))


def test_freezing_what_is_not_there_is_an_error(classifier: Classifier) -> None:
    with pytest.raises(InputError, match=r"frozen 'backbone.ste': the encoder has no parameter of that prefix"):
        classifier.freeze(prefixes=["backbone.ste"], batch_norm=False)


def test_without_rows_every_trained_weight_has_a_gradient_of_zero(classifier: Classifier) -> None:
    classifier.freeze(prefixes=["backbone.conv1"], batch_norm=False)
    classifier({}).backward()
    for name, parameter in classifier.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


@pytest.mark.parametrize(("activation", "expected"), [("none", [-1.0, 2.0]), ("relu", [0.0, 2.0])])
def test_the_activation_stands_before_the_classification_layer(activation: str, expected: list[float]) -> None:
    made = Classifier(TimmImage.from_scratch("test_resnet", size=32, seed=0), 3, activation=activation)  # type: ignore[arg-type]
    assert made.activation(torch.tensor([-1.0, 2.0])).tolist() == expected
