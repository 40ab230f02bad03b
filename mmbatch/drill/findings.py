"""What a drill has found: by kind of kill, in all, and as plain values."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from mmbatch.drill.contents import Difference


@dataclass
class Findings:
    """What was wrong, in all and by kind of kill."""

    kills: Counter[str] = field(default_factory=Counter)
    by_kind: dict[str, Difference] = field(default_factory=dict)
    """A round's differences, counted with every kind of kill that the round had."""
    total: Difference = field(default_factory=Difference)
    faults: list[str] = field(default_factory=list)
    """Nights that hung or failed without a kill, and ledgers that do not tie out."""
    rounds: int = 0

    def add(self, kinds: set[str], found: Difference) -> None:
        """Add what one round, or one look after a kill, has shown."""
        self.total.add(found)
        for kind in kinds:
            self.by_kind.setdefault(kind, Difference()).add(found)


def summary(findings: Findings, unreached: Collection[str]) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    by_kind = {
        kind: {"kills": count, **_counts(findings.by_kind.get(kind, Difference()))}
        for kind, count in sorted(findings.kills.items())
    }
    return {
        "kills": findings.kills.total(),
        "rounds": findings.rounds,
        **_counts(findings.total),
        "examples": findings.total.examples[:20],
        "faults": findings.faults,
        "points_never_reached": sorted(set(unreached) - findings.kills.keys()),
        "by_kind": by_kind,
    }


def _counts(found: Difference) -> dict[str, int]:
    return {"lost": found.lost, "twice": found.twice, "different": found.different}
