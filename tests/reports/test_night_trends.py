from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from mmbatch.reports.night_trends import EDGE, HEIGHT, WIDTH, Trend, trend

START = datetime(2026, 1, 1, 2, tzinfo=UTC)


def drawn(values: Sequence[float], states: Sequence[str] | None = None, days: Sequence[int] | None = None) -> Trend:
    return trend(
        "Products",
        "published",
        values,
        times=[START + timedelta(days=day) for day in days or range(len(values))],
        states=states or ["published"] * len(values),
        text="{:g}".format,
    )


def test_the_scale_begins_at_nothing_where_figures_are_far_apart() -> None:
    found = drawn([0, 5, 10])
    assert (found.lowest, found.highest, found.latest) == ("0", "10", "10")
    assert (
        found.line == f"{EDGE:.1f},{HEIGHT - EDGE:.1f} {WIDTH / 2:.1f},{HEIGHT / 2:.1f} {WIDTH - EDGE:.1f},{EDGE:.1f}"
    )


def test_the_scale_begins_at_the_lowest_where_figures_are_near() -> None:
    assert drawn([100, 101]).lowest == "100"
    assert drawn([100, 200]).lowest == "0"


def test_time_is_the_axis_and_a_pause_is_a_gap() -> None:
    xs = [float(point.split(",")[0]) for point in drawn([1, 1, 1], days=[0, 1, 10]).line.split()]
    assert xs[1] - xs[0] < (xs[2] - xs[1]) / 5


def test_nights_that_stand_out_are_marked() -> None:
    found = drawn([1, 2, 3, 4, 5], ["published", "refused", "unchanged", "rolled back", "approved"])
    assert [(mark.state, mark.text) for mark in found.marks] == [
        ("refused", "2026-01-02: refused, 2"),
        ("rolled back", "2026-01-04: rolled back, 4"),
        ("approved", "2026-01-05: approved, 5"),
    ]


def test_one_night_and_nights_without_anything_lie_inside() -> None:
    for values in ([7], [0], [0, 0], [3, 3, 3]):
        for point in drawn(values).line.split():
            x, y = map(float, point.split(","))
            assert EDGE <= x <= WIDTH - EDGE
            assert EDGE <= y <= HEIGHT - EDGE
