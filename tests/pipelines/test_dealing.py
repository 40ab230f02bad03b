"""Units dealt out among workers: each row once, whatever stands for a product in them."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mmbatch.pipelines.dealing import Deal, Inputs
from mmbatch.schema import Split

SIZES = (5, 1, 7, 0, 4)


@dataclass
class Numbers:
    """The rows of a unit are numbers."""

    codes: np.ndarray

    def inputs(self, chosen: np.ndarray, device: torch.device) -> Inputs:
        return {"n": torch.from_numpy(self.codes[chosen])}, {"n": torch.ones(len(chosen), dtype=torch.bool)}


@dataclass
class Units:
    workers: int
    scored: int = 3

    def sizes(self, split: Split) -> tuple[int, ...]:
        return SIZES if split == "train" else SIZES[:2]

    def load(self, split: Split, unit: int) -> Numbers:
        return Numbers(np.arange(SIZES[unit]) + sum(SIZES[:unit]))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_an_epoch_brings_every_train_row_once_in_steps_that_are_known(workers: int) -> None:
    deal = Deal(Units(workers))
    shares = [list(deal.batches(2, batch=3 * workers, seed=0, worker=worker)) for worker in range(workers)]
    assert sorted(code for share in shares for _, _, codes in share for code in codes.tolist()) == list(range(17))
    assert max(map(len, shares)) <= deal.steps(2, batch=3 * workers, seed=0)
    for share in shares:
        for features, present, codes in share:
            assert 1 <= len(codes) <= 3
            assert torch.equal(features["n"], codes)
            assert present["n"].all()


def test_another_epoch_is_another_order() -> None:
    deal = Deal(Units(1))
    first, again, second = ([codes.tolist() for *_, codes in deal.batches(e, batch=4, seed=0)] for e in (0, 0, 1))
    assert first == again != second


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_come_in_order_a_few_at_a_time(workers: int) -> None:
    deal = Deal(Units(workers))
    found = [[codes.tolist() for *_, codes in deal.in_order("fusion", worker=worker)] for worker in range(workers)]
    assert found == {1: [[[0, 1, 2], [3, 4], [5]]], 2: [[[0, 1, 2], [3, 4]], [[5]]]}[workers]
