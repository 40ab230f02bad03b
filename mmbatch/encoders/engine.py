"""Runs a frozen encoder's network over prepared rows, on the device and with the library that do it fastest."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor

from mmbatch import schema
from mmbatch.encoders.base import VECTOR_DTYPE, Budget, Encoder, Inputs, require_eval, to_vectors
from mmbatch.encoders.batches import batches_of
from mmbatch.encoders.openvino_engine import NotConvertibleError, OpenVinoEngine

_logger = logging.getLogger(__name__)

OPENVINO_FROM: Mapping[schema.Modality, int] = {"image": 1_500, "text": 300}
"""Contents of one process from which converting its encoder pays: seconds of conversion / seconds saved per content.

On one core (Zen 3, AVX2), seconds of processor: EfficientNet-Lite0 5.8 / (1 / 114 - 1 / 200) = 1,540 photos; MiniLM
3.9 / (1 / 34 - 1 / 69) = 260 texts of 110 tokens. Both terms grow with the network: its layers, and its work.
"""


class Engine(Protocol):
    """An encoder's network on its device."""

    budget: Budget
    """How large its batches should be."""

    def __call__(self, inputs: Inputs) -> np.ndarray:
        """Vectors of one batch as `Encoder.collate` lays it out, little-endian float16 `[B, width]`.

        Raises `ValueError`, naming the rows, if a vector is not finite in float16.
        """
        ...

    def run(self, batches: Iterable[Inputs]) -> Iterator[np.ndarray]:
        """Vectors of each batch, in order; the next batch may be taken before the vectors of this one are there."""
        ...


def engine_for(encoder: Encoder, device: torch.device | str, *, threads: int, contents: int) -> Engine:
    """The fastest engine for an encoder in eval mode (else `RuntimeError`), which is moved to `device`.

    `threads` computing threads on a CPU; `contents` is how many rows this process is to encode: OpenVINO has to convert
    the network first. What it cannot convert stays on torch, with a warning in the log.
    """
    require_eval(encoder)
    if torch.device(device).type == "cuda":
        return CudaEngine(encoder.to(device), torch.device(device))
    if contents >= OPENVINO_FROM[encoder.modality] and encoder.trace_inputs():
        try:
            return OpenVinoEngine(encoder, threads=threads)
        except NotConvertibleError as error:
            _logger.warning("%s stays on torch: OpenVINO cannot convert its network: %s", encoder.kind, error)
    return CpuEngine(encoder, threads=threads)


def encode_prepared(encoder: Encoder, engine: Engine, inputs: Inputs) -> np.ndarray:
    """Vectors of `Prepared.inputs`, row by row, little-endian float16 `[G, width]`, in batches of like length."""
    if not inputs:
        return np.empty((0, encoder.width), VECTOR_DTYPE)
    sizes = encoder.sizes(inputs)
    batches = batches_of(sizes, budget=engine.budget.budget, most=engine.budget.most)
    vectors = np.empty((len(sizes), encoder.width), VECTOR_DTYPE)
    found = engine.run(encoder.collate(inputs, rows) for rows in batches)
    for rows, part in zip(batches, found, strict=True):
        vectors[rows] = part
    return vectors


@final
class CpuEngine:
    """torch in float32. The number of threads is the process's: the last engine that is made sets it."""

    def __init__(self, encoder: Encoder, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self.budget = encoder.budgets.cpu
        self._encoder = encoder

    def __call__(self, inputs: Inputs) -> np.ndarray:
        """See `Engine`."""
        tensors = {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in inputs.items()}
        with torch.inference_mode():
            return to_vectors(self._encoder(**tensors).numpy(), self._encoder.kind)

    def run(self, batches: Iterable[Inputs]) -> Iterator[np.ndarray]:
        """See `Engine`."""
        return map(self, batches)


@final
class CudaEngine:
    """torch on a GPU, autocast to float16: the vectors are stored in it, and bfloat16 is eight times coarser.

    A batch is copied from pinned memory on a stream of its own while the one before it is computed.
    """

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self.budget = encoder.budgets.gpu
        self._encoder, self._device = encoder, device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, inputs: Inputs) -> np.ndarray:
        """See `Engine`."""
        return self._finish(*self._start(inputs))

    def run(self, batches: Iterable[Inputs]) -> Iterator[np.ndarray]:
        """See `Engine`."""
        started: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        for inputs in batches:
            started.append(self._start(inputs))
            if len(started) > 1:
                yield self._finish(*started.popleft())
        while started:
            yield self._finish(*started.popleft())

    def _start(self, inputs: Inputs) -> tuple[Tensor, torch.cuda.Event]:
        """Queue copy, network and copy back; the vectors are on the host once the event has happened."""
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            tensors = {name: _pinned(array).to(self._device, non_blocking=True) for name, array in inputs.items()}
        compute.wait_stream(self._copies)
        for tensor in tensors.values():
            tensor.record_stream(compute)
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            vectors = self._encoder(**tensors).float()
            host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
            host.copy_(vectors, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(compute)
        return host, done

    def _finish(self, host: Tensor, done: torch.cuda.Event) -> np.ndarray:
        done.synchronize()
        return to_vectors(host.numpy(), self._encoder.kind)


def _pinned(array: np.ndarray) -> Tensor:
    """A copy in page-locked memory, which the GPU fetches without the CPU; torch keeps it until it was fetched."""
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    pinned = torch.empty(array.shape, dtype=dtype, pin_memory=True)
    np.copyto(pinned.numpy(), array)
    return pinned
