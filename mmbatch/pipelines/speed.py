"""What bound an extraction: how long each stage worked, and how long the encoders had nothing to do."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmbatch.pipelines import metrics

WAITING = 0.2
"""Share of its time that an encoder may wait before something else is called what bound the run."""


@dataclass
class Speed:
    """Adds up what finished units (`encode_units.DONE`) say of themselves."""

    stage: str
    table: str = "features"
    """Kind of table that the units' files are for."""
    actors: int = 1
    started: float = field(default_factory=time.time)
    began: float | None = None
    """When the first unit reached an encoder: until then Ray, workers and models start."""
    ended: float = 0.0
    """When the last unit so far was delivered."""
    waited: float = 0.0
    contents: int = 0
    spent: Counter[str] = field(default_factory=Counter)

    def add(self, done: Mapping[str, Any]) -> None:
        """Take a finished unit."""
        self.began = min(self.began or done["began"], done["began"])
        self.ended = time.time()
        self.waited += done["waited"]
        self.contents += done["contents"]
        self.spent.update(dict(done["spent"]))
        metrics.unit_done(self.stage, self.table, done)

    def summary(self) -> dict[str, Any]:
        """Seconds until the first encoder began, and from then on; seconds by stage, summed over processes; padding."""
        began = self.ended if self.began is None else self.began
        seconds = max(self.ended - began, 1e-9)
        share = self.waited / (seconds * self.actors)
        slowest = max(("read", "prepare"), key=lambda stage: self.spent[f"{stage}_s"])
        return {
            "start_s": round(began - self.started, 3),
            "seconds": round(seconds, 3),
            "contents": self.contents,
            "contents_per_s": round(self.contents / seconds, 2),
            "encoder_waited_s": round(self.waited, 3),
            "encoder_waited_share": round(share, 3),
            "bound_by": "encode" if share < WAITING else slowest,
            **{name: round(amount, 3) for name, amount in sorted(self.spent.items()) if name.endswith("_s")},
            "padding": {
                name.removesuffix(" size"): round(1 - size / self.spent[name.replace(" size", " padded")], 4)
                for name, size in sorted(self.spent.items())
                if name.endswith(" size") and size
            },
        }
