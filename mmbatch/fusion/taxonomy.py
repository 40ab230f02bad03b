"""Taxonomy: the category tree of the train rows, and decoding of per-level scores over its paths only.

A node is a path from the root, not a name: "Accessories" below two parents is two nodes. Paths may differ in depth, and
one may end where another goes on. Shapes: N products, L levels, K_l nodes of level l, P category paths.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy_paths import Ints, LabelPath, LabelPaths, column_parts, distinct_paths

Floats = npt.NDArray[np.floating]
Scores = npt.NDArray[np.float32]

BLOCK_VALUES = 1 << 20
"""Float32 numbers worked on at a time: 4 MiB, small enough to stay in a processor's cache."""


class SharedName(NamedTuple):
    """A name that several parents have in common, so that it is several nodes."""

    level: int
    """From 1, the root's."""
    name: str
    parents: int


@dataclass(frozen=True)
class Taxonomy:
    """The category paths that occur in train rows, and the tree that they form.

    Immutable, and equal where the paths are. Whatever order the paths are given in, they are kept sorted and once each;
    nodes of a level are sorted too, so a code means the same wherever the paths are the same.
    """

    paths: tuple[LabelPath, ...]
    """Sorted; the index of a path is what `decode` and `top_k` answer with."""

    def __post_init__(self) -> None:
        """Sort the paths; `InputError` where there is none, or one is empty or has an empty name."""
        if not self.paths:
            raise InputError("taxonomy: found no label path, expected at least one")
        for path in self.paths:
            if not path or not all(path):
                raise InputError(f"taxonomy: found label path {list(path)}, expected a name on each of its levels")
        object.__setattr__(self, "paths", tuple(sorted(set(self.paths))))

    @classmethod
    def of(cls, paths: LabelPaths, *, levels: int | None = None) -> Self:
        """The taxonomy of train rows' label paths, cut to the first `levels` levels where that is given.

        Raises:
            InputError: no path, an empty one (or null), an empty name, or no path that is `levels` deep.
        """
        distinct = {path for part in column_parts(paths) for path in distinct_paths(part)[0]}
        deepest = max(map(len, distinct), default=0)
        if levels is not None and distinct and not 1 <= levels <= deepest:
            raise InputError(f"taxonomy: found level {levels}, expected 1 to {deepest}: no train row goes deeper")
        return cls(tuple(path[:levels] for path in distinct))

    @cached_property
    def nodes(self) -> tuple[tuple[LabelPath, ...], ...]:
        """Nodes of each level as paths from the root, sorted; a node's code is its index in its level."""
        depth = max(map(len, self.paths))
        return tuple(
            tuple(sorted({path[: level + 1] for path in self.paths if len(path) > level})) for level in range(depth)
        )

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Number of nodes K_l of each level."""
        return tuple(map(len, self.nodes))

    @cached_property
    def parents(self) -> tuple[Ints, ...]:
        """Code of each node's parent, int64 `[K_l]`, ascending; -1 on the first level."""
        return tuple(np.array([self._codes.get(node[:-1], -1) for node in nodes], np.int64) for nodes in self.nodes)

    @cached_property
    def path_codes(self) -> Ints:
        """Codes of the category paths, int64 `[P, L]`, -1 below a path's end."""
        return self._rows(self.paths)

    def shared_names(self) -> tuple[SharedName, ...]:
        """Names that are below several parents, by level and name; none where names are unique, as global ids are."""
        return tuple(
            SharedName(level, name, parents)
            for level, nodes in enumerate(self.nodes, start=1)
            for name, parents in sorted(Counter(node[-1] for node in nodes).items())
            if parents > 1
        )

    def codes(self, paths: LabelPaths) -> Ints:
        """Node of each product on each level, int64 `[N, L]`; -1 where it has no such level or the node is unknown.

        Metrics read -1 as "no such level". So that an unknown category counts as wrong, score with a taxonomy of the
        gold and the predicted paths together. Work in Python is per distinct path, not per product.
        """
        found = [self._rows(distinct)[group] for distinct, group in map(distinct_paths, column_parts(paths))]
        return np.concatenate([np.empty((0, len(self.levels)), np.int64), *found])

    def path_index(self, paths: LabelPaths) -> Ints:
        """Index into `paths` of each product's label path, int64 `[N]`; -1 where it is none of them."""
        index = {path: i for i, path in enumerate(self.paths)}
        found = [
            np.array([index.get(path, -1) for path in distinct], np.int64)[group]
            for distinct, group in map(distinct_paths, column_parts(paths))
        ]
        return np.concatenate([np.empty(0, np.int64), *found])

    def decode(self, log_probs: Sequence[Floats]) -> tuple[Ints, Scores]:
        """Best category path of each product: index int64 `[N]`, and its mean log-probability in nats, float32 `[N]`.

        The score of a path is the mean, over the levels that it has, of the log-probability of its node; the highest
        wins, the first path in order where several are equal. The rule is that of the winner of the Kakao arena
        (lime-robot, "product-categories-classification"), who applies it to each level in turn; here whole paths
        compete, so that the answer is always a path of the tree. A path that ends above another beats it exactly where
        the mean over the levels between is below its own score.

        Args:
            log_probs: of each level, float `[N, K_l]`, finite or minus infinity.

        Raises:
            ValueError: the shapes are not the taxonomy's.
        """
        rows = self._check(log_probs)
        best, score = np.empty(rows, np.int64), np.empty(rows, np.float32)
        for block, means in self._blocks(log_probs):
            best[block] = means.argmax(axis=1)
            score[block] = np.take_along_axis(means, best[block, None], axis=1)[:, 0]
        return best, score

    def path_log_probs(self, log_probs: Sequence[Floats]) -> Scores:
        """Log-probabilities of the category paths, float32 `[N, P]`: log-softmax of the scores of `decode`."""
        found = np.empty((self._check(log_probs), len(self.paths)), np.float32)
        for block, means in self._blocks(log_probs):
            found[block] = normalised(means)
        return found

    def top_k(self, log_probs: Sequence[Floats], k: int) -> tuple[Ints, Scores]:
        """The k best paths, best first: indices int64 and probabilities float32, both `[N, min(k, P)]`."""
        rows, width = self._check(log_probs), min(k, len(self.paths))
        best, share = np.empty((rows, width), np.int64), np.empty((rows, width), np.float32)
        for block, means in self._blocks(log_probs):
            chosen = np.sort(np.argpartition(means, -width, axis=1)[:, -width:], axis=1)
            order = np.argsort(-np.take_along_axis(means, chosen, axis=1), axis=1, kind="stable")
            best[block] = np.take_along_axis(chosen, order, axis=1)
            share[block] = np.exp(np.take_along_axis(normalised(means), best[block], axis=1))
        return best, share

    def independent(self, log_probs: Sequence[Floats]) -> Ints:
        """Best node of each level by itself, int64 `[N, L]`: for comparison, as the nodes need not form a path."""
        self._check(log_probs)
        return np.stack([scores.argmax(axis=1) for scores in log_probs], axis=1).astype(np.int64)

    def is_valid(self, codes: Ints) -> npt.NDArray[np.bool_]:
        """Whether codes `[N, L]` are a category path of the tree, bool `[N]`.

        A row is read from the root up to its first -1 or its first node without children: what stands below such a
        node does not count, as no category has that level there.
        """
        inside, at = codes[:, 0] >= 0, codes[:, 0]
        valid = np.zeros(len(codes), bool)
        for level, (ends, inner) in enumerate(zip(self._ends, self._inner, strict=True)):
            below = codes[:, level + 1] if level + 1 < len(self.levels) else np.full(len(codes), -1)
            stops = inside & ((below < 0) | ~inner[at])
            valid |= stops & ends[at]
            inside &= ~stops
            if level + 1 < len(self.levels):
                inside &= self.parents[level + 1][below] == at
            at = below
        return valid

    @cached_property
    def _codes(self) -> dict[LabelPath, int]:
        return {node: code for nodes in self.nodes for code, node in enumerate(nodes)}

    @cached_property
    def _ends(self) -> tuple[npt.NDArray[np.bool_], ...]:
        """Whether a category path ends at a node, bool `[K_l]` per level."""
        paths = set(self.paths)
        return tuple(np.array([node in paths for node in nodes]) for nodes in self.nodes)

    @cached_property
    def _inner(self) -> tuple[npt.NDArray[np.bool_], ...]:
        """Whether a node has children, bool `[K_l]` per level."""
        below = (*self.parents[1:], np.empty(0, np.int64))
        return tuple(np.isin(np.arange(count), codes) for count, codes in zip(self.levels, below, strict=True))

    @cached_property
    def _columns(self) -> Ints:
        """Where each path ends, int64 `[P]`, among the nodes of all levels laid side by side."""
        starts = np.cumsum(self.levels) - self.levels
        return np.array([starts[len(path) - 1] + self._codes[path] for path in self.paths], np.int64)

    @cached_property
    def _lengths(self) -> Scores:
        return np.array([len(path) for path in self.paths], np.float32)

    def _rows(self, paths: Sequence[LabelPath]) -> Ints:
        depths = range(1, len(self.levels) + 1)
        codes = [
            [self._codes.get(path[:depth], -1) if len(path) >= depth else -1 for depth in depths] for path in paths
        ]
        return np.array(codes, np.int64).reshape(len(paths), len(self.levels))

    def _check(self, log_probs: Sequence[Floats]) -> int:
        """Number of products N; `ValueError` where the shapes are not `[N, K_l]`."""
        found = [list(scores.shape) for scores in log_probs]
        rows = found[0][0] if found and found[0] else 0
        expected = [[rows, count] for count in self.levels]
        if found != expected:
            raise ValueError(f"log-probabilities per level: found shapes {found}, expected {expected}")
        return rows

    def _blocks(self, log_probs: Sequence[Floats]) -> Iterator[tuple[slice, Scores]]:
        """Mean log-probabilities of the paths, float32 `[B, P]`, of B products at a time."""
        for block in row_blocks(len(log_probs[0]), sum(self.levels) + len(self.paths)):
            yield block, self._means([scores[block] for scores in log_probs])

    def _means(self, log_probs: Sequence[Floats]) -> Scores:
        """The sum at a node is its parent's sum and its own log-probability; a path's mean is its end's, divided."""
        sums = np.empty((len(log_probs[0]), sum(self.levels)), np.float32)
        start, above = 0, None
        for scores, parents in zip(log_probs, self.parents, strict=True):
            here = sums[:, start : start + len(parents)]
            here[:] = scores
            if above is not None:
                here += above.take(parents, axis=1)
            start, above = start + len(parents), here
        means: Scores = sums.take(self._columns, axis=1)
        means /= self._lengths
        return means


def normalised(scores: Floats) -> Scores:
    """Log-softmax over the last axis, float32; even where no score of a row is above minus infinity."""
    lowest = np.finfo(np.float32).min / 4  # far below any log-probability, and a difference of two stays finite
    return np.asarray(log_softmax(np.maximum(scores, lowest), axis=1), np.float32)


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of `rows` rows in order, each of about `BLOCK_VALUES` numbers at `width` a row."""
    step = max(1, BLOCK_VALUES // width)
    return (slice(start, start + step) for start in range(0, rows, step))
