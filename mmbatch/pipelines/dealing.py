"""How labelled rows are dealt out among training workers: unit by unit, whatever stands for a product in them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mmbatch.schema import Split

Inputs = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Features and presence of B products, by input, as `FusionHead.forward` takes them."""

Batch = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
"""The same, and class codes int64 `[B]`, on the CPU."""


CPU = torch.device("cpu")


class Rows(Protocol):
    """The N rows of a unit, in memory."""

    @property
    def codes(self) -> np.ndarray:
        """Class codes, int64 `[N]`."""

    def inputs(self, chosen: np.ndarray, device: torch.device) -> Inputs:
        """What a head reads of some rows, int64 `[B]`, on its device."""


class Source(Protocol):
    """Labelled rows, cut into units that are read together."""

    @property
    def workers(self) -> int:
        """Among how many the units are dealt out."""

    @property
    def scored(self) -> int:
        """Products that a head scores at a time."""

    def sizes(self, split: Split) -> Sequence[int]:
        """Rows of each unit of a split, at most."""

    def load(self, split: Split, unit: int) -> Rows:
        """Read one unit."""


@dataclass(frozen=True)
class Deal:
    """A source as its workers read it."""

    source: Source
    device: torch.device = CPU
    """Where the batches go."""

    def steps(self, epoch: int, *, batch: int, seed: int) -> int:
        """Steps of an epoch: those of the worker that has most of them."""
        sizes, workers = self.source.sizes("train"), self.source.workers
        shares = [self._order(epoch, seed)[worker::workers] for worker in range(workers)]
        return max(sum(-(-sizes[unit] // self._share(batch)) for unit in share) for share in shares)

    def batches(self, epoch: int, *, batch: int, seed: int, worker: int = 0) -> Iterator[Batch]:
        """A worker's shuffled minibatches of an epoch's train rows, no more than `steps`."""
        for number, unit in enumerate(self._order(epoch, seed)[worker :: self.source.workers]):
            rows = self.source.load("train", unit)
            order = np.random.default_rng([seed, epoch, worker, number]).permutation(len(rows.codes))
            yield from self._parts(rows, order, self._share(batch))

    def in_order(self, split: Split, *, worker: int = 0) -> Iterator[Batch]:
        """A worker's part of one split, a few products at a time; the order is the same every time."""
        for unit in range(worker, len(self.source.sizes(split)), self.source.workers):
            rows = self.source.load(split, unit)
            yield from self._parts(rows, np.arange(len(rows.codes)), self.source.scored)

    def _share(self, batch: int) -> int:
        return max(1, batch // self.source.workers)

    def _order(self, epoch: int, seed: int) -> list[int]:
        units = len(self.source.sizes("train"))
        return [int(unit) for unit in np.random.default_rng([seed, epoch]).permutation(units)]

    def _parts(self, rows: Rows, order: np.ndarray, size: int) -> Iterator[Batch]:
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield *rows.inputs(chosen, self.device), torch.from_numpy(rows.codes[chosen])
