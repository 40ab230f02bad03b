"""Linear probe: multinomial logistic regression on an encoder's stored vectors, streamed."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

INVERSE_STRENGTH = 10.0
"""C of the objective below, for vectors of length one."""

MAX_PASSES = 200
"""Evaluations of the objective, each one pass over the rows."""

Batches = Callable[[], Iterable[tuple[npt.NDArray[np.floating], npt.NDArray[np.integer]]]]
"""Starts a pass over the rows: vectors `[N, F]` and class codes int `[N]`, a part at a time, always the same."""


def unit(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Vectors divided by their length, float32 `[N, F]`; a zero vector stays zero."""
    full = vectors.astype(np.float32)
    lengths = np.linalg.norm(full, axis=1, keepdims=True)
    return np.asarray(full / np.maximum(lengths, 1e-12), dtype=np.float32)


def fit_probe(batches: Batches, *, width: int, classes: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weight float32 `[C, F]` and bias float32 `[C]` that minimise, over unit vectors x of N rows,

        mean cross-entropy(x W^T + b) + |W|^2 / (2 C N)

    as scikit-learn's `LogisticRegression(C)` does, by L-BFGS with exact gradients summed over the parts, so that rows
    never have to fit in memory. The objective is convex: the result depends on no seed and no order of the rows.
    """
    layer = nn.Linear(width, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    rows = sum(len(codes) for _, codes in batches())
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=MAX_PASSES, max_eval=MAX_PASSES, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        total = layer.weight.square().sum() / (2 * INVERSE_STRENGTH * rows)
        total.backward()  # type: ignore[no-untyped-call]
        for vectors, codes in batches():
            logits = layer(torch.from_numpy(unit(vectors)))
            part = nn.functional.cross_entropy(logits, torch.from_numpy(codes), reduction="sum") / rows
            part.backward()  # type: ignore[no-untyped-call]
            total = total.detach() + part.detach()
        return total

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()
