"""Rows of unequal length without padding: the token states of texts or the patches of photos, one after the other.

Shapes: N rows, T positions of all rows together, F numbers in the state of a position.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True, eq=False)
class Sequences:
    """States of N rows; a row may have none."""

    states: np.ndarray
    """float16 `[T, F]`, row after row."""
    offsets: np.ndarray
    """int64 `[N + 1]`: row n holds the states from `offsets[n]` up to `offsets[n + 1]`; the first is 0, the last T."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 `[N]`."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Self:
        """Some rows (int64 `[B]`), in this order."""
        places, lengths = take_ragged(self.offsets, rows)
        return type(self)(self.states[places], offsets_of(lengths))


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """int64 `[N + 1]`: where each of N rows of these lengths begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def take_ragged(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the values of some rows stand in a ragged array, row after row, and the lengths of these rows.

    `offsets` int64 `[R + 1]`: row r holds the values from `offsets[r]` up to `offsets[r + 1]`. Both results are int64.
    """
    lengths = np.diff(offsets)[rows]
    ends = np.cumsum(lengths)
    places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(offsets[rows] - ends + lengths, lengths)
    return places, lengths
