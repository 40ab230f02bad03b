"""Which kills a drill makes, in what order, drawn from its seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import Literal

from mmbatch.failpoints import POINTS

Kind = Literal["driver", "worker", "raylet", "gcs_server", "point"]

SHARES: dict[Kind, int] = {"driver": 6, "worker": 4, "point": 9}
"""Kills of each kind in twenty; the last of the twenty is one of Ray's own processes, in turn."""

MAX_COUNT = 6
"""A failpoint kills the process that reaches it for the first, second, ... or sixth time."""


@dataclass(frozen=True)
class Kill:
    """One kill that is planned."""

    kind: Kind
    point: str = ""
    """Failpoint, for kind `point`."""
    count: int = 1

    @property
    def name(self) -> str:
        """As reports call it: the kind, or the failpoint."""
        return self.point or self.kind


def planned(seed: int) -> Iterator[Kill]:
    """Kills without end: every kind at its share, every failpoint in turn."""
    rng = Random(f"kills/{seed}")
    points = cycle(POINTS)
    ray: Iterator[Kind] = cycle(("raylet", "gcs_server"))
    while True:
        kinds = [kind for kind, share in SHARES.items() for _ in range(share)] + [next(ray)]
        rng.shuffle(kinds)
        for kind in kinds:
            if kind == "point":
                yield Kill(kind, next(points), rng.randint(1, MAX_COUNT))
            else:
                yield Kill(kind)
