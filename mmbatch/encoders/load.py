"""Bring a saved encoder back, exactly as it was saved."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model

from mmbatch.encoders.base import DESCRIPTION_FILE, WEIGHTS_FILE, Encoder
from mmbatch.errors import InputError


def _ngram() -> type[Encoder]:
    from mmbatch.encoders.ngram import NgramText

    return NgramText


def _precomputed() -> type[Encoder]:
    from mmbatch.encoders.precomputed import PrecomputedImage

    return PrecomputedImage


def _recurrent() -> type[Encoder]:
    from mmbatch.encoders.recurrent import RecurrentText

    return RecurrentText


def _timm() -> type[Encoder]:
    from mmbatch.encoders.image import TimmImage

    return TimmImage


def _transformers() -> type[Encoder]:
    from mmbatch.encoders.text import TransformersText

    return TransformersText


KINDS: Mapping[str, Callable[[], type[Encoder]]] = {
    "ngram_text": _ngram,
    "precomputed_image": _precomputed,
    "recurrent_text": _recurrent,
    "timm_image": _timm,
    "transformers_text": _transformers,
}
"""`Encoder.kind` of each class, and what imports it: only the process that loads one waits for its libraries."""


def load_encoder(folder: Path) -> Encoder:
    """The encoder that `Encoder.save` wrote into `folder`, on the CPU, in eval mode.

    Raises `InputError`, naming the file, if one is missing, torn, of another encoder, or written by code that would
    compute other vectors.
    """
    kind, config = _read_description(folder / DESCRIPTION_FILE)
    try:
        encoder = KINDS[kind]().restore(config, folder)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / DESCRIPTION_FILE}: config does not fit a {kind} encoder: {error!r}") from error
    _check_config(folder / DESCRIPTION_FILE, found=config, expected=encoder.config())
    _load_weights(encoder, folder / WEIGHTS_FILE)
    return encoder.eval()


def _read_description(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        kind, config = description["kind"], description["config"]
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: not an encoder's description, expected JSON with kind and config: {error}"
        ) from error
    if kind not in KINDS:
        raise InputError(f"{file}: encoder kind is {kind!r}, expected one of {', '.join(sorted(KINDS))}")
    return kind, config


def _check_config(file: Path, *, found: dict[str, Any], expected: dict[str, object]) -> None:
    """An encoder must say of itself what its file says, or its vectors would not be those of its fingerprint."""
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            raise InputError(
                f"{file}: {key} is {found.get(key)!r}, this version of mmbatch computes with {expected.get(key)!r}"
            )


def _load_weights(encoder: Encoder, file: Path) -> None:
    try:
        load_model(encoder, file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (RuntimeError, SafetensorError) as error:
        raise InputError(f"{file}: not the weights of this encoder: {' '.join(str(error).split())}") from error
