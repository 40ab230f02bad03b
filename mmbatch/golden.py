"""Macro-F1 of two sets of predictions on the same golden rows."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Macro-F1 before and after, and the 95 % interval of after - before, of a paired bootstrap over rows."""

    rows: int
    before: float
    after: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """Whether the predictions after are better by more than chance."""
        return self.low > 0
