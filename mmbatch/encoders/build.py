"""New encoders by kind: what a preset names.

Each kind's module is imported where one is built: timm and transformers take a process that imports them seconds.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mmbatch.encoders.base import Encoder
from mmbatch.encoders.pretrained import find_weights
from mmbatch.encoders.word_vectors import find_vectors
from mmbatch.errors import InputError


def _transformers(**arguments: Any) -> Encoder:
    from mmbatch.encoders.text import TransformersText

    return TransformersText.from_pretrained(**arguments)


def _timm(**arguments: Any) -> Encoder:
    from mmbatch.encoders.image import TimmImage

    return TimmImage.from_pretrained(**arguments)


def _timm_from_scratch(**arguments: Any) -> Encoder:
    from mmbatch.encoders.image import TimmImage

    return TimmImage.from_scratch(**arguments)


def _ngram(**arguments: Any) -> Encoder:
    from mmbatch.encoders.ngram import NgramText

    return NgramText.from_scratch(**arguments)


def _precomputed(**arguments: Any) -> Encoder:
    from mmbatch.encoders.precomputed import PrecomputedImage

    return PrecomputedImage.from_scratch(**arguments)


def _recurrent(**arguments: Any) -> Encoder:
    from mmbatch.encoders.recurrent import RecurrentText

    return RecurrentText.from_words(**arguments)


PRETRAINED: Mapping[str, Callable[..., Encoder]] = {
    "recurrent": _recurrent,
    "timm": _timm,
    "transformers": _transformers,
}
"""Kinds that take `weights`, a folder that is looked into before the hub."""

FROM_SCRATCH: Mapping[str, Callable[..., Encoder]] = {
    "ngram": _ngram,
    "precomputed": _precomputed,
    "recurrent": _recurrent,
    "timm-from-scratch": _timm_from_scratch,
    "transformers": _transformers,
}
"""Kinds that draw weights from a `seed`: all of them, or those of layers that they add to pretrained ones."""

BUILDERS = {**PRETRAINED, **FROM_SCRATCH}


def require_weights(kind: str, arguments: Mapping[str, Any], weights: str | None) -> None:
    """Raise `InputError` where the named folder lacks the weights of a pretrained kind, before any worker starts."""
    if kind == "recurrent":
        if arguments["vectors"]:
            find_vectors(str(arguments["vectors"]), weights)
    elif kind in PRETRAINED:
        model = str(arguments["model"])
        find_weights(f"timm/{model}" if kind == "timm" else model, weights)


def build_encoder(kind: str, *, weights: str | None, seed: int, **arguments: Any) -> Encoder:
    """A new encoder of a kind, in training mode; `InputError` where the kind or its weights do not exist."""
    if kind not in BUILDERS:
        raise InputError(f"encoder kind {kind!r}: there is none of that name, only {', '.join(sorted(BUILDERS))}")
    pretrained = {"weights": weights} if kind in PRETRAINED else {}
    drawn = {"seed": seed} if kind in FROM_SCRATCH else {}
    return BUILDERS[kind](**arguments, **pretrained, **drawn).train()
