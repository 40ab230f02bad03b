"""One stage of abstaining: the best category path, or the best node of one level, and whether it is sure enough.

An answer is what a stage decides for: a category path, whose code is its index in the taxonomy's order, or a node of
one level. A node's probability is the sum over the category paths that go through it or end there; a path that
ends above the level has no node there, and adds to none. The depth of a node is the number of names in it.
Shape letters: N products, B of them in a block, P category paths, K answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmbatch.fusion.taxonomy import Taxonomy, row_blocks
from mmbatch.fusion.taxonomy_paths import LabelPath
from mmbatch.fusion.thresholds import Threshold, fewest_rows, fit_threshold

OWN_MISTAKES = 2
"""With which a category's own rows must be able to reach the target, to get a threshold of its own."""

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The decision for one kind of answer: whole category paths, or the nodes of one level."""

    depth: int | None
    """None: category paths; else nodes of so many names, 1 the root's."""
    threshold: Threshold
    """Of all answers but those in `own`."""
    own: Mapping[int, Threshold]
    """Code of a path or node -> the threshold of products for which it is the answer; empty without `per_class`."""

    @property
    def rows(self) -> int:
        """Calibration rows that reached this stage."""
        return sum(threshold.rows for threshold in self._thresholds)

    @property
    def accepted(self) -> int:
        """Those of them that it accepts."""
        return sum(threshold.accepted for threshold in self._thresholds)

    def accepts(self, codes_N: Ints, confidence_N: Floats) -> Truths:
        """Whether each answer is sure enough, bool `[N]`; never where the confidence is NaN."""
        return confidence_N >= self._lowest(codes_N.max(initial=-1) + 1)[codes_N]

    def _lowest(self, codes: int) -> npt.NDArray[np.float64]:
        """Lowest confidence accepted by code, `[K]` for at least `codes` of them; infinite where never."""
        lowest = np.full(max([codes, *(code + 1 for code in self.own)]), _limit(self.threshold))
        for code, threshold in self.own.items():
            lowest[code] = _limit(threshold)
        return lowest

    @property
    def _thresholds(self) -> tuple[Threshold, ...]:
        return (self.threshold, *self.own.values())


def fit_stage(
    depth: int | None,
    codes_N: Ints,
    confidence_N: Floats,
    right_N: Truths,
    *,
    target: float,
    level: float,
    per_class: bool,
) -> Stage:
    """The thresholds of a stage, fitted on the calibration rows that reach it.

    Args:
        depth: of the answers; None: category paths.
        codes_N: answer of each row.
        confidence_N: its probability.
        right_N: whether it is the gold one.
        target: precision to reach.
        level: confidence of the bound.
        per_class: answers with rows enough to pass with `OWN_MISTAKES` get a threshold of their own, and the
            others one on what is left.
    """
    enough = fewest_rows(len(codes_N), OWN_MISTAKES, target=target, level=level) if per_class else None
    large = np.flatnonzero(np.bincount(codes_N) >= enough) if enough is not None else np.empty(0, np.int64)
    own = {
        int(code): fit_threshold(confidence_N[codes_N == code], right_N[codes_N == code], target=target, level=level)
        for code in large
    }
    others_N = ~np.isin(codes_N, large)
    threshold = fit_threshold(confidence_N[others_N], right_N[others_N], target=target, level=level)
    return Stage(depth=depth, threshold=threshold, own=own)


def stage_depths(taxonomy: Taxonomy) -> tuple[int | None, ...]:
    """In the order of the stages: None for whole paths, then the levels above the deepest, upwards."""
    return (None, *range(len(taxonomy.levels) - 1, 0, -1))


def answer_paths(taxonomy: Taxonomy, depth: int | None) -> Sequence[LabelPath]:
    """The K answers, by code."""
    return taxonomy.paths if depth is None else taxonomy.nodes[depth - 1]


def gold_answers(taxonomy: Taxonomy, depth: int | None) -> Ints:
    """The right answer for products of each category path, int64 `[P]`; -1 where the path ends above the level."""
    return np.arange(len(taxonomy.paths)) if depth is None else taxonomy.path_codes[:, depth - 1]


def best_answers(probabilities_NP: Floats, rows: Ints, taxonomy: Taxonomy, depth: int | None) -> tuple[Ints, Floats]:
    """Most probable answer of the given rows, int64, and its probability, float32; the first of equal ones."""
    codes, confidence = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for block in row_blocks(len(rows), probabilities_NP.shape[1]):
        shares_BK = _shares(probabilities_NP[rows[block]], taxonomy, depth)
        codes[block] = shares_BK.argmax(axis=1)
        confidence[block] = shares_BK.max(axis=1)
    return codes, confidence


def _shares(probabilities_BP: Floats, taxonomy: Taxonomy, depth: int | None) -> Floats:
    """Probability of each answer, `[B, K]`: the paths are sorted, so those through one node stand side by side."""
    if depth is None:
        return probabilities_BP
    codes_P = taxonomy.path_codes[:, depth - 1]
    columns = np.flatnonzero(codes_P >= 0)
    firsts = np.flatnonzero(np.diff(codes_P[columns], prepend=-1))
    sums_BK: Floats = np.add.reduceat(probabilities_BP[:, columns], firsts, axis=1, dtype=np.float64)
    return sums_BK


def _limit(threshold: Threshold) -> float:
    return np.inf if threshold.confidence is None else threshold.confidence
