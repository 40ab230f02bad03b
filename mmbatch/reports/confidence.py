"""What confidences and decisions are worth on test products: figures, and lines of text."""

from collections.abc import Mapping
from dataclasses import dataclass

from mmbatch.confidence_metrics import Reliability, RiskCoverage, error_of
from mmbatch.reports.confidence_figures import reliability_png, risk_coverage_png


@dataclass(frozen=True, kw_only=True)
class DecisionRow:
    """The test products of one decision."""

    decision: str
    """`accepted`, `backed_off` or `review`."""
    products: int
    share: float
    """Of all test products, 0..1."""
    precision: float | None
    """Share of them whose decided category is the gold one or above it, 0..1; None: nothing is decided of any."""


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """Confidence of late fusion in its category, on test products."""

    before: Reliability
    """Without the temperature."""
    after: Reliability
    curve: RiskCoverage
    """By the published confidence."""
    target: float | None
    """Precision that decisions are to reach; None: there is none."""
    thresholds: str
    """What the thresholds did on the rows that they were fitted on, in one line."""
    decisions: tuple[DecisionRow, ...]

    def lines(self) -> list[str]:
        """Plain text for a terminal."""
        before, after = (f"{100 * error_of(found):.2f}" for found in (self.before, self.after))
        goal = "none" if self.target is None else f"{100 * self.target:g}"
        rows = [
            f"{row.decision:10}  {row.products:>8,}  {100 * row.share:6.2f}  "
            + ("     –" if row.precision is None else f"{100 * row.precision:6.2f}")
            for row in self.decisions
        ]
        heads = f"{'decision':10}  {'products':>8}  {'share':>6}  {'right':>6}"
        return [
            f"Decisions on test products, in percent; precision to reach: {goal}",
            heads,
            "-" * len(heads),
            *rows,
            f"expected calibration error {after} points, {before} before the temperature",
        ]

    def figures(self) -> Mapping[str, bytes]:
        """File name -> PNG."""
        accepted = next(row for row in self.decisions if row.decision == "accepted")
        return {
            "reliability.png": reliability_png(self.before, self.after),
            "risk_coverage.png": risk_coverage_png(
                self.curve,
                target=self.target,
                accepted_coverage=accepted.share,
                accepted_risk=1 - (accepted.precision or 1.0) if accepted.products else 0.0,
            ),
        }
