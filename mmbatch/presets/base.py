"""What a preset is: a named, typed configuration in Python."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmbatch.schema import Modality
from mmbatch.sources import Columns
from mmbatch.training import HeadRecipe, LateFusionRecipe, Training


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe:
    """One encoder of a preset."""

    name: str
    """Name in tables and reports."""
    modality: Modality
    """What it encodes."""
    kind: str
    """Key of `mmbatch.encoders.BUILDERS`."""
    arguments: Mapping[str, Any]
    """Keyword arguments of that builder."""
    training: Training
    """How it is fine-tuned."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything a source system's recipe sets together."""

    name: str
    """What `--preset` names."""
    level: int
    """Depth of the category path that is learned."""
    columns: Columns
    """Column names of its raw files."""
    encoders: tuple[EncoderRecipe, ...]
    """In any order; they are always visited by name."""
    head: HeadRecipe
    """Its fusion heads."""
    late_fusion: LateFusionRecipe = field(default_factory=LateFusionRecipe)
    """Its late fusion."""
    precision: float = 0.95
    """Share of right ones that accepted predictions are to reach."""
