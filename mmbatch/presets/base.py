"""What a preset is: a named, typed configuration in Python."""

from dataclasses import dataclass, field

from mmbatch.sources import Columns
from mmbatch.training import EncoderRecipe, HeadRecipe, LateFusionRecipe


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything a source system's recipe sets together."""

    name: str
    """What `--preset` names."""
    level: int
    """Depth of the category path that is learned."""
    columns: Columns
    """Column names of its raw files."""
    top_classes: int = 0
    """Most frequent classes that are learned; 0: all."""
    encoders: tuple[EncoderRecipe, ...]
    """In any order; they are always visited by name."""
    head: HeadRecipe
    """Its fusion heads."""
    late_fusion: LateFusionRecipe = field(default_factory=LateFusionRecipe)
    """Its late fusion."""
    precision: float = 0.95
    """Share of right ones that accepted predictions are to reach."""
