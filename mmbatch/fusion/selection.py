"""Which of several models is kept, and whether it is better by more than chance.

Shapes: N products, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.stats import bootstrap

from mmbatch.fusion.taxonomy_paths import Ints

RESAMPLES = 1_000
"""Drawn for an interval: its ends are then steady in the third digit."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Standing:
    """One model beside the best one, on the same products."""

    name: str
    macro_f1: float
    behind: float
    """Macro-F1 that it lacks to the best one."""
    low: float
    """Of the 95 % bootstrap interval of `behind`; below 0: by chance, perhaps."""
    high: float

    def describe(self) -> str:
        """`addition 0.9412 (0.0048 behind, 95 % interval -0.0021 to 0.0110: within noise)`."""
        if not self.behind and self.low == self.high == 0:
            return f"{self.name} {self.macro_f1:.4f}"
        verdict = "within noise" if self.low <= 0 else "clearly"
        interval = f"95 % interval {self.low:.4f} to {self.high:.4f}"
        return f"{self.name} {self.macro_f1:.4f} ({self.behind:.4f} behind, {interval}: {verdict})"


def rank(gold: Ints, predicted: Mapping[str, Ints], *, classes: int, seed: int) -> tuple[Standing, ...]:
    """The models by macro-F1, the best first; of equal ones the one that is named first.

    Args:
        gold: class codes, int64 `[N]`, at least one.
        predicted: class codes of each model, int64 `[N]`.
        classes: number of classes C.
        seed: of the products that are drawn, with replacement, for the intervals (percentile bootstrap, Efron 1979);
            all models are scored on the same draws.
    """
    macro = {name: _macro_f1(gold, codes, classes=classes) for name, codes in predicted.items()}
    best = max(macro, key=lambda name: macro[name])
    standings = [
        Standing(name, macro[name], macro[best] - macro[name], *_interval(gold, predicted[best], codes, classes, seed))
        for name, codes in predicted.items()
    ]
    return tuple(sorted(standings, key=lambda found: (found.name != best, found.behind)))


def _interval(gold: Ints, best: Ints, other: Ints, classes: int, seed: int) -> tuple[float, float]:
    """Ends of the interval of the difference in macro-F1; both 0 where the two say the same of every product."""
    if (best == other).all() or len(gold) < 2:
        return 0.0, 0.0
    found = bootstrap(
        (gold, best, other),
        partial(_difference, classes=classes),
        n_resamples=RESAMPLES,
        batch=1,
        vectorized=False,
        paired=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _difference(gold: Ints, best: Ints, other: Ints, *, classes: int) -> float:
    return _macro_f1(gold, best, classes=classes) - _macro_f1(gold, other, classes=classes)


def _macro_f1(gold: Ints, predicted: Ints, *, classes: int) -> float:
    """As `mmbatch.metrics.f1_scores`, for a thousand draws in a row: three counts and no checks."""
    right = np.bincount(gold[gold == predicted], minlength=classes)
    total = np.bincount(gold, minlength=classes) + np.bincount(predicted, minlength=classes)
    occurs = total > 0
    return float((2 * right[occurs] / total[occurs]).mean())
