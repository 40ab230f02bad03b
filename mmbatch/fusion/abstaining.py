"""Abstaining: which category paths are sure enough, which products get an inner node instead, and which need a person.

Shape letters: N products, P category paths.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from mmbatch.errors import InputError
from mmbatch.fusion.abstaining_stage import (
    Floats,
    Ints,
    Stage,
    Truths,
    answer_paths,
    best_answers,
    fit_stage,
    gold_answers,
    stage_depths,
)
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_paths import LabelPath
from mmbatch.fusion.thresholds import Best, Threshold, best_bound, check_numbers

ACCEPTED, BACKED_OFF, REVIEW = 0, 1, 2

KINDS = ("accepted", "backed_off", "review")
"""Name of each kind of decision, by its number."""

_NOTHING = Best(bound=0.0, coverage=0.0)


class Decided(NamedTuple):
    """What was decided for each product."""

    kind: npt.NDArray[np.int8]
    """`[N]`, `ACCEPTED`, `BACKED_OFF` or `REVIEW`."""
    node: Ints
    """Index into `Abstaining.nodes`, int64 `[N]`; -1 for review."""


@dataclass(frozen=True, kw_only=True)
class Abstaining:
    """A cascade over the levels of the tree, the deepest first: what one stage does not accept reaches the next.

    The first stage decides for whole category paths. After it comes one for each level above the deepest, upwards: its
    answer is the node with the highest probability. A category that ends on such a level is a node of it like any other
    and competes with inner nodes.

    Each stage has thresholds of its own, fitted on the calibration rows that reach it, so that each kind of decision
    reaches the target precision by itself. Of these rows the search of the stage before has only seen those on which it
    failed, which are wrong more often than others: this errs on the safe side. The bound holds for each threshold by
    itself, not for all of them at once.
    """

    taxonomy: Taxonomy
    target: float | None
    """Precision of each kind of decision; None: there is none, and every product is for review."""
    level: float
    """Confidence with which the target is reached: of the bounds of `fit_threshold`."""
    rows: int
    """Calibration rows with scores."""
    stages: tuple[Stage, ...]
    """In the order of the cascade; none without a target."""
    best: Best
    """Of the stages that accept nothing; 0 where all accept something."""

    @classmethod
    def fit(
        cls,
        probabilities_NP: Floats,
        labels_N: npt.NDArray[np.integer],
        taxonomy: Taxonomy,
        *,
        target: float | None,
        level: float = 0.95,
        per_class: bool = False,
    ) -> Self:
        """Fit the thresholds on calibration rows, products that nothing else was fitted on.

        Args:
            probabilities_NP: joined probabilities of the category paths, float `[N, P]`, calibrated; a row that is NaN,
                as nothing scored the product, is left out.
            labels_N: index of each product's gold path among `taxonomy.paths`, int `[N]`.
            taxonomy: the category paths.
            target: precision that each kind of decision is to reach, between 0 and 1; None: everything to review.
            level: confidence of the bound, between 0 and 1.
            per_class: an answer (path or node) with enough rows of its own gets a threshold of its own.

        Raises:
            InputError: shapes, labels or numbers are not as above.
        """
        _check_goal(target, level)
        _check(probabilities_NP, paths=len(taxonomy.paths))
        _check_labels(labels_N, rows=len(probabilities_NP), paths=len(taxonomy.paths))
        stages: tuple[Stage, ...] = ()
        best = _NOTHING
        if target is not None:
            gold_N = np.asarray(labels_N, np.int64)
            stages, best = _fit_stages(
                probabilities_NP, gold_N, taxonomy, target=target, level=level, per_class=per_class
            )
        rows = int(_scored(probabilities_NP).sum())
        return cls(taxonomy=taxonomy, target=target, level=level, rows=rows, stages=stages, best=best)

    @classmethod
    def from_json(cls, text: str, taxonomy: Taxonomy) -> Self:
        """What `to_json` wrote, fitted on the same taxonomy; `InputError` where the text is something else."""
        try:
            content = json.loads(text)
            paths = content.pop("paths")
            stages = tuple(_stage(**stage) for stage in content.pop("stages"))
            found = cls(taxonomy=taxonomy, stages=stages, best=Best(**content.pop("best")), **content)
            _check_goal(found.target, found.level)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"abstaining: found something else than its JSON: {error!r}") from error
        depths = stage_depths(taxonomy) if found.target is not None else ()
        if paths != len(taxonomy.paths) or tuple(stage.depth for stage in found.stages) != depths:
            expected = f"{len(taxonomy.paths)} on {len(taxonomy.levels)} levels"
            found_paths = f"{paths} category paths on {len(found.stages)} levels"
            raise InputError(f"abstaining: found thresholds of {found_paths}, expected {expected}")
        return found

    def to_json(self) -> str:
        """JSON object of the thresholds; the taxonomy is not in it, but for the number of its paths."""
        content = {
            "paths": len(self.taxonomy.paths),
            "target": self.target,
            "level": self.level,
            "rows": self.rows,
            "best": self.best._asdict(),
            "stages": [asdict(stage) for stage in self.stages],
        }
        return json.dumps(content)

    @cached_property
    def nodes(self) -> tuple[LabelPath, ...]:
        """All answers: the P category paths in the taxonomy's order, then the nodes of each level that has a stage.

        So the number of an accepted product's answer is that of its category path. A category path that ends above the
        deepest level is there twice.
        """
        return tuple(node for stage in self.stages for node in answer_paths(self.taxonomy, stage.depth))

    def over(self, taxonomy: Taxonomy) -> Self:
        """These thresholds over an edited tree: a level that it does not have falls away, as do those `per_class`."""
        kept = [stage for stage in self.stages if stage.depth is None or stage.depth < len(taxonomy.levels)]
        return replace(self, taxonomy=taxonomy, stages=tuple(replace(stage, own={}) for stage in kept))

    def decide(self, probabilities_NP: Floats) -> Decided:
        """Decision for each product; review where its probabilities are NaN.

        Args:
            probabilities_NP: as in `fit`.

        Raises:
            InputError: the shape is not `[N, P]`.
        """
        _check(probabilities_NP, paths=len(self.taxonomy.paths))
        kind_N = np.full(len(probabilities_NP), REVIEW, np.int8)
        node_N = np.full(len(probabilities_NP), -1, np.int64)
        waiting, offset = np.flatnonzero(_scored(probabilities_NP)), 0
        for stage in self.stages:
            if stage.accepted:
                codes, confidence = best_answers(probabilities_NP, waiting, self.taxonomy, stage.depth)
                sure = stage.accepts(codes, confidence)
                kind_N[waiting[sure]] = ACCEPTED if stage.depth is None else BACKED_OFF
                node_N[waiting[sure]] = offset + codes[sure]
                waiting = waiting[~sure]
            offset += len(answer_paths(self.taxonomy, stage.depth))
        return Decided(kind=kind_N, node=node_N)

    def describe(self) -> str:
        """One line: what is decided of the calibration rows, or why every product goes to review."""
        if self.target is None:
            return "no target precision: every product goes to review"
        if not self.rows:
            return "no calibration rows: every product goes to review"
        goal = f"a precision of {100 * self.target:g} % with {100 * self.level:g} % confidence"
        if not any(stage.accepted for stage in self.stages):
            lowered = math.floor(1000 * self.best.bound) / 10  # never rounded up to the target
            reached = f"the best lower bound is {lowered} %"
            if self.best.bound >= self.target:
                reached += ", but as the best of many it proves nothing"
            return f"no threshold reaches {goal} on {self.rows:,} calibration rows: {reached}"
        shares = [f"{_percent(stage.accepted, self.rows)} {_verb(stage.depth)}" for stage in self.stages]
        left = self.rows - sum(stage.accepted for stage in self.stages)
        parts = ", ".join([*shares, f"{_percent(left, self.rows)} for review"])
        return f"{goal} on {self.rows:,} calibration rows: {parts}"


def _fit_stages(
    probabilities_NP: Floats, labels_N: Ints, taxonomy: Taxonomy, *, target: float, level: float, per_class: bool
) -> tuple[tuple[Stage, ...], Best]:
    """The stages in order, each on the scored rows that none before it accepts, and the best bound of those in vain."""
    waiting = np.flatnonzero(_scored(probabilities_NP))
    stages, best = [], _NOTHING
    for depth in stage_depths(taxonomy):
        codes, confidence = best_answers(probabilities_NP, waiting, taxonomy, depth)
        right = codes == gold_answers(taxonomy, depth)[labels_N[waiting]]
        stage = fit_stage(depth, codes, confidence, right, target=target, level=level, per_class=per_class)
        stages.append(stage)
        if not stage.accepted:
            best = max(best, best_bound(confidence, right, level=level))
        waiting = waiting[~stage.accepts(codes, confidence)]
    return tuple(stages), best


def _stage(*, depth: int | None, threshold: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]) -> Stage:
    """A stage of parsed JSON, whose keys are strings."""
    return Stage(
        depth=depth,
        threshold=Threshold(**threshold),
        own={int(code): Threshold(**fields) for code, fields in own.items()},
    )


def _verb(depth: int | None) -> str:
    return "accepted" if depth is None else f"backed off to level {depth}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _scored(probabilities_NP: Floats) -> Truths:
    return ~np.isnan(probabilities_NP[:, 0])


def _check_goal(target: float | None, level: float) -> None:
    check_numbers(level=level)
    if target is not None:
        check_numbers(target=target)


def _check(probabilities_NP: Floats, *, paths: int) -> None:
    if probabilities_NP.ndim != 2 or probabilities_NP.shape[1] != paths:
        raise InputError(f"abstaining: found probabilities {list(probabilities_NP.shape)}, expected [N, {paths}]")


def _check_labels(labels_N: npt.NDArray[np.integer], *, rows: int, paths: int) -> None:
    if labels_N.shape != (rows,):
        raise InputError(f"abstaining: found labels {list(labels_N.shape)}, expected [{rows}]")
    if rows and (labels_N.min() < 0 or labels_N.max() >= paths):
        raise InputError(f"abstaining: found labels {labels_N.min()} to {labels_N.max()}, expected 0 to {paths - 1}")
