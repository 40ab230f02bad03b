"""The gate: whether staged predictions may be published, rule by rule; pure functions of counts.

docs/gate.md says of each rule what a breach means and what to do.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

from mmbatch.errors import InputError
from mmbatch.golden import Difference


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Limits: a rule is breached where what was measured is above its limit."""

    changed: float = 0.10
    """Share of the products published before whose category changes, 0..1: on a usual night few per cent of a catalog
    are edited, and few of those get another category. A share of 1 never breaches."""
    changed_per_category: float = 0.30
    """The same of one category, for each that had at least `smallest` products: a category that falls apart is lost in
    the total of a large catalog. Wider than `changed`, as it is the worst of many."""
    removed: float = 0.05
    """Share of the published products that are removed, 0..1: a snapshot that was cut short removes many at once."""
    review: float = 0.05
    """Rise of the share of products for review, 0..1: each one is work for a person."""
    quarantined: float = 0.02
    """Rise of the share of products in quarantine, of one reason, 0..1: a store that is down fails most of what it is
    asked for, broken files come one by one."""
    drift: float = 0.25
    """Population stability index against the training reference, of the worst feature: above 0.25 a population is
    usually taken for another one, below 0.10 for the same (Siddiqi, Credit Risk Scorecards, 2006)."""
    golden: float = 0.01
    """Fall of macro-F1 on the golden rows, 0..1, where it is beyond chance: its whole interval lies below 0. One wrong
    product of a small category may cost several points, night after night, and prove nothing."""
    returning: float = 0.5
    """Share of the changes taken back by the last rollback that would be published again, 0..1: most of what a person
    has refused is not to come back by itself."""
    smallest: int = 100
    """Products, golden rows or changes below which a share means nothing, at least 1: of 100, one product is 1 %. The
    rule is then not judged, and says so."""

    def __post_init__(self) -> None:
        """`InputError` where a limit is none."""
        for name, value in vars(self).items():
            most = math.inf if name in ("drift", "smallest") else 1.0
            least = 1 if name == "smallest" else 0
            if not (least <= value <= most and math.isfinite(value)):
                expected = f"{least} or more" if most == math.inf else "a share, 0 to 1"
                raise InputError(f"--gate {name}={value:g}: expected {expected}")

    @classmethod
    def of(cls, flags: Sequence[str]) -> Self:
        """The defaults with the limits that flags like `changed=0.2` set.

        Raises:
            InputError: a flag is no such assignment, names no limit or one for a second time, or is out of its range.
        """
        types = {field.name: field.type for field in fields(cls)}
        found: dict[str, float] = {}
        for flag in flags:
            name, _, value = flag.partition("=")
            if name not in types:
                raise InputError(f"--gate {flag}: expected NAME=NUMBER, NAME one of {', '.join(types)}")
            if name in found:
                raise InputError(f"--gate {flag}: {name} is set already, to {found[name]:g}")
            try:
                found[name] = int(value) if types[name] is int else float(value)
            except ValueError:
                kind = "a whole number" if types[name] is int else "a number"
                raise InputError(f"--gate {flag}: expected {kind} after {name}=") from None
        return cls(**found)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What would change if the staged predictions were published; None: there is nothing to compare with."""

    products_before: int
    """Published predictions."""
    products_after: int
    changed: int
    """Products published before whose category changes, those not counted that only an edit of the tree renames."""
    removed: int
    """Published products that would not be published any more."""
    categories: Mapping[str, tuple[int, int]]
    """Category -> products published in it before, and how many of those leave it."""
    review_before: int
    review_after: int
    quarantined_before: Mapping[str, int] | None
    """Reason -> entries at the last publication."""
    quarantined_after: Mapping[str, int]
    drift: Mapping[str, float] | None
    """Feature -> population stability index."""
    drift_rows: int
    """Products sampled for it."""
    golden: Difference | None
    labels_lost: tuple[str, ...]
    """Categories that only the predictor before can decide for, after edits of the tree."""
    labels_new: tuple[str, ...]
    """Categories that only tonight's can decide for."""
    columns_before: tuple[str, ...] | None
    """`name: type` of each column of the published table."""
    columns_after: tuple[str, ...]
    """Likewise of the staged one; empty: products are removed and nothing is staged."""
    returning: tuple[int, int] | None
    """Changes taken back by the last rollback, and how many of those come again."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of the gate, judged."""

    name: str
    measured: float | None
    """None: not judged."""
    limit: float | None
    """None: a rule that has no limit to set."""
    passed: bool | None
    """None: not judged."""
    worst: str
    """The category, reason or feature that was measured; empty where there is only one."""
    sentence: str
    """For a person: what was measured and the limit, or why it was not judged."""


def judge(gate: Gate, measured: Measured) -> tuple[Rule, ...]:
    """Every rule of the gate, always in the same order; nothing is to be published where one's `passed` is False.

    Two rules have no limit. `labels` is breached where tonight's predictor cannot decide for a category that products
    are published in: those would move elsewhere however sure they were. A category without products may go, and new
    ones may come, as products of a category that a predictor has not learned are wrong before and can only get better;
    what else they change, the other rules see. `columns` is breached by any difference of the table's columns but
    their order: consumers read them by name and type.
    """
    return tuple(rule(gate, measured) for rule in _RULES)


def _changed(gate: Gate, measured: Measured) -> Rule:
    before = measured.products_before
    if few := _few(before, gate.smallest, "products published before"):
        return _not_judged("changed", gate.changed, few)
    share = measured.changed / before
    said = f"{_percent(share)} of {before:,} published products change their category"
    return _judged("changed", share, gate.changed, said)


def _changed_per_category(gate: Gate, measured: Measured) -> Rule:
    name, limit = "changed_per_category", gate.changed_per_category
    large = {name: counts for name, counts in measured.categories.items() if counts[0] >= gate.smallest}
    if not large:
        return _not_judged(name, limit, f"no category had {gate.smallest:,} published products")
    worst = max(sorted(large), key=lambda name: (large[name][1] / large[name][0], large[name][0]))
    before, left = large[worst]
    said = f"{_percent(left / before)} of {before:,} published products leave {worst!r}"
    return _judged(name, left / before, limit, said, worst=worst)


def _removed(gate: Gate, measured: Measured) -> Rule:
    before = measured.products_before
    if few := _few(before, gate.smallest, "products published before"):
        return _not_judged("removed", gate.removed, few)
    share = measured.removed / before
    return _judged("removed", share, gate.removed, f"{_percent(share)} of {before:,} published products are removed")


def _review(gate: Gate, measured: Measured) -> Rule:
    if few := _few_to_compare(gate, measured):
        return _not_judged("review", gate.review, few)
    before = measured.review_before / measured.products_before
    after = measured.review_after / measured.products_after
    said = f"the share of products for review goes from {_percent(before)} to {_percent(after)}"
    return _judged("review", _rise(before, after), gate.review, said, shown=_points(gate.review))


def _quarantined(gate: Gate, measured: Measured) -> Rule:
    name, limit, entries = "quarantined", gate.quarantined, measured.quarantined_before
    if entries is None:
        return _not_judged(name, limit, "nothing was published before")
    if few := _few_to_compare(gate, measured):
        return _not_judged(name, limit, few)
    before = {reason: count / measured.products_before for reason, count in entries.items()}
    after = {reason: count / measured.products_after for reason, count in measured.quarantined_after.items()}
    rises = {reason: _rise(before.get(reason, 0.0), after.get(reason, 0.0)) for reason in sorted({*before, *after})}
    if not rises:
        return _judged(name, 0.0, limit, "nothing is in quarantine", shown=_points(limit))
    worst = max(rises, key=lambda reason: rises[reason])
    shares = f"from {_percent(before.get(worst, 0.0))} to {_percent(after.get(worst, 0.0))} of the products"
    said = f"entries in quarantine for {worst!r} go {shares}"
    return _judged(name, rises[worst], limit, said, worst=worst, shown=_points(limit))


def _drift(gate: Gate, measured: Measured) -> Rule:
    found = measured.drift
    if found is None:
        return _not_judged("drift", gate.drift, "the predictor has no training reference")
    if few := _few(measured.drift_rows, gate.smallest, "products sampled"):
        return _not_judged("drift", gate.drift, few)
    if not found:
        return _not_judged("drift", gate.drift, "no feature has enough values")
    worst, rows = max(sorted(found), key=lambda feature: found[feature]), measured.drift_rows
    said = f"population stability index {found[worst]:.3f} of {worst!r} against the train rows, on {rows:,} products"
    return _judged("drift", found[worst], gate.drift, said, worst=worst, shown=f"{gate.drift:g}")


def _golden(gate: Gate, measured: Measured) -> Rule:
    found = measured.golden
    if found is None:
        return _not_judged("golden", gate.golden, "no golden row has a prediction before and after")
    if few := _few(found.rows, gate.smallest, "golden rows"):
        return _not_judged("golden", gate.golden, few)
    interval = f"95 % interval of the difference {found.low:+.4f} to {found.high:+.4f}"
    said = f"macro-F1 goes from {found.before:.4f} to {found.after:.4f} on {found.rows:,} golden rows ({interval})"
    fall = _rise(found.after, found.before)
    rule = _judged("golden", fall, gate.golden, said, shown=f"a fall of {gate.golden:g} beyond chance")
    return replace(rule, passed=rule.passed or found.high >= 0)


def _returning(gate: Gate, measured: Measured) -> Rule:
    if measured.returning is None:
        return _not_judged("returning", gate.returning, "no rollback is to be respected")
    taken_back, again = measured.returning
    if few := _few(taken_back, gate.smallest, "changes taken back by the last rollback"):
        return _not_judged("returning", gate.returning, few)
    said = f"{_percent(again / taken_back)} of {taken_back:,} changes that the last rollback took back come again"
    return _judged("returning", again / taken_back, gate.returning, said)


def _labels(_: Gate, measured: Measured) -> Rule:
    if not measured.products_before:
        return _not_judged("labels", None, "nothing was published before")
    counts = {name: measured.categories.get(name, (0, 0))[0] for name in sorted(measured.labels_lost)}
    needed = [name for name in counts if counts[name]]
    worst = max(needed, key=lambda name: counts[name], default="")
    said = f"{len(counts):,} categories are lost, {len(measured.labels_new):,} are new; "
    said += f"{len(needed):,} of the lost ones have published products"
    said += f", {worst!r} most: {counts[worst]:,}" if worst else ""
    return Rule(
        name="labels", measured=float(len(needed)), limit=None, passed=not needed, worst=worst, sentence=said + "."
    )


def _columns(_: Gate, measured: Measured) -> Rule:
    if measured.columns_before is None:
        return _not_judged("columns", None, "nothing was published before")
    if not measured.columns_after:
        return _not_judged("columns", None, "nothing is staged")
    before, after = set(measured.columns_before), set(measured.columns_after)
    lost, new = sorted(before - after), sorted(after - before)
    differing = [*(f"without {column}" for column in lost), *(f"with {column}" for column in new)]
    said = (
        f"the staged table is {', '.join(differing)}." if differing else f"all {len(after)} columns are as published."
    )
    worst = (lost or new or [""])[0]
    count = float(len(differing))
    return Rule(name="columns", measured=count, limit=None, passed=not differing, worst=worst, sentence=said)


_RULES: tuple[Callable[[Gate, Measured], Rule], ...] = (
    _changed,
    _changed_per_category,
    _removed,
    _review,
    _quarantined,
    _drift,
    _golden,
    _returning,
    _labels,
    _columns,
)


def _judged(name: str, measured: float, limit: float, said: str, *, worst: str = "", shown: str = "") -> Rule:
    sentence = f"{said}; the limit is {shown or _percent(limit)}."
    return Rule(name=name, measured=measured, limit=limit, passed=measured <= limit, worst=worst, sentence=sentence)


def _not_judged(name: str, limit: float | None, why: str) -> Rule:
    return Rule(name=name, measured=None, limit=limit, passed=None, worst="", sentence=f"not judged: {why}.")


def _few(count: int, smallest: int, what: str) -> str:
    """Why a share of so many means nothing; empty where it means something."""
    return f"{count:,} {what}, fewer than {smallest:,}" if count < smallest else ""


def _few_to_compare(gate: Gate, measured: Measured) -> str:
    """Why a share before and a share after cannot be compared; empty where they can."""
    before = _few(measured.products_before, gate.smallest, "products published before")
    return before or _few(measured.products_after, gate.smallest, "products to publish")


def _rise(before: float, after: float) -> float:
    """The difference, without the error of floating point: a rise of exactly the limit is no breach."""
    return round(after - before, 12)


def _points(share: float) -> str:
    """`a rise of 5 points`: by how much a share in per cent may grow."""
    return f"a rise of {_percent(share).removesuffix(' %')} points"


def _percent(share: float) -> str:
    """`12.34 %`, without zeros at the end."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + " %"
