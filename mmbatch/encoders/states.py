"""Sequences of a frozen encoder: the states before pooling, of real tokens and patches alone.

Shapes as in `mmbatch.encoders.base`, and: P real tokens or patches of all rows together.
"""

import numpy as np
import torch
from torch import Tensor

from mmbatch.encoders.base import Encoder, Inputs, require_eval, require_finite, to_tensors
from mmbatch.encoders.batches import batches_of
from mmbatch.sequences import Sequences, offsets_of, take_ragged


def encode_sequences(encoder: Encoder, inputs: Inputs, device: torch.device | str) -> Sequences:
    """Sequences of `Prepared.inputs`, row by row; arguments and errors as `encode_states`."""
    states_PF, offsets = encode_states(encoder, inputs, device)
    return Sequences(states_PF.cpu().numpy(), offsets)


def encode_states(encoder: Encoder, inputs: Inputs, device: torch.device | str) -> tuple[Tensor, np.ndarray]:
    """States of `Prepared.inputs`, row after row: float16 `[P, F]` on the device, and their offsets, int64 `[G + 1]`.

    `encoder` is on `device` already, which computes in float16 where it is a GPU, else in float32, in batches of like
    length. All of it is held at once: G x tokens or patches x F x 2 bytes, and as much again while it is put in order.

    Raises `RuntimeError` as `require_eval`, and `ValueError` that names the rows if a state is not finite in float16.
    """
    require_eval(encoder)
    if not inputs:
        return torch.empty((0, encoder.sequence_width), dtype=torch.float16, device=device), np.zeros(1, np.int64)
    on_gpu = torch.device(device).type == "cuda"
    budget = encoder.budgets.gpu if on_gpu else encoder.budgets.cpu
    batches = batches_of(encoder.sizes(inputs), budget=budget.budget, most=budget.most)
    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=on_gpu):
        found = [_real(*encoder.states(**to_tensors(encoder.collate(inputs, rows), device))) for rows in batches]
        states_PF = torch.cat([states for states, _ in found])
        sorted_lengths = torch.cat([lengths for _, lengths in found]).cpu().numpy()
        places, lengths = take_ragged(offsets_of(sorted_lengths), np.argsort(np.concatenate(batches)))
        states_PF = states_PF[torch.from_numpy(places).to(device)]
    finite_P = torch.isfinite(states_PF).all(dim=1).cpu().numpy()
    require_finite(finite_P, np.repeat(np.arange(len(lengths)), lengths), f"encoder {encoder.kind}: states")
    return states_PF, offsets_of(lengths)


def _real(states_BLF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """States `[P, F]` in float16 without those of padding, and the lengths as they are."""
    real_BL = torch.arange(states_BLF.shape[1], device=lengths_B.device) < lengths_B.unsqueeze(1)
    return states_BLF[real_BL].half(), lengths_B
