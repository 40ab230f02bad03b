"""Which rows go through a network together."""

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
