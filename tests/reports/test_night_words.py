import math

import pytest

from mmbatch.golden import Difference
from mmbatch.reports.night_words import (
    breach,
    commands,
    golden_text,
    headline,
    of_rule,
    percent,
    recategorised,
    signed,
    subline,
)
from tests.reports.night_demo import rule


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.1, "10 %"),
        (0.104, "10.4 %"),
        (0.10049, "10.05 %"),
        (0.00004, "0 %"),
        (-0.0055, "−0.55 %"),
        (12.5, "1,250 %"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_percent_has_as_many_digits_as_it_takes(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_counts_have_a_sign() -> None:
    assert [signed(count) for count in (1204, -17, 0)] == ["+1,204", "−17", "0"]


def test_a_rule_has_its_own_unit() -> None:
    for name, text in (("changed", "25 %"), ("drift", "0.25"), ("review", "25 pp"), ("golden", "25 pp")):
        assert of_rule(rule(name, None, 0.25, None), 0.25) == text
    assert of_rule(rule("drift", None, None, None), None) == "–"


def test_a_breach_says_what_it_is_of() -> None:
    assert breach(rule("changed_per_category", 0.62, 0.3, False, "Toys")) == "changed per category 62 % > 30 % (Toys)"
    assert breach(rule("schema", None, None, False)) == "schema"


def test_new_and_removed_products_are_not_recategorised() -> None:
    assert recategorised({"new": 5, "removed": 6, "title": 1, "taxonomy": 2}) == 3


@pytest.mark.parametrize(
    ("state", "first", "total", "reasons", "words"),
    [
        (
            "published",
            False,
            98_310,
            {"title": 1204, "new": 5},
            "1,204 of 98,310 products got another category or decision",
        ),
        ("published", False, 10, {}, "none of 10 products got another category or decision"),
        ("published", True, 1, {"new": 1}, "1 product got its first category"),
        ("approved", False, 10, {"head": 2}, "2 of 10 products got another category or decision"),
        ("unchanged", False, 1, {}, "nothing to publish, 1 product keeps its category"),
        ("rolled back", False, 10, {"rollback": 1}, "1 of 10 products has its earlier category again"),
        ("refused", False, 10, {"head": 9}, "the gate let nothing through"),
    ],
)
def test_one_sentence_says_what_happened(
    state: str, first: bool, total: int, reasons: dict[str, int], words: str
) -> None:
    assert headline(state=state, first=first, total=total, reasons=reasons, rules=[]) == words


@pytest.mark.parametrize(
    ("more", "words"), [(0, ""), (1, ", and 1 more rule breached"), (2, ", and 2 more rules breached")]
)
def test_a_refusal_names_the_first_breach_and_counts_the_others(more: int, words: str) -> None:
    passed, judged = rule("removed", 0.01, 0.05, True), rule("returning", None, 0.5, None)
    rules = [passed, judged, rule("changed", 0.23, 0.1, False), *[rule("drift", 0.3, 0.25, False)] * more]
    assert headline(state="refused", first=False, total=9, reasons={}, rules=rules) == f"changed 23 % > 10 %{words}"


def test_what_else_there_is_to_know() -> None:
    told = {"total": 9, "changes": 3, "reasons": {"new": 1, "removed": 2}}
    assert subline(state="published", first=False, **told) == "1 is new, 2 were removed."  # type: ignore[arg-type]
    assert subline(state="published", first=True, **told) == ""  # type: ignore[arg-type]
    assert subline(state="approved", first=True, **told) == "A person let it through."  # type: ignore[arg-type]
    assert "stays as it was, 9 products." in subline(state="refused", first=False, **told)  # type: ignore[arg-type]
    assert "nothing is published yet." in subline(state="refused", first=True, **told)  # type: ignore[arg-type]


def test_commands_can_be_pasted_into_a_shell() -> None:
    [approve] = commands(state="refused", workspace="my lake; rm -rf", run_id="run-1")
    assert approve.line == "python -m jobs.nightly --workspace 'my lake; rm -rf' --approve run-1"
    [back] = commands(state="approved", workspace="ws", run_id="run-1")
    assert back.line == "python -m jobs.rollback --workspace ws"
    assert commands(state="unchanged", workspace="ws", run_id="run-1") == []


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.001, 0.02, "better"), (-0.02, -0.001, "worse"), (-0.01, 0.01, "within noise")]
)
def test_a_golden_difference_has_a_verdict(low: float, high: float, verdict: str) -> None:
    found = golden_text(Difference(rows=9, before=0.5, after=0.51, low=low, high=high))
    assert found == f"+1.00 points, 95 % interval {signed_points(low)} to {signed_points(high)}: {verdict}"


def signed_points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")
