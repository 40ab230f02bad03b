"""State dicts in files: tensors by name, without ever running code that a file holds."""

import io
import pickle
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from mmbatch.errors import InputError
from mmbatch.storage import filesystem_of, storage_errors

_SAFE = ".safetensors"
_SUFFIXES = (_SAFE, ".pth", ".pt", ".bin")
_GLOBAL = re.compile(r"GLOBAL '?([\w.]+)")  # how torch names what it refuses to look up
_DAMAGED = (
    AssertionError, AttributeError, EOFError, LookupError, OSError, OverflowError, RuntimeError, SafetensorError,
    TypeError, ValueError, pickle.UnpicklingError, struct.error,
)  # fmt: skip
"""What torch and safetensors raise for bytes that are cut, changed or something else altogether."""


def read_state_dict(uri: str) -> dict[str, Tensor]:
    """The tensors of a file on the CPU, in the precision they have; those of dicts in a dict have their keys joined.

    `.safetensors`, or `.pth`, `.pt`, `.bin` as `torch.save` writes them; local or in an object store. The file is held
    in memory whole. What is no dense tensor is left out. Raises `InputError`.
    """
    content = _bytes(uri)
    try:
        tensors = dict(_flatten(load_safetensors(content) if uri.lower().endswith(_SAFE) else _unpickle(content)))
    except _DAMAGED as error:
        raise InputError(f"{uri}: {_why(error)}") from error
    if not tensors:
        raise InputError(f"{uri}: holds no tensors, expected a state dict")
    return tensors


def _bytes(uri: str) -> bytes:
    if not uri.lower().endswith(_SUFFIXES):
        raise InputError(f"{uri}: expected a state dict in a file that ends in {', '.join(_SUFFIXES)}")
    filesystem, path = filesystem_of(uri)
    try:
        with storage_errors():
            return bytes(filesystem.cat_file(path))
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {error.strerror or _line(error)}") from error


def _unpickle(content: bytes) -> Any:
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # about formats that are refused anyway
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _why(error: Exception) -> str:
    """What is wrong with a file's bytes; torch's own text advises to run the code that is in the file."""
    asked = _GLOBAL.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if asked:
        return f"asks for {asked[1]}, whose code is not run: expected a state dict, tensors in plain dicts"
    if isinstance(error, pickle.UnpicklingError):
        return "damaged, or not a file that torch.save has written"
    return f"damaged, or not what its name says: {_line(error)}"


def _flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a dict and of the dicts in it, with their keys joined by dots."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta:
            yield f"{prefix}{key}", value


def _line(error: BaseException) -> str:
    """The beginning of a library's text, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
