"""One line of progress every few seconds, with a true total: readable in a terminal and in a job log.

With `MMBATCH_LOG=json` every line is one JSON object, for what collects logs: the same sentence and, of progress, its
numbers.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

from mmbatch.errors import InputError

INTERVAL_S = 5.0

FORMAT = "MMBATCH_LOG"
"""Environment variable: `json`, or not set."""

STAGE_WIDTH = 10
"""Columns of the stage that a line begins with; a space follows."""

_run: dict[str, str | None] = {"run": None, "job": None}
"""Which run lines are about."""


class Line(str):
    """A line that takes its numbers along, out of a worker too."""

    numbers: Mapping[str, object]

    @classmethod
    def of(cls, text: str, **numbers: object) -> Self:
        """A line with these numbers."""
        line = cls(text)
        line.numbers = numbers
        return line


def check_format() -> None:
    """`InputError` unless `FORMAT` names a form of lines."""
    if (found := os.environ.get(FORMAT, "")) not in ("", "json"):
        raise InputError(f"{FORMAT}={found}: expected json, or no such variable, for plain lines")


def speak_for(run_id: str, job: str) -> None:
    """From now on lines are about this run."""
    _run.update(run=run_id, job=job)


def say(line: str) -> None:
    """Write one line for the person who watches; stdout stays free for results."""
    text = _as_json(line) if os.environ.get(FORMAT) == "json" else line
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _as_json(line: str) -> str:
    level, stage, message = "info", None, line.strip("\n")
    if found := re.match("(error|warning): ", message):
        level, message = found[1], message[found.end() :]
    elif re.fullmatch("[a-z]+ +", message[: STAGE_WIDTH + 1]) and message[STAGE_WIDTH] == " ":
        stage, message = message[:STAGE_WIDTH].rstrip(), message[STAGE_WIDTH + 1 :].strip()
    said = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, **_run, "stage": stage}
    return json.dumps(said | {"message": message} | dict(getattr(line, "numbers", {})), ensure_ascii=False)


@dataclass
class Progress:
    """Counts what is done of a known total and says so at most every `INTERVAL_S` seconds, and at the end."""

    stage: str
    total: int
    unit: str
    done: int = 0
    tell: Callable[[str], None] = say
    """Where lines go."""
    started: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.before = self.done

    def advance(self, amount: int) -> None:
        """Add to what is done."""
        self.done += amount
        now = time.monotonic()
        if now - self.said >= INTERVAL_S or self.done >= self.total:
            self.said = now
            self.tell(self.line(now - self.started))

    def line(self, seconds: float) -> Line:
        """`extract  1,200 / 3,000 products  40 %  512/s  4 s left`."""
        rate = (self.done - self.before) / max(seconds, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        share = self.done / self.total if self.total else 1.0
        ending = f"{left:,.0f} s left" if self.done < self.total else f"{seconds:,.1f} s"
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        amount = f"{self.done:>9,} / {self.total:,} {self.unit}"
        return Line.of(
            f"{self.stage:<{STAGE_WIDTH}} {amount}  {share:4.0%}  {speed}/s  {ending}",
            done=self.done,
            total=self.total,
            unit=self.unit,
            per_s=round(rate, 3),
            seconds=round(seconds, 3),
            seconds_left=round(left, 3) if rate else None,
        )
