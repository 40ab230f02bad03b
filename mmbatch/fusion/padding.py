"""Sequences without padding -> the rectangles that a fusion head of rank 3 reads.

Shape letters as in `mmbatch.fusion.base`, and: P filled positions of all products together.
"""

import numpy as np
import torch
from torch import Tensor

from mmbatch.sequences import Sequences


def pad_sequences(sequences: Sequences, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Features and presence of B sequences, as `pad`; what crosses to the device is float16 without padding."""
    return pad(torch.tensor(sequences.states, device=device), sequences.offsets)


def pad(states_PF: Tensor, offsets: np.ndarray) -> tuple[Tensor, Tensor]:
    """One input of `FusionHead.forward`, on the device of its states.

    Args:
        states_PF: states of all products, row after row.
        offsets: int64 `[B + 1]`: where each product's states begin; a product without a sequence has none.

    Returns:
        Features float32 `[B, T, F]`, 0 beyond a sequence's end, and presence bool `[B, T]`. T is the longest sequence's
        length, 1 where there is no sequence at all.
    """
    lengths = np.diff(offsets)
    longest = max(1, int(lengths.max(initial=0)))
    present_BT = torch.from_numpy(np.arange(longest) < lengths[:, None]).to(states_PF.device)
    features_BTF = torch.zeros(*present_BT.shape, states_PF.shape[1], device=states_PF.device)
    features_BTF[present_BT] = states_PF.float()
    return features_BTF, present_BT
