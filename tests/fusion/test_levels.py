"""Levels: the loss of a product is that of the levels that it has, and answers are category paths."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from mmbatch.errors import InputError
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.taxonomy import Taxonomy

TAXONOMY = Taxonomy((("a",), ("b", "x"), ("b", "y"), ("c", "x", "1")))
WEIGHTS = (1.0, 1.2, 1.3)


def logits_of(levels: Levels, rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, sum(levels.classes), generator=torch.Generator().manual_seed(0), requires_grad=True)


def test_the_loss_is_the_weighted_sum_over_the_levels_that_a_product_has() -> None:
    levels = Levels.of(TAXONOMY, WEIGHTS)
    logits = logits_of(levels)
    main, middle, small = logits.split([3, 3, 1], dim=1)
    found = levels.losses(logits, torch.arange(4))
    nodes = [[0, None, None], [1, 0, None], [1, 1, None], [2, 2, 0]]
    for row, codes in enumerate(nodes):
        terms = [
            weight * cross_entropy(level[row], torch.tensor(code))
            for weight, level, code in zip(WEIGHTS, (main, middle, small), codes, strict=True)
            if code is not None
        ]
        torch.testing.assert_close(found[row], torch.stack(terms).sum())


def test_a_missing_level_has_no_gradient() -> None:
    levels = Levels.of(TAXONOMY, WEIGHTS)
    logits = logits_of(levels, rows=1)
    levels.losses(logits, torch.tensor([0]), label_smoothing=0.1).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, :3].all()
    assert not logits.grad[0, 3:].any()


@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_shares_of_paths_cost_what_the_paths_cost(weights: tuple[float, ...]) -> None:
    levels = Levels.of(TAXONOMY, weights)
    logits, codes = logits_of(levels), torch.tensor([3, 0, 1, 2])
    hard = levels.losses(logits, codes)
    torch.testing.assert_close(levels.losses(logits, one_hot(codes, 4).float()), hard)
    other = torch.tensor([0, 1, 2, 3])
    mixed = 0.25 * one_hot(codes, 4).float() + 0.75 * one_hot(other, 4).float()
    torch.testing.assert_close(levels.losses(logits, mixed), 0.25 * hard + 0.75 * levels.losses(logits, other))


def test_without_weights_the_paths_are_one_set_of_classes() -> None:
    levels = Levels.of(TAXONOMY, ())
    logits, codes = logits_of(levels), torch.tensor([0, 3, 2, 1])
    assert levels.classes == (4,)
    torch.testing.assert_close(
        levels.losses(logits, codes, label_smoothing=0.1),
        cross_entropy(logits, codes, reduction="none", label_smoothing=0.1),
    )
    np.testing.assert_array_equal(levels.best(logits.detach()), logits.detach().argmax(dim=1).numpy())


@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_path_log_probabilities_add_up_to_one_and_their_best_is_the_answer(weights: tuple[float, ...]) -> None:
    levels = Levels.of(TAXONOMY, weights)
    logits = logits_of(levels, rows=50).detach()
    found = levels.path_log_probs(logits)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found.argmax(axis=1), levels.best(logits))


def test_weights_of_levels_that_no_category_has_are_left_out() -> None:
    assert Levels.of(TAXONOMY, (1, 1.2, 1.3, 1.4)).weights == (1, 1.2, 1.3)


@pytest.mark.parametrize("weights", [(1.0, 1.2), (1.0, 0.0, 1.0)])
def test_too_few_weights_or_a_zero_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"level_weights \[.*\]: expected 3 numbers above 0, one for each level"):
        Levels.of(TAXONOMY, weights)
