"""The report of a night: what came in, what changed, whether the gate let it through, as a page and as a picture.

Shares are 0..1, times UTC. A category is a path whose levels are joined by `PATH_SEPARATOR`; None: no prediction, or
one that a person is to look at.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import jinja2

from mmbatch.gate import Rule
from mmbatch.golden import Difference
from mmbatch.reports.figures import MOST
from mmbatch.reports.night_flow import Step, flow
from mmbatch.reports.night_moves import move_chart
from mmbatch.reports.night_picture import night_png
from mmbatch.reports.night_trends import Trend, trend
from mmbatch.reports.night_words import (
    REASONS,
    STATES,
    breach,
    breached,
    commands,
    golden_text,
    headline,
    of_rule,
    percent,
    recategorised,
    signed,
    subline,
)
from mmbatch.reports.page import bars, data_uri, duration, page_environment, relative_link
from mmbatch.reports.review import picture_of
from mmbatch.storage import put_files

PAGE_FILE, PICTURE_FILE, INDEX_FILE = "night.html", "night.png", "index.html"

LISTED = 200
"""Moves, or categories, in a table."""

GALLERY = 24
"""Examples shown."""

ENDS = 12
"""Categories that grew most, and that shrank most."""

State = Literal["published", "refused", "unchanged", "approved", "rolled back"]


@dataclass(frozen=True, kw_only=True)
class ChangeExample:
    """A product that got another category."""

    product_id: str
    title: str | None
    image: bytes | None
    """An image file or vectors in its place; None: the product has no image."""
    before: str | None
    after: str | None
    confidence_before: float | None
    """None: there was no prediction."""
    confidence_after: float | None
    reason: str
    """As `reason` of `schema.CHANGES`."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """Products that went from one category to another."""

    before: str | None
    after: str | None
    products: int


@dataclass(frozen=True, kw_only=True)
class CategoryCount:
    """Products of one category at the last publication and in tonight's predictions."""

    category: str
    before: int
    after: int
    entered: int
    """Products that are in it now and were not before, new ones included."""
    left: int
    """Products that were in it and are not, removed ones included."""


@dataclass(frozen=True, kw_only=True)
class Night:
    """All that the report of a night shows."""

    workspace: str
    run_id: str
    started: datetime
    seconds: float
    state: State
    source: str
    predictor: str
    predictor_before: str | None
    """None: nothing was published before."""
    rows: Mapping[str, int]
    """Of the source: `rows` = outcomes as in `night_flow.OUTCOMES`, those that occur; also `removed`, in products."""
    edited: Mapping[str, int]
    """Field (title, description, image, label) -> products in which it was edited."""
    products: Mapping[str, int]
    """Of the catalog: `products` = `unchanged` + `predicted` + `unpredictable`; also `removed`."""
    encoded: Mapping[str, Mapping[str, int]]
    """Encoder -> `products` = `unchanged` + `computed` + `reused` + `quarantined`."""
    timings: Mapping[str, float]
    """Stage -> seconds, in the order in which they ran."""
    bound_by: str | None
    """The resource that bound encoding; None: nothing was encoded."""
    contents_per_s: float | None
    """Texts and images that were encoded per second."""
    reasons: Mapping[str, int]
    """Reason of `schema.CHANGES` -> products changed."""
    moves: Sequence[Move]
    """The most frequent ones, most first."""
    categories: Sequence[CategoryCount]
    """Those that changed, most first."""
    quarantined: Mapping[str, tuple[int | None, int]]
    """Reason code -> entries at the last publication (None: there was none) and now."""
    drift: Mapping[str, float]
    """Feature -> population stability index; empty: not measured."""
    golden: Difference | None
    """On golden rows; None: not measured."""
    gate: Sequence[Rule]
    """Empty: the gate was not asked."""
    examples: Sequence[ChangeExample]
    review_products: int
    review_page: str | None
    """URI of the newest review page; None: there is none."""
    published_total: int
    """Published predictions after the night: in a refused one, those of before."""
    changes_total: int
    """Products whose category or decision changes: the sum of `reasons`."""
    trial: Mapping[str, object] | None = None
    """`challenger`, `champion`, `promoted` (bool) and `why` (a sentence), where a challenger was trained."""


@dataclass(frozen=True, kw_only=True)
class NightPoint:
    """One night among others."""

    run_id: str
    started: datetime
    state: str
    """A `State`."""
    products: int
    """Published predictions after the night."""
    changed: int
    review_share: float
    quarantined: int
    computed: int
    """Vectors."""
    seconds: float
    breached: Sequence[str]
    """Names of the rules that were breached."""
    report: str
    """Link to the night's page, relative to the index; empty: there is none."""


def write_night(folder_uri: str, night: Night) -> str:
    """Write `night.png` and `night.html` to a folder or `s3://` prefix, the page last; the page's URI.

    The page loads nothing from anywhere; its only link leads to the review page.
    """
    return put_files(folder_uri, {PICTURE_FILE: _picture(night), PAGE_FILE: _page(folder_uri, night).encode()})[-1]


def write_index(folder_uri: str, points: Sequence[NightPoint]) -> str:
    """Write `index.html`, the table and trends of all nights in any order, to a folder or `s3://` prefix; its URI."""
    oldest_first = sorted(points, key=lambda point: (point.started, point.run_id))
    page = _environment().get_template("night_index.html.j2")
    html = page.render(points=oldest_first[::-1], trends=_trends(oldest_first), states=STATES)
    return put_files(folder_uri, {INDEX_FILE: html.encode()})[-1]


def _environment() -> jinja2.Environment:
    environment = page_environment()
    environment.filters |= {"percent": percent, "signed": signed, "duration": duration}
    return environment


def _headline(night: Night) -> str:
    return headline(
        state=night.state,
        first=night.predictor_before is None,
        total=night.published_total,
        reasons=night.reasons,
        rules=night.gate,
    )


def _subline(night: Night) -> str:
    return subline(
        state=night.state,
        first=night.predictor_before is None,
        total=night.published_total,
        changes=night.changes_total,
        reasons=night.reasons,
    )


def _reasons(night: Night) -> dict[str, int]:
    """What people call a reason -> products, most first."""
    found = sorted(night.reasons.items(), key=lambda item: (-item[1], item[0]))
    return {REASONS.get(reason, reason): count for reason, count in found if count}


def _breached_first(rules: Sequence[Rule]) -> list[Rule]:
    return sorted(rules, key=lambda rule: rule.passed is not False)


def _gate_line(rules: Sequence[Rule]) -> str:
    if not rules:
        return "The gate was not asked"
    told = Counter(rule.passed for rule in rules)
    words = ((False, "breached"), (True, "passed"), (None, "not judged"))
    return "Gate: " + ", ".join(f"{told[passed]} {word}" for passed, word in words if told[passed])


def _quarantined(night: Night) -> int:
    return sum(now for _, now in night.quarantined.values())


def _numbers(night: Night) -> list[tuple[str, str]]:
    """Figure and what it is."""
    changed = recategorised(night.reasons)
    verb = "to change" if night.state == "refused" else "changed"
    return [
        (f"{night.published_total:,}", "published"),
        (f"{changed:,}", f"{verb}, {percent(changed / max(1, night.published_total))}"),
        (f"{night.review_products:,}", "for review"),
        (f"{_quarantined(night):,}", "in quarantine"),
    ]


def _picture(night: Night) -> bytes:
    return night_png(
        state=STATES[night.state],
        headline=_headline(night),
        note=f"{night.started:%Y-%m-%d} · {night.workspace}",
        numbers=_numbers(night),
        reasons=_reasons(night),
        rules=[breach(rule) for rule in breached(night.gate)],
        gate=_gate_line(night.gate),
    )


def _page(folder_uri: str, night: Night) -> str:
    environment = _environment()
    return environment.get_template("night.html.j2").render(
        night=night,
        state=STATES[night.state],
        headline=_headline(night),
        subline=_subline(night),
        commands=commands(state=night.state, workspace=night.workspace, run_id=night.run_id),
        numbers=_numbers(night),
        review_link=relative_link(folder_uri, night.review_page),
        gate_line=_gate_line(night.gate),
        rules=[(rule, of_rule(rule, rule.measured), of_rule(rule, rule.limit)) for rule in _breached_first(night.gate)],
        steps=_flow(night),
        reasons=bars(_reasons(night), "{:,.0f}".format),
        chart=move_chart([(move.before, move.after, move.products) for move in night.moves]),
        moves=night.moves[:LISTED],
        categories=night.categories[:LISTED],
        grown=_growth(night, 1),
        shrunk=_growth(night, -1),
        waterfall=_waterfall(night.timings),
        drift=_drift(night),
        golden=None if night.golden is None else golden_text(night.golden),
        interval=None if night.golden is None else _interval(night.golden),
        quarantined=sorted(night.quarantined.items(), key=lambda item: (-item[1][1], item[0])),
        cards=[_card(example) for example in night.examples[:GALLERY]],
    )


def _flow(night: Night) -> list[Step]:
    return flow(
        rows=night.rows,
        edited=night.edited,
        products=night.products,
        encoded=night.encoded,
        reasons=night.reasons,
        published=night.published_total,
        committed=night.state not in ("refused", "unchanged"),
    )


def _growth(night: Night, sign: int) -> list[tuple[str, str, float]]:
    """Bars of the categories that grew (`sign` 1) or shrank (-1) most."""
    grown = {found.category: found.after - found.before for found in night.categories}
    most = sorted((item for item in grown.items() if sign * item[1] > 0), key=lambda item: -sign * item[1])
    return bars(dict(most[:ENDS]), lambda change: signed(int(change)))


def _waterfall(timings: Mapping[str, float]) -> list[tuple[str, str, float, float]]:
    """Stage, text, and begin and length of its bar as shares of all stages' time."""
    total, begin, found = sum(timings.values()) or 1, 0.0, []
    for stage, seconds in timings.items():
        found.append((stage, duration(seconds), begin / total, seconds / total))
        begin += seconds
    return found


def _drift(night: Night) -> list[tuple[str, str, float, bool]]:
    """Feature, text, length of its bar and whether it is above the gate's limit, most drift first."""
    limit = next((rule.limit for rule in night.gate if rule.name == "drift" and rule.limit is not None), float("inf"))
    most = dict(sorted(night.drift.items(), key=lambda item: -item[1])[:MOST])
    return [(*bar, most[bar[0]] > limit) for bar in bars(most, "{:.3f}".format)]


def _interval(golden: Difference) -> dict[str, float]:
    """Places of 0, of the difference and of the ends of its interval on a line, 0..1."""
    low, high = min(golden.low, 0.0), max(golden.high, 0.0)
    edge = 0.08 * (high - low) or 1.0
    places = {"zero": 0.0, "low": golden.low, "high": golden.high, "change": golden.after - golden.before}
    return {name: (value - low + edge) / (high - low + 2 * edge) for name, value in places.items()}


def _card(example: ChangeExample) -> dict[str, Any]:
    picture = picture_of(example.image)
    return {
        "example": example,
        "thumbnail": data_uri("image/jpeg", picture.thumbnail) if picture.thumbnail else None,
        "no_picture": picture.missing,
        "reason": REASONS.get(example.reason, example.reason),
    }


def _trends(points: Sequence[NightPoint]) -> list[Trend]:
    """Of at least one night, the oldest first; without nights there are none."""
    changed = [point.changed / max(1, point.products) for point in points]
    figures: tuple[tuple[str, str, list[float], Callable[[float], str]], ...] = (
        ("Products", "with a published prediction", [point.products for point in points], "{:,.0f}".format),
        ("Changed", "share of the published products", changed, percent),
        ("For review", "share of the published products", [point.review_share for point in points], percent),
        ("In quarantine", "entries", [point.quarantined for point in points], "{:,.0f}".format),
        ("Encoded", "vectors computed", [point.computed for point in points], "{:,.0f}".format),
        ("Time", "of the whole night", [point.seconds for point in points], duration),
    )
    times, states = [point.started for point in points], [point.state for point in points]
    return [
        trend(title, note, values, times=times, states=states, text=text)
        for title, note, values, text in figures
        if values
    ]
