"""The clusters and the catalogs that are simulated."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.simulation.rates import rate
from mmbatch.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A cluster of equal nodes, the driver on one of them."""

    name: str
    nodes: int
    cpus: int
    """Cores of a node."""
    gpu: Literal["L4", "H100"] | None = None
    """One a node."""
    remote: bool = True
    """Whether the workspace lies on an object store; else on the node's own disk."""
    gb_per_s: float = 0.6
    """Of a node to the object store: assumed, what 16-core instances are promised at all times (5 Gbit/s)."""
    price: float = 0.0
    """Dollars a node and hour, list prices of AWS, us-east-1."""

    @property
    def cores(self) -> int:
        """Of all nodes."""
        return self.nodes * self.cpus

    @property
    def gpus(self) -> int:
        """Of all nodes."""
        return self.nodes if self.gpu else 0


_SHAPES = (
    Shape(name="laptop", nodes=1, cpus=2, remote=False),
    Shape(name="1 x 16 CPU", nodes=1, cpus=16, price=0.82),
    Shape(name="8 x 16 CPU", nodes=8, cpus=16, price=0.82),
    Shape(name="4 x L4", nodes=4, cpus=16, gpu="L4", price=1.32),
    Shape(name="16 x H100", nodes=16, cpus=32, gpu="H100", gb_per_s=5.0, price=4.92),
)
SHAPES = {shape.name: shape for shape in _SHAPES}
"""By name; prices: c7a.4xlarge, g6.4xlarge, an eighth of a p5.48xlarge in a capacity block (which has 24 cores)."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """A catalog, and what of it a run has to do."""

    products: int
    changed: float = 1.0
    """Share that is new or edited, 0 to 1."""
    images: bool = True
    inline: bool = False
    """Whether the source holds the images' bytes; else ingest and extraction fetch them from where they stay."""
    part_rows: int = 10_000
    """Rows of a part of the source, such as a row group: what one task of an ingest reads."""
    row_bytes: float = rate("row bytes")
    image_bytes: float = rate("image bytes")
    labelled: float = rate("labelled")
    """Share."""
    cheapest: bool = False
    """The cheapest encoder there is, instead of MiniLM and EfficientNet-Lite0."""

    def __post_init__(self) -> None:
        if self.products < 1:
            raise InputError(f"products is {self.products}: expected at least 1")
        if not 0 < self.changed <= 1:
            raise InputError(f"changed is {self.changed}: expected a share above 0 and at most 1")

    @property
    def rows(self) -> float:
        """Products that are new or edited."""
        return self.products * self.changed


def shape_named(name: str) -> Shape:
    """One of `SHAPES`; `InputError` when there is none of this name."""
    if name not in SHAPES:
        raise InputError(f"--shape {name!r}: unknown, expected one of {', '.join(SHAPES)}")
    return SHAPES[name]
