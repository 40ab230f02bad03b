"""What an encoder is: product rows in, one vector per product out, or the states that the vector is pooled from.

An encoder works in two halves, so that decoding and tokenising run on CPU workers while the network keeps its device:
`prepare` turns an Arrow batch into compact numpy arrays, which hold no padding and cross processes as they are;
`collate` lays out some of their rows for the network, and `forward` turns those arrays' tensors into vectors, `states`
into a sequence for each row.

Shapes: G rows of a prepared batch, B rows that go through the network together, L tokens of the longest of them, T
tokens or n-grams of all rows together, S pixels of a side, F numbers in one state of a sequence.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_model
from torch import Tensor

from mmbatch import schema
from mmbatch.training import Augmentation

Inputs = Mapping[str, np.ndarray]

VECTOR_DTYPE = np.dtype("<f2")
"""Little-endian float16: what the feature store holds."""

WEIGHTS_FILE = "encoder.safetensors"
DESCRIPTION_FILE = "encoder.json"


class Prepared(NamedTuple):
    """A batch, ready for the network, and the rows of it that are not."""

    inputs: dict[str, np.ndarray]
    """The good rows only, for `collate`; empty when no row is good."""
    good: np.ndarray
    """int64 `[B]`: row numbers within the batch that are in `inputs`, ascending."""
    failures: list[tuple[int, str, str]]
    """Row number within the batch, reason code, message for a person."""


class Budget(NamedTuple):
    """How large a batch may be: the arguments of `batches_of`."""

    budget: int
    """Rows x longest, in the unit of `Encoder.sizes`."""
    most: int
    """Rows."""


class Budgets(NamedTuple):
    """The fastest batches of each engine; on a GPU large enough to fill it, as the copies hide behind the computing."""

    cpu: Budget
    openvino: Budget
    gpu: Budget


class TraceInput(NamedTuple):
    """One argument of `forward`, as a converter of networks wants to know it."""

    example: np.ndarray
    """Of at least two rows: tracing takes a size of 1 for a constant."""
    dynamic_axes: tuple[int, ...]
    """Axes whose size differs from batch to batch."""


class Encoder(torch.nn.Module, ABC):
    """A frozen or trainable network over one modality of a product."""

    kind: ClassVar[str]
    """Names the class in `encoder.json`."""
    modality: ClassVar[schema.Modality]
    columns: ClassVar[tuple[str, ...]]
    """Columns of the batch that `prepare` reads."""
    budgets: ClassVar[Budgets]
    width: int
    """Numbers in a vector."""

    @abstractmethod
    def prepare(self, batch: pa.Table, *, augmentation: Augmentation | None = None, seed: int = 0) -> Prepared:
        """Decode or tokenise rows on the CPU.

        `augmentation` is given in training only, for photos; `seed` draws it: equal arguments, equal arrays.
        """

    @abstractmethod
    def sizes(self, inputs: Inputs) -> np.ndarray:
        """int64 `[G]`: what each row of `Prepared.inputs` costs the network, in the unit of the budgets."""

    @abstractmethod
    def collate(self, inputs: Inputs, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The keyword arguments of `forward` for some rows (int64 `[B]`, at least one) of `Prepared.inputs`."""

    @abstractmethod
    def trace_inputs(self) -> dict[str, TraceInput]:
        """What to trace `forward` with; empty where the network runs on torch alone."""

    @abstractmethod
    def forward(self, *args: Any, **inputs: Any) -> Tensor:
        """Vectors float32 `[B, width]` of what `collate` returns, as tensors (`to_tensors`)."""

    @property
    def sequence_width(self) -> int:
        """Numbers in each of the `states`, F."""
        return self.width

    @property
    def longest_sequence(self) -> int:
        """The most states that a row can have."""
        return 1

    def states(self, *args: Any, **inputs: Any) -> tuple[Tensor, Tensor]:
        """What `forward` would pool, of the same tensors: the states of a text's tokens or of a photo's patches.

        Returns:
            float32 `[B, L, F]`, and int64 `[B]`: how many of a row's states are real, from the first one; at least one.
            An encoder that pools nothing has one state, its vector.
        """
        vectors_BW: Tensor = self(*args, **inputs)
        return vectors_BW.unsqueeze(1), torch.ones(len(vectors_BW), dtype=torch.int64, device=vectors_BW.device)

    @abstractmethod
    def config(self) -> dict[str, object]:
        """Everything besides the weights that changes vectors or states, as JSON values; a part of the fingerprint."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights, `encoder.json` and the files that `prepare` needs into `folder`, which exists."""

    @classmethod
    @abstractmethod
    def restore(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """The encoder that `config` describes, its weights still random; `folder` holds the other saved files."""


def without_weights(encoder: Encoder) -> Encoder:
    """A copy that prepares and collates, but has no network: small enough to send to every process."""
    light = copy(encoder)
    light.__dict__ |= {"_modules": {}, "_parameters": {}, "_buffers": {}}
    return light


def row_sizes(encoder: Encoder, batch: pa.Table) -> np.ndarray:
    """int64 `[rows]`: what each row costs the network (`Encoder.sizes`) by preparing it, 0 where that fails."""
    prepared = encoder.prepare(batch)
    sizes = np.zeros(len(batch), np.int64)
    if prepared.inputs:
        sizes[prepared.good] = encoder.sizes(prepared.inputs)
    return sizes


def collate_all(encoder: Encoder, inputs: Inputs) -> dict[str, np.ndarray]:
    """The keyword arguments of `forward` for all rows of `Prepared.inputs`, in their order; empty if there are none."""
    return encoder.collate(inputs, np.arange(len(encoder.sizes(inputs)))) if inputs else {}


def to_tensors(inputs: Inputs, device: torch.device | str) -> dict[str, Tensor]:
    """Arrays as tensors on the device, in the dtypes they have; arrays from shared memory may be read-only."""
    return {name: torch.tensor(array, device=device) for name, array in inputs.items()}


def encode(encoder: Encoder, inputs: Inputs, device: torch.device | str) -> np.ndarray:
    """Vectors of `Prepared.inputs` as one batch, little-endian float16 `[G, width]`; `encoder` is on `device` already.

    The plain way, for a few rows; `engine_for` is the fast one. Computes in float16 where the device is a GPU, else in
    float32. Raises `RuntimeError` and `ValueError` as `require_eval` and `to_vectors` do.
    """
    require_eval(encoder)
    if not inputs:
        return np.empty((0, encoder.width), VECTOR_DTYPE)
    on_gpu = torch.device(device).type == "cuda"
    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=on_gpu):
        vectors = encoder(**to_tensors(collate_all(encoder, inputs), device)).float().cpu().numpy()
    return to_vectors(vectors, encoder.kind)


def require_eval(encoder: Encoder) -> None:
    """Raise `RuntimeError` in training mode: dropout and batch statistics make vectors depend on their neighbours."""
    if encoder.training:
        raise RuntimeError(f"encoder {encoder.kind} is in training mode: call eval() before encoding")


def to_vectors(vectors: np.ndarray, kind: str) -> np.ndarray:
    """Float32 vectors as `VECTOR_DTYPE`; `ValueError` names the rows that are not finite in float16."""
    with np.errstate(over="ignore"):  # reported below, with the rows
        half: np.ndarray = vectors.astype(VECTOR_DTYPE)
    finite_B = np.isfinite(half).all(axis=1)
    require_finite(finite_B, np.arange(len(half)), f"encoder {kind}: vectors")
    return half


def require_finite(finite: np.ndarray, rows: np.ndarray, what: str) -> None:
    """Raise `ValueError` that names the `rows` (int64 `[P]`) of what is not `finite` (bool `[P]`)."""
    if not finite.all():
        raise ValueError(f"{what} of rows {np.unique(rows[~finite]).tolist()} are not finite in float16")


def write_encoder(encoder: Encoder, folder: Path) -> None:
    """Write weights and `encoder.json`: what every `Encoder.save` has in common."""
    save_model(encoder, str(folder / WEIGHTS_FILE))
    description = {"kind": encoder.kind, "config": encoder.config()}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n", encoding="utf-8")
