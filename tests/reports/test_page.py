from pathlib import Path

import pytest

from mmbatch.reports.page import bars, duration, relative_link


def test_bars_share_one_scale() -> None:
    assert bars({"a": 4.0, "b": -2.0}, "{:g}".format) == [("a", "4", 1.0), ("b", "-2", 0.5)]
    assert bars({"a": 0.0}, str) == [("a", "0.0", 0.0)]
    assert bars({}, str) == []


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (65.0, "1 min 05 s"), (4800.0, "1 h 20 min")])
def test_a_duration_is_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_link_is_relative_to_the_page(tmp_path: Path) -> None:
    folder = str(tmp_path / "reports" / "one")
    assert relative_link(folder, f"{tmp_path}/reports/a b#/review.html") == "../a%20b%23/review.html"
    assert relative_link("memory://lake/ws/one", "memory://lake/ws/two/review.html") == "../two/review.html"


def test_no_file_and_a_file_elsewhere_have_no_link(tmp_path: Path) -> None:
    assert relative_link(str(tmp_path), None) is None
    assert relative_link(str(tmp_path), "memory://lake/review.html") is None
