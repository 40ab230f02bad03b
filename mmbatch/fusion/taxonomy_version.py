"""Taxonomy version: an edited tree, and how scores over the model's own tree become decisions in it.

Nothing is trained or encoded again: decisions are a pure function of the stored log-probabilities of category paths.
Shapes: N products, P category paths of the model's taxonomy, D decisions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Self

import numpy as np

from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy import Floats, Scores, Taxonomy, normalised, row_blocks
from mmbatch.fusion.taxonomy_edits import Edits, check_edits, moved
from mmbatch.fusion.taxonomy_paths import Ints, LabelPath

REVIEW: LabelPath = ()
"""Decision for a product that no node of the tree can take before a model is trained on it: it stays in review."""


@dataclass(frozen=True)
class TaxonomyVersion:
    """What operators made of a model's taxonomy; immutable.

    renamed   the score stays the same
    merged    probabilities add up
    removed   cannot be decided for any more; the others compete, so that their probabilities add up to 1
    split     decided as the deepest common ancestor of the new paths, which no model can tell apart yet; as
              `REVIEW` where they have none
    """

    successors: tuple[tuple[LabelPath, ...], ...]
    """For each path of the model's taxonomy, `[P]`, the category paths that it is now, sorted: none where it was
    removed, one where it was kept, renamed or merged, several where it was split."""

    @classmethod
    def of(cls, taxonomy: Taxonomy) -> Self:
        """The version before any edit: every path of the model's taxonomy is what it was."""
        return cls(tuple((path,) for path in taxonomy.paths))

    def edited(self, edits: Edits) -> Self:
        """The next version, by edits of this one's tree.

        Raises:
            InputError: the edits cannot be applied (`check_edits`), or every category is removed.
        """
        check_edits(edits, paths=self.taxonomy.paths)
        successors = tuple(
            tuple(sorted({new for path in paths for new in moved(path, edits)})) for paths in self.successors
        )
        if not any(successors):
            raise InputError("taxonomy edits: every category is removed, expected at least one to be left")
        return type(self)(successors)

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The tree of this version, with the new paths of splits, for which there is no decision yet."""
        return Taxonomy(tuple(path for paths in self.successors for path in paths))

    @cached_property
    def decisions(self) -> tuple[LabelPath, ...]:
        """Paths that can be decided for, sorted: category paths, inner nodes for splits, and `REVIEW`, the first."""
        return tuple(sorted({common_ancestor(paths) for paths in self.successors if paths}))

    def log_probs(self, path_log_probs: Floats) -> Scores:
        """Log-probabilities of the decisions, float32 `[N, D]`.

        Args:
            path_log_probs: `Taxonomy.path_log_probs` of the model's taxonomy, `[N, P]`.

        Raises:
            ValueError: the shape is another.
        """
        expected = (len(path_log_probs), len(self.successors))
        if path_log_probs.shape != expected:
            raise ValueError(f"log-probabilities of paths: found {path_log_probs.shape}, expected {expected}")
        columns, starts = self._columns
        found = np.empty((len(path_log_probs), len(starts)), np.float32)
        for block in row_blocks(*expected):
            sums = np.logaddexp.reduceat(path_log_probs[block].take(columns, axis=1), starts, axis=1)
            found[block] = normalised(sums)
        return found

    def decide(self, path_log_probs: Floats) -> tuple[Ints, Scores]:
        """Best decision of each product: index into `decisions`, int64 `[N]`, and its probability, float32 `[N]`.

        Arguments and errors as in `log_probs`; the first decision in order where several are equal.
        """
        scores = self.log_probs(path_log_probs)
        best = scores.argmax(axis=1).astype(np.int64)
        return best, np.exp(np.take_along_axis(scores, best[:, None], axis=1)[:, 0])

    @cached_property
    def _columns(self) -> tuple[Ints, Ints]:
        """Columns of `path_log_probs` in the order of the decisions, and where each decision's begin, `[D]`.

        Those of removed paths come first, before the first decision's.
        """
        code = {path: index for index, path in enumerate(self.decisions)}
        decision = np.array([code[common_ancestor(paths)] if paths else -1 for paths in self.successors], np.int64)
        columns = np.argsort(decision, kind="stable")
        return columns, np.searchsorted(decision[columns], np.arange(len(code)))


def common_ancestor(paths: Sequence[LabelPath]) -> LabelPath:
    """Deepest common ancestor of some paths; the path itself where there is one, `REVIEW` where there is none."""
    together = takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))
    return tuple(names[0] for names in together)
