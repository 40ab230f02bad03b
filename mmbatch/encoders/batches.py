"""Which rows go through a network together, and how rows of unequal length become one rectangle."""

import numpy as np


def batches_of(lengths: np.ndarray, *, budget: int, most: int) -> list[np.ndarray]:
    """Row numbers of each batch, int64, every row once: rows of like length together, so that little is padded.

    Rows are sorted by length (equal ones stay in order) and cut so that a batch has at most `most` rows and
    rows x longest is at most `budget`, in the unit of `lengths`; a row that is longer than the budget is a batch alone.
    """
    order = np.argsort(lengths, kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    for end, length in enumerate(lengths[order].tolist()):
        rows = end - start
        if rows == most or (rows and (rows + 1) * length > budget):
            batches.append(order[start:end])
            start = end
    return [*batches, order[start:]] if len(order) else []


def take_ragged(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the values of some rows stand in a ragged array, row after row, and the lengths of these rows.

    `offsets` int64 `[R + 1]`: row r holds the values from `offsets[r]` up to `offsets[r + 1]`. Both results are int64.
    """
    lengths = np.diff(offsets)[rows]
    ends = np.cumsum(lengths)
    places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(offsets[rows] - ends + lengths, lengths)
    return places, lengths
