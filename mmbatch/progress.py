"""One line of progress every few seconds, with a true total: readable in a terminal and in a job log."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

INTERVAL_S = 5.0


def say(line: str) -> None:
    """Write one line for the person who watches; stdout stays free for results."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


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

    def line(self, seconds: float) -> str:
        """`extract  1,200 / 3,000 products  40 %  512/s  4 s left`."""
        rate = (self.done - self.before) / max(seconds, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        share = self.done / self.total if self.total else 1.0
        ending = f"{left:,.0f} s left" if self.done < self.total else f"{seconds:,.1f} s"
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        return f"{self.stage:<10} {self.done:>9,} / {self.total:,} {self.unit}  {share:4.0%}  {speed}/s  {ending}"
