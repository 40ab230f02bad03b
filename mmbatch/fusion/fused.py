"""Products through their encoders and a head that reads sequences in one pass, without a sequence being stored.

What stays of a product is its joined embedding, J numbers of float16 instead of a sequence of each encoder: 1.5 kB
instead of 175 kB for a MiniLM of 64 tokens and an EfficientNet-Lite0. The classifiers of a head are linear, so that
predicting from stored embeddings is one matrix product: `head.classifier(embeddings)` are the logits of all levels.

Shape letters as in `mmbatch.fusion.base`, and: N products, P filled positions of all of them together.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mmbatch.encoders.base import VECTOR_DTYPE, Encoder, Inputs, require_finite
from mmbatch.encoders.batches import batches_of
from mmbatch.encoders.states import encode_states
from mmbatch.fusion.base import FusionHead
from mmbatch.fusion.padding import pad
from mmbatch.sequences import offsets_of, take_ragged

POSITIONS = 2**13
"""Positions of all inputs that go through the head together, 42 MB of features 1,280 wide."""

PRODUCTS = 256
"""Products that go through the head together, however few positions they have."""

Ragged = tuple[Tensor, np.ndarray]
"""States float16 `[P, F]` of one input and their offsets, int64 `[N + 1]`."""


def joined_embeddings(
    encoders: Mapping[str, Encoder],
    head: FusionHead,
    *,
    inputs: Mapping[str, Inputs],
    present: Mapping[str, np.ndarray],
    device: torch.device | str,
) -> np.ndarray:
    """Joined embeddings of N products, little-endian float16 `[N, J]`.

    A product's embedding does not depend on the others, but for float noise. The states of all N products are held at
    once (`encode_states`), 175 kB each in the example above: a caller with many products gives them in parts.

    Args:
        encoders: input of the head -> its encoder, in eval mode, on `device`.
        head: takes sequences; in eval mode, on `device`.
        inputs: input of the head -> `Prepared.inputs` of the products that have it, in the products' order.
        present: input of the head -> whether a product has it, bool `[N]`.
        device: computes the encoders as `encode_states` does, the head in float32.

    Raises:
        RuntimeError: an encoder or the head is in training mode.
        ValueError: an input has more or fewer rows than products that have it; the head does not take these inputs; a
            state or an embedding is not finite in float16.
    """
    if head.training:
        raise RuntimeError(f"the {head.kind} head is in training mode: call eval() before joining")
    ragged = {
        name: _spread(name, encode_states(encoder, inputs[name], device), present[name])
        for name, encoder in encoders.items()
    }
    lengths = np.sum([np.diff(offsets) for _, offsets in ragged.values()], axis=0)
    joined: np.ndarray = np.empty((len(lengths), head.classifier.in_features), VECTOR_DTYPE)
    for rows in batches_of(lengths, budget=POSITIONS, most=PRODUCTS):
        joined[rows] = _join(head, ragged, rows)
    require_finite(np.isfinite(joined).all(axis=1), np.arange(len(joined)), f"{head.kind} head: embeddings")
    return joined


def _spread(name: str, ragged: Ragged, present: np.ndarray) -> Ragged:
    """The states of the rows that are there as those of all products: the others have none."""
    states_PF, offsets = ragged
    if len(offsets) - 1 != np.count_nonzero(present):
        raise ValueError(
            f"input {name!r}: found {len(offsets) - 1} prepared rows, expected {np.count_nonzero(present)}, one for"
            f" each of the {len(present)} products that has it"
        )
    lengths = np.zeros(len(present), np.int64)
    lengths[present] = np.diff(offsets)
    return states_PF, offsets_of(lengths)


@torch.inference_mode()
def _join(head: FusionHead, ragged: Mapping[str, Ragged], rows: np.ndarray) -> np.ndarray:
    """Joined embeddings of some products, float16 `[B, J]`."""
    padded = {name: pad(*_take(states_PF, offsets, rows)) for name, (states_PF, offsets) in ragged.items()}
    features = {name: features_BTF for name, (features_BTF, _) in padded.items()}
    filled = {name: filled_BT for name, (_, filled_BT) in padded.items()}
    joined: np.ndarray = head.embed(features, filled).half().cpu().numpy()
    return joined


def _take(states_PF: Tensor, offsets: np.ndarray, rows: np.ndarray) -> Ragged:
    places, lengths = take_ragged(offsets, rows)
    return states_PF[torch.from_numpy(places).to(states_PF.device)], offsets_of(lengths)
