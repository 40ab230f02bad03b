"""OpenVINO on a CPU: the whole of an encoder's `forward`, in float32."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, final

import numpy as np
import torch

from mmbatch.encoders.base import Encoder, Inputs, to_tensors, to_vectors

_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # else it computes in bfloat16 or float16 where the processor can
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # the processes of one machine would all pin themselves to its first cores
}


class NotConvertibleError(Exception):
    """OpenVINO has no counterpart of one of a network's operations; the text names it."""


@final
class OpenVinoEngine:
    """A converted copy of an encoder's network; float32 throughout, nothing is quantised."""

    def __init__(self, encoder: Encoder, *, threads: int) -> None:
        """Converts and compiles: several seconds, once. `encoder` is in eval mode, on the CPU, and stays as it is.

        Raises `NotConvertibleError`, and `ValueError` where a weight is not finite: OpenVINO's ReLU makes 0 of NaN, so
        the vectors would not tell.
        """
        if not all(torch.isfinite(weight).all() for weight in encoder.parameters()):
            raise ValueError(f"encoder {encoder.kind}: its weights are not finite")
        inputs = encoder.trace_inputs()
        self.budget = encoder.budgets.openvino
        self._kind, self._names = encoder.kind, tuple(inputs)
        openvino = _openvino()
        try:
            model = openvino.convert_model(_exported(encoder))
        except openvino.frontend.OpConversionFailure as error:
            raise NotConvertibleError(" ".join(str(error).split())) from error
        compiled = openvino.Core().compile_model(model, "CPU", _SETTINGS | {"INFERENCE_NUM_THREADS": threads})
        self._request = compiled.create_infer_request()

    def __call__(self, inputs: Inputs) -> np.ndarray:
        """See `Engine`."""
        arrays = [np.ascontiguousarray(inputs[name]) for name in self._names]
        return to_vectors(self._request.infer(arrays, share_inputs=True)[0], self._kind)

    def run(self, batches: Iterable[Inputs]) -> Iterator[np.ndarray]:
        """See `Engine`."""
        return map(self, batches)


def _exported(encoder: Encoder) -> torch.export.ExportedProgram:
    inputs = encoder.trace_inputs()
    sizes = {name: dict.fromkeys(one.dynamic_axes, torch.export.Dim.DYNAMIC) for name, one in inputs.items()}
    examples = to_tensors({name: one.example for name, one in inputs.items()}, "cpu")
    with torch.no_grad():
        return torch.export.export(encoder, (), kwargs=examples, dynamic_shapes=sizes)


def _openvino() -> Any:
    """The library, without the package through which it would report its use to its maker over the network."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino.frontend  # type: ignore[import-untyped]

    return openvino
