"""Golden rows: what two predictors say of the same products whose category is known."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Macro-F1 of two sets of predictions on the same golden rows."""

    rows: int
    before: float
    """Macro-F1, 0..1, of what is published."""
    after: float
    low: float
    """Of the 95 % interval of `after - before`, by a paired bootstrap over the rows."""
    high: float

    @property
    def better(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0
