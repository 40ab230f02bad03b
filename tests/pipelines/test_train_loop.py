import numpy as np
import pytest
import torch

from mmbatch.encoders.image import TimmImage
from mmbatch.errors import InputError
from mmbatch.pipelines.train_loop import Classifier, _optimizer
from mmbatch.pipelines.training_rows import LENGTH_POOL, length_batches


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(TimmImage.from_scratch("test_resnet", size=32, seed=0), classes=3, dropout=0.0)


def test_batches_hold_every_row_once_with_like_lengths_together() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, size=1_000)
    batches = length_batches(lengths, 16, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1_000))
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    unsorted = np.random.default_rng(2).permutation(1_000)
    random = sum(lengths[unsorted[i : i + 16]].max() * len(unsorted[i : i + 16]) for i in range(0, 1_000, 16))
    assert padded < 1.1 * lengths.sum() < random
    assert len(batches) > LENGTH_POOL  # more than one pool
    assert [lengths[batch].mean() for batch in batches] != sorted(lengths[batch].mean() for batch in batches)


def test_the_rate_warms_up_and_decays_to_zero(classifier: Classifier) -> None:
    training = {"learning_rate": 1.0, "classifier_learning_rate": 2.0, "weight_decay": 0.0, "warmup_share": 0.1}
    optimizer, schedule = _optimizer(classifier, training, steps=100)
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    encoder = np.array(rates)[:, 0]
    assert encoder.argmax() in (9, 10)
    assert encoder[0] == pytest.approx(0.1)
    assert encoder[-1] < 0.02
    np.testing.assert_allclose(np.array(rates)[:, 1], 2 * encoder)


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
