"""What parts of a product mattered: each part is left out in turn, and the fall of the score is what it was worth."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import FeatureAblation
from torch import Tensor

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

AT_A_TIME = 16
"""Variants of a product that are scored together."""


def ablate(score: Callable[[Bools], Floats], parts: int) -> Floats:
    """What each of P parts adds to a score, float32 `[P]`: the whole's score less that of the whole without the part.

    `score` is asked for variants, bool `[V, P]`, that say which parts are there, and answers `[V]`.
    """
    if not parts:
        return np.empty(0, np.float32)

    def forward(kept_VP: Tensor) -> Tensor:
        return torch.from_numpy(score(kept_VP.numpy() > 0.5))

    found: Tensor = FeatureAblation(forward).attribute(
        torch.ones(1, parts), baselines=0.0, perturbations_per_eval=AT_A_TIME
    )
    return np.asarray(found[0].numpy(), np.float32)
