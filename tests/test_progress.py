import pytest

from mmbatch.progress import Progress


@pytest.mark.parametrize(
    ("done", "seconds", "expected"),
    [
        (1_200, 2.0, "extract        1,200 / 3,000 products   40%  600/s  3 s left"),
        (3, 2.0, "extract            3 / 3,000 products    0%  1.5/s  1,998 s left"),
        (0, 2.0, "extract            0 / 3,000 products    0%  0.0/s  inf s left"),
        (3_000, 2.0, "extract        3,000 / 3,000 products  100%  1,500/s  2.0 s"),
    ],
)
def test_a_line_has_done_total_rate_and_time_left(done: int, seconds: float, expected: str) -> None:
    progress = Progress("extract", 3_000, "products")
    progress.done = done
    assert progress.line(seconds) == expected


def test_the_rate_is_that_of_what_was_done_since_the_start() -> None:
    progress = Progress("train", 300, "steps", done=100)
    progress.done = 120
    assert progress.line(2.0) == "train            120 / 300 steps   40%  10/s  18 s left"


def test_the_end_is_always_said(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("extract", 2, "products")
    progress.advance(1)
    assert capsys.readouterr().err == ""
    progress.advance(1)
    assert "2 / 2 products  100%" in capsys.readouterr().err
