"""The gate: each rule on both sides of its limit, and where there is too little to judge by."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from mmbatch.errors import InputError
from mmbatch.gate import Gate, Measured, Rule, judge
from mmbatch.golden import Difference

NAMES = [
    "changed",
    "changed_per_category",
    "removed",
    "review",
    "quarantined",
    "drift",
    "golden",
    "returning",
    "labels",
    "columns",
]

QUIET = Measured(
    products_before=1000,
    products_after=1000,
    changed=0,
    removed=0,
    categories={"shoes": (600, 0), "toys": (400, 0)},
    review_before=50,
    review_after=50,
    quarantined_before={"image_missing": 10},
    quarantined_after={"image_missing": 10},
    drift={"title length": 0.01, "language": 0.02},
    drift_rows=1000,
    golden=Difference(rows=200, before=0.9, after=0.9, low=0.0, high=0.0),
    labels_lost=(),
    labels_new=(),
    columns_before=("category: string", "confidence: float"),
    columns_after=("confidence: float", "category: string"),
    returning=(200, 0),
)
"""A night on which nothing changes; it can be judged by every rule."""

FIRST = replace(
    QUIET,
    products_before=0,
    categories={},
    review_before=0,
    quarantined_before=None,
    drift=None,
    drift_rows=0,
    golden=None,
    labels_new=("shoes", "toys"),
    columns_before=None,
    returning=None,
)


def rule(name: str, gate: Gate | None = None, **measured: Any) -> Rule:
    found = {rule.name: rule for rule in judge(gate or Gate(), replace(QUIET, **measured))}
    return found[name]


def golden(after: float, rows: int = 200) -> Difference:
    return Difference(rows=rows, before=0.9, after=after, low=after - 0.905, high=after - 0.895)


def test_a_quiet_night_passes_every_rule_in_a_stable_order() -> None:
    rules = judge(Gate(), QUIET)
    assert [rule.name for rule in rules] == NAMES
    assert [rule.passed for rule in rules] == [True] * len(NAMES)
    json.dumps([asdict(rule) for rule in rules], allow_nan=False)


def test_on_the_first_night_nothing_is_judged_and_each_rule_says_why() -> None:
    rules = judge(Gate(), FIRST)
    assert [rule.name for rule in rules] == NAMES
    for rule in rules:
        assert (rule.passed, rule.measured, rule.worst) == (None, None, "")
        assert rule.sentence.startswith("not judged: ")
    assert rules[0].sentence == "not judged: 0 products published before, fewer than 100."
    assert [rule.limit for rule in rules] == [0.1, 0.3, 0.05, 0.05, 0.02, 0.25, 0.01, 0.5, None, None]


AT_LIMIT: dict[str, dict[str, Any]] = {
    "changed": {"changed": 100},
    "changed_per_category": {"categories": {"shoes": (600, 180), "toys": (400, 0)}},
    "removed": {"removed": 50},
    "review": {"review_after": 100},
    "quarantined": {"quarantined_after": {"image_missing": 30}},
    "drift": {"drift": {"title length": 0.01, "language": 0.25}},
    "golden": {"golden": golden(0.89)},
    "returning": {"returning": (200, 100)},
}

ABOVE: dict[str, dict[str, Any]] = {
    "changed": {"changed": 101},
    "changed_per_category": {"categories": {"shoes": (600, 181), "toys": (400, 0)}},
    "removed": {"removed": 51},
    "review": {"review_after": 101},
    "quarantined": {"quarantined_after": {"image_missing": 31}},
    "drift": {"drift": {"title length": 0.01, "language": 0.2501}},
    "golden": {"golden": golden(0.8899)},
    "returning": {"returning": (200, 101)},
}


@pytest.mark.parametrize("name", AT_LIMIT)
def test_what_is_at_the_limit_passes_and_what_is_above_breaches_that_rule_alone(name: str) -> None:
    found = rule(name, **AT_LIMIT[name])
    assert found.passed is True
    assert found.measured == pytest.approx(found.limit)
    judged = judge(Gate(), replace(QUIET, **ABOVE[name]))
    assert [rule.name for rule in judged if not rule.passed] == [name]


@pytest.mark.parametrize("name", AT_LIMIT)
def test_a_limit_is_the_one_that_was_set(name: str) -> None:
    lower = Gate.of([f"{name}=0.001"])
    assert rule(name, lower, **AT_LIMIT[name]).passed is False
    assert rule(name, lower, **AT_LIMIT[name]).limit == 0.001


FEW: dict[str, dict[str, Any]] = {
    "changed": {"products_before": 99, "changed": 99},
    "changed_per_category": {"categories": {"shoes": (99, 99), "toys": (99, 99)}},
    "removed": {"products_before": 99, "removed": 99},
    "review": {"products_after": 99, "review_after": 99},
    "quarantined": {"products_after": 99, "quarantined_after": {"image_missing": 99}},
    "drift": {"drift_rows": 99, "drift": {"language": 9.0}},
    "golden": {"golden": golden(0.1, rows=99)},
    "returning": {"returning": (99, 99)},
}


@pytest.mark.parametrize("name", FEW)
def test_below_the_smallest_number_a_rule_is_not_judged_and_at_it_breaches(name: str) -> None:
    found = rule(name, **FEW[name])
    assert (found.passed, found.measured) == (None, None)
    assert found.sentence.startswith("not judged: ")
    assert rule(name, Gate(smallest=99), **FEW[name]).passed is False


@pytest.mark.parametrize("name", ["review", "quarantined"])
def test_a_share_before_needs_products_before(name: str) -> None:
    found = rule(name, products_before=99, **ABOVE[name])
    assert found.passed is None
    assert found.sentence == "not judged: 99 products published before, fewer than 100."


def test_a_breach_says_what_was_measured_and_the_limit() -> None:
    sentences = {name: rule(name, **measured).sentence for name, measured in ABOVE.items()}
    assert sentences == {
        "changed": "10.1 % of 1,000 published products change their category; the limit is 10 %.",
        "changed_per_category": "30.17 % of 600 published products leave 'shoes'; the limit is 30 %.",
        "removed": "5.1 % of 1,000 published products are removed; the limit is 5 %.",
        "review": "the share of products for review goes from 5 % to 10.1 %; the limit is a rise of 5 points.",
        "quarantined": "entries in quarantine for 'image_missing' go from 1 % to 3.1 % of the products; the limit is a"
        " rise of 2 points.",
        "drift": "population stability index 0.250 of 'language' against the train rows, on 1,000 products; the limit"
        " is 0.25.",
        "golden": "macro-F1 goes from 0.9000 to 0.8899 on 200 golden rows (95 % interval of the difference -0.0151 to"
        " -0.0051); the limit is a fall of 0.01 beyond chance.",
        "returning": "50.5 % of 200 changes that the last rollback took back come again; the limit is 50 %.",
    }


def test_the_worst_category_is_the_one_that_loses_the_largest_share_of_many() -> None:
    counts = {"large": (1000, 200), "middle": (400, 160), "small": (99, 99), "other": (200, 80)}
    found = rule("changed_per_category", categories=counts)
    assert (found.worst, found.measured, found.passed) == ("middle", 0.4, False)


def test_the_worst_reason_may_be_one_that_was_not_there_before() -> None:
    before, after = {"image_missing": 10, "image_timeout": 300}, {"image_missing": 25, "no_id": 40}
    found = rule("quarantined", quarantined_before=before, quarantined_after=after)
    assert (found.worst, found.measured, found.passed) == ("no_id", pytest.approx(0.04), False)
    nothing = rule("quarantined", quarantined_before={}, quarantined_after={})
    assert (nothing.worst, nothing.measured, nothing.passed) == ("", 0.0, True)
    assert nothing.sentence == "nothing is in quarantine; the limit is a rise of 2 points."


def test_shares_are_of_the_products_then_and_now() -> None:
    assert rule("review", products_after=500, review_after=50).measured == pytest.approx(0.05)
    fewer = rule("quarantined", products_after=500)
    assert fewer.measured == pytest.approx(0.01)


@pytest.mark.parametrize(("high", "passed"), [(0.0, True), (-0.0001, False)])
def test_a_fall_that_may_be_chance_passes(high: float, passed: bool) -> None:
    """One wrong product in a small category: draws without it show no difference."""
    found = replace(golden(0.86), high=high)
    assert rule("golden", golden=found).passed is passed


def test_fewer_for_review_and_better_on_golden_rows_pass() -> None:
    assert rule("review", review_after=0).measured == pytest.approx(-0.05)
    assert rule("golden", golden=golden(0.95)).passed is True


def test_drift_without_any_feature_is_not_judged() -> None:
    assert rule("drift", drift={}).sentence == "not judged: no feature has enough values."


def test_a_lost_category_is_a_breach_where_products_are_published_in_it() -> None:
    lost = rule("labels", labels_lost=("bags", "toys", "shoes"), labels_new=("boots",))
    assert (lost.passed, lost.measured, lost.limit, lost.worst) == (False, 2.0, None, "shoes")
    assert lost.sentence == (
        "3 categories are lost, 1 are new; 2 of the lost ones have published products, 'shoes' most: 600."
    )
    one = rule("labels", labels_lost=("toys",), categories={"toys": (1, 0)}, products_before=1)
    assert one.passed is False


def test_empty_categories_may_go_and_new_ones_come() -> None:
    found = rule("labels", labels_lost=("bags", "hats"), labels_new=("boots",), categories={"hats": (0, 0)})
    assert (found.passed, found.measured, found.worst) == (True, 0.0, "")


def test_columns_may_change_their_order_only() -> None:
    found = rule("columns", columns_after=("category: string", "confidence: double", "model: string"))
    assert (found.passed, found.measured, found.worst) == (False, 3.0, "confidence: float")
    assert found.sentence == (
        "the staged table is without confidence: float, with confidence: double, with model: string."
    )
    assert rule("columns", columns_after=()).sentence == "not judged: nothing is staged."
    assert rule("columns").sentence == "all 2 columns are as published."


def test_flags_set_limits_and_leave_the_others() -> None:
    assert Gate.of([]) == Gate()
    assert Gate.of(("changed=0.2", "drift=3", "smallest=7")) == Gate(changed=0.2, drift=3.0, smallest=7)
    assert Gate.of(("changed=1", "removed=0", "smallest=1")) == Gate(changed=1.0, removed=0.0, smallest=1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["change=0.2"],
            r"^--gate change=0\.2: expected NAME=NUMBER, NAME one of changed, changed_per_category, removed",
        ),
        (["0.2"], r"^--gate 0\.2: expected NAME=NUMBER, NAME one of changed, .*, golden, returning, smallest$"),
        (["changed"], r"^--gate changed: expected a number after changed=$"),
        (["changed=10%"], r"^--gate changed=10%: expected a number after changed=$"),
        (["smallest=1.5"], r"^--gate smallest=1\.5: expected a whole number after smallest=$"),
        (["changed=0.1", "changed=0.2"], r"^--gate changed=0\.2: changed is set already, to 0\.1$"),
        (["changed=10"], r"^--gate changed=10: expected a share, 0 to 1$"),
        (["golden=-0.1"], r"^--gate golden=-0\.1: expected a share, 0 to 1$"),
        (["review=nan"], r"^--gate review=nan: expected a share, 0 to 1$"),
        (["drift=inf"], r"^--gate drift=inf: expected 0 or more$"),
        (["drift=-1"], r"^--gate drift=-1: expected 0 or more$"),
        (["smallest=0"], r"^--gate smallest=0: expected 1 or more$"),
    ],
)
def test_bad_flags_are_refused_in_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Gate.of(flags)
