"""Heads of every kind over the same small inputs, with no parameter left at a round initial value."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmbatch.fusion.head import FusionHead, build_head

WIDTHS = {"text@1.0": 6, "image": 10, "words": 4}
MODALITIES = {"text@1.0": "text", "image": "image", "words": "text"}
CLASSES = [3, 5]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "addition": {},
    "concatenation": {"hidden": 4},
    "cross-attention": {"blocks": 2, "heads": 3},
    "gated": {"hidden": 4},
    "simple": {},
}
"""Kind -> its own arguments."""


def make_head(kind: str, *, classes: Sequence[int] = CLASSES, dropout: float = 0.5, **changed: Any) -> FusionHead:
    """In training mode."""
    torch.manual_seed(0)
    given = {"widths": WIDTHS, "modalities": MODALITIES, **ARGUMENTS[kind], **changed}
    head = build_head(kind=kind, classes=classes, dropout=dropout, **given)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return head


def make_inputs(rows: int = 5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features, and everything present."""
    generator = torch.Generator().manual_seed(1)
    features = {name: torch.randn(rows, width, generator=generator) for name, width in WIDTHS.items()}
    return features, {name: torch.ones(rows, dtype=torch.bool) for name in WIDTHS}


def some_missing(rows: int = 5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features that are NaN where they are missing: the image of the rows from 2, the words of row 1, all of row 4."""
    features, present = make_inputs(rows)
    present["image"][2:] = False
    present["words"][1] = False
    for name in present:
        present[name][4] = False
    return {name: features[name].masked_fill(~present[name][:, None], float("nan")) for name in features}, present
