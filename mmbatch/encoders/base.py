"""What an encoder is: product rows in, one vector per product out.

An encoder works in two halves, so that decoding and tokenising run on CPU workers while the network keeps its device:
`prepare` turns an Arrow batch into numpy arrays, `forward` turns those arrays' tensors into vectors.

Shapes: B rows of a batch that can be encoded, L tokens, T n-grams of the whole batch, S pixels of a side.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_model
from torch import Tensor

from mmbatch import schema

VECTOR_DTYPE = np.dtype("<f2")
"""Little-endian float16: what the feature store holds."""

WEIGHTS_FILE = "encoder.safetensors"
DESCRIPTION_FILE = "encoder.json"


class Prepared(NamedTuple):
    """A batch, ready for the network, and the rows of it that are not."""

    inputs: dict[str, np.ndarray]
    """The keyword arguments of `forward`, for the good rows only; empty when no row is good."""
    good: np.ndarray
    """int64 `[B]`: row numbers within the batch that are in `inputs`, ascending."""
    failures: list[tuple[int, str, str]]
    """Row number within the batch, reason code, message for a person."""


class Encoder(torch.nn.Module, ABC):
    """A frozen or trainable network over one modality of a product."""

    kind: ClassVar[str]
    """Names the class in `encoder.json`."""
    modality: ClassVar[schema.Modality]
    columns: ClassVar[tuple[str, ...]]
    """Columns of the batch that `prepare` and `lengths` read."""
    width: int
    """Numbers in a vector."""

    @abstractmethod
    def prepare(self, batch: pa.Table, *, rng: np.random.Generator | None = None) -> Prepared:
        """Decode or tokenise rows on the CPU; `rng` is given in training only and drives the augmentation, if any."""

    @abstractmethod
    def lengths(self, batch: pa.Table) -> np.ndarray:
        """int64 `[rows]`: what each row costs relative to the others, to batch rows of like length together."""

    @abstractmethod
    def forward(self, *args: Any, **inputs: Any) -> Tensor:
        """Vectors float32 `[B, width]` of `Prepared.inputs` as tensors (`to_tensors`)."""

    @abstractmethod
    def config(self) -> dict[str, object]:
        """Everything besides the weights that changes the vectors, as JSON values; a part of the fingerprint."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights, `encoder.json` and the files that `prepare` needs into `folder`, which exists."""

    @classmethod
    @abstractmethod
    def restore(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """The encoder that `config` describes, its weights still random; `folder` holds the other saved files."""


def to_tensors(inputs: Mapping[str, np.ndarray], device: torch.device | str) -> dict[str, Tensor]:
    """`Prepared.inputs` on the device, in the dtypes they have; arrays from shared memory may be read-only."""
    return {name: torch.tensor(array, device=device) for name, array in inputs.items()}


def encode(encoder: Encoder, inputs: Mapping[str, np.ndarray], device: torch.device | str) -> np.ndarray:
    """Vectors of `Prepared.inputs`, little-endian float16 `[B, width]`; `encoder` is on `device` already.

    Computes in float16 where the device is a GPU, else in float32. Raises `RuntimeError` if the encoder is in training
    mode (dropout and batch statistics would make vectors depend on their neighbours), `ValueError` if a vector is not
    finite in float16.
    """
    if encoder.training:
        raise RuntimeError(f"encoder {encoder.kind} is in training mode: call eval() before encoding")
    if not inputs:
        return np.empty((0, encoder.width), VECTOR_DTYPE)
    on_gpu = torch.device(device).type == "cuda"
    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=on_gpu):
        vectors = encoder(**to_tensors(inputs, device)).float().cpu().numpy()
    with np.errstate(over="ignore"):  # reported below, with the rows
        half: np.ndarray = vectors.astype(VECTOR_DTYPE)
    rows = np.flatnonzero(~np.isfinite(half).all(axis=1)).tolist()
    if rows:
        raise ValueError(f"encoder {encoder.kind}: vectors of rows {rows} are not finite in float16")
    return half


def write_encoder(encoder: Encoder, folder: Path) -> None:
    """Write weights and `encoder.json`: what every `Encoder.save` has in common."""
    save_model(encoder, str(folder / WEIGHTS_FILE))
    description = {"kind": encoder.kind, "config": encoder.config()}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n", encoding="utf-8")
