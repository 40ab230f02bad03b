"""What the report of a night says in words: its headline, its figures, what to do next. Shares are 0..1."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmbatch.gate import Rule
from mmbatch.golden import Difference

STATES: Mapping[str, tuple[str, str, str]] = {
    "published": ("Published", "✓", "good"),
    "approved": ("Approved", "✓", "good"),
    "refused": ("Refused", "✕", "bad"),
    "unchanged": ("Unchanged", "=", "plain"),
    "rolled back": ("Rolled back", "↺", "warn"),
}
"""State of a night -> its word, its sign and its tone."""

REASONS: Mapping[str, str] = {
    "new": "new product",
    "removed": "product removed",
    "title": "title edited",
    "description": "description edited",
    "image": "image edited",
    "encoder": "encoder changed",
    "head": "fusion changed",
    "taxonomy": "category tree edited",
    "rollback": "rolled back",
}
"""Reason of a change -> what people call it."""

INDICES, DIFFERENCES = ("drift",), ("golden", "quarantined", "review")
"""Rules that measure an index, which has no percent, or a difference of shares, in percentage points; else a share."""


class Command(NamedTuple):
    """What a person may want to do next."""

    purpose: str
    line: str


def percent(share: float | None) -> str:
    """A share with as many digits as it takes, two at most; a dash where there is none."""
    if share is None or math.isnan(share):
        return "–"
    return f"{float(f'{100 * share:.2f}'):,g} %".replace("-", "−")


def signed(count: int) -> str:
    """`+1,204`, `−17` or `0`."""
    return f"{count:+,}".replace("-", "−") if count else "0"


def of_rule(rule: Rule, figure: float | None) -> str:
    """A figure of a rule, in its unit."""
    if figure is not None and rule.name in INDICES:
        return f"{figure:.2f}"
    return percent(figure).replace("%", "pp") if rule.name in DIFFERENCES else percent(figure)


def breach(rule: Rule) -> str:
    """`changed 23 % > 10 %`, with what it is of where there are several."""
    name, worst = rule.name.replace("_", " "), f" ({rule.worst})" if rule.worst else ""
    if rule.measured is None or rule.limit is None:
        return name + worst
    return f"{name} {of_rule(rule, rule.measured)} > {of_rule(rule, rule.limit)}{worst}"


def breached(rules: Sequence[Rule]) -> list[Rule]:
    """The rules that did not pass; one that was not judged is none of them."""
    return [rule for rule in rules if rule.passed is False]


def recategorised(reasons: Mapping[str, int]) -> int:
    """Products that had a prediction before and have one after, and whose category or decision changes."""
    return sum(count for reason, count in reasons.items() if reason not in ("new", "removed"))


def headline(*, state: str, first: bool, total: int, reasons: Mapping[str, int], rules: Sequence[Rule]) -> str:
    """What happened, in one sentence that goes on after the word of the state and a colon.

    Args:
        state: of the night.
        first: nothing was published before.
        total: published predictions after the night.
        reasons: reason of a change -> products.
        rules: of the gate.
    """
    changed = recategorised(reasons)
    if state == "refused":
        found = [breach(rule) for rule in breached(rules)]
        more = f", and {len(found) - 1} more rule{'s' * (len(found) > 2)} breached" if len(found) > 1 else ""
        return f"{found[0] if found else 'the gate let nothing through'}{more}"
    if state == "unchanged":
        return f"nothing to publish, {_products(total)} {'keeps its' if total == 1 else 'keep their'} category"
    if state == "rolled back":
        return f"{changed:,} of {_products(total)} {'has its' if changed == 1 else 'have their'} earlier category again"
    if first:
        return f"{_products(total)} got {'its' if total == 1 else 'their'} first category"
    return f"{f'{changed:,}' if changed else 'none'} of {_products(total)} got another category or decision"


def subline(*, state: str, first: bool, total: int, changes: int, reasons: Mapping[str, int]) -> str:
    """What else there is to know of what happened; arguments as in `headline`, `changes` counts all changes."""
    if state == "refused":
        kept = f"what is published stays as it was, {_products(total)}" if not first else "nothing is published yet"
        return f"{_products(changes)} would change. Everything is computed and staged; {kept}."
    if state in ("published", "approved") and not first:
        new, gone = reasons.get("new", 0), reasons.get("removed", 0)
        told = f"{new:,} {'is' if new == 1 else 'are'} new, {gone:,} {'was' if gone == 1 else 'were'} removed."
        return told + (" A person let it through." if state == "approved" else "")
    return "A person let it through." if state == "approved" else ""


def commands(*, state: str, workspace: str, run_id: str) -> list[Command]:
    """What can be typed next, ready for a shell."""
    where = shlex.quote(workspace)
    if state == "refused":
        line = f"python -m jobs.nightly --workspace {where} --approve {shlex.quote(run_id)}"
        return [Command("Publish it all the same", line)]
    if state in ("published", "approved"):
        return [Command("Take it back", f"python -m jobs.rollback --workspace {where}")]
    return []


def golden_text(golden: Difference) -> str:
    """`+0.55 points, 95 % interval −0.10 to +1.20: within noise`."""
    low, high, change = (_points(figure) for figure in (golden.low, golden.high, golden.after - golden.before))
    verdict = "better" if golden.better else "worse" if golden.high < 0 else "within noise"
    return f"{change} points, 95 % interval {low} to {high}: {verdict}"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")


def _products(count: int) -> str:
    return f"{count:,} product" + "s" * (count != 1)
