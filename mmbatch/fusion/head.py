"""Fusion heads by kind: made new, or loaded from their files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from mmbatch.errors import InputError
from mmbatch.fusion.base import CONFIG_FILE, WEIGHTS_FILE, FusionHead
from mmbatch.fusion.cross_attention import CrossAttentionHead
from mmbatch.fusion.joins import AdditionHead, ConcatenationHead, GatedHead, SimpleHead
from mmbatch.schema import Modality

__all__ = [
    "HEADS",
    "AdditionHead",
    "ConcatenationHead",
    "CrossAttentionHead",
    "FusionHead",
    "GatedHead",
    "SimpleHead",
    "build_head",
    "load_head",
]

HEADS: Mapping[str, type[FusionHead]] = {
    head.kind: head for head in (AdditionHead, ConcatenationHead, CrossAttentionHead, GatedHead, SimpleHead)
}
"""Every kind of head -> its class."""


def build_head(
    *,
    kind: str,
    widths: Mapping[str, int],
    modalities: Mapping[str, Modality],
    classes: Sequence[int],
    **arguments: Any,
) -> FusionHead:
    """An untrained head.

    Args:
        kind: key of `HEADS`.
        widths: name of each input -> width of its embedding.
        modalities: name of each input -> what its encoder reads.
        classes: number of classes of each level, root first.
        arguments: the other arguments of that kind's class.

    Raises:
        InputError: there is no such kind, or it does not take these arguments.
    """
    return _construct(kind, {**arguments, "widths": widths, "modalities": modalities, "classes": classes})


def load_head(folder: Path) -> FusionHead:
    """The head that `save` wrote into the folder, on the CPU and in evaluation mode.

    Raises:
        InputError: a file is missing, is no head, or its weights do not fit its configuration.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        state = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"no fusion head in {folder}: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG_FILE}: found a JSON {type(config).__name__}, expected an object")
    try:
        head = _construct(config.pop("kind", None), config)
    except InputError as error:
        raise InputError(f"{folder / CONFIG_FILE}: {error}") from error
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}: {reason}") from error
    return head.eval()


def _construct(kind: object, arguments: Mapping[str, Any]) -> FusionHead:
    if not isinstance(kind, str) or kind not in HEADS:
        raise InputError(f"found kind of fusion head {kind!r}, expected one of {sorted(HEADS)}")
    try:
        return HEADS[kind](**arguments)
    except (TypeError, AttributeError) as error:
        raise InputError(f"arguments that the {kind} head does not take: {error}") from error
