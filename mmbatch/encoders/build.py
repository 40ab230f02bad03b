"""New encoders by kind: what a preset names."""

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from mmbatch.encoders.base import Encoder
from mmbatch.encoders.pretrained import find_weights
from mmbatch.errors import InputError

BUILDERS: Mapping[str, str] = {
    "transformers": "mmbatch.encoders.text:TransformersText.from_pretrained",
    "timm": "mmbatch.encoders.image:TimmImage.from_pretrained",
    "timm-from-scratch": "mmbatch.encoders.image:TimmImage.from_scratch",
    "ngram": "mmbatch.encoders.ngram:NgramText.from_scratch",
}
"""Where each kind's builder is.

Pretrained kinds take `weights`, a folder that is looked into first; those from scratch take `seed`.
"""

FROM_SCRATCH = frozenset({"timm-from-scratch", "ngram"})


def require_weights(kind: str, arguments: Mapping[str, Any], weights: str | None) -> None:
    """Raise `InputError` where the named folder lacks the weights of a pretrained kind, before any worker starts."""
    if kind in BUILDERS and kind not in FROM_SCRATCH:
        model = str(arguments["model"])
        find_weights(f"timm/{model}" if kind == "timm" else model, weights)


def build_encoder(kind: str, *, weights: str | None, seed: int, **arguments: Any) -> Encoder:
    """A new encoder of a kind, in training mode; `InputError` where the kind or its weights do not exist."""
    if kind not in BUILDERS:
        raise InputError(f"encoder kind {kind!r}: there is none of that name, only {', '.join(sorted(BUILDERS))}")
    origin = {"seed": seed} if kind in FROM_SCRATCH else {"weights": weights}
    encoder: Encoder = resolve_name(BUILDERS[kind])(**arguments, **origin)
    return encoder.train()
