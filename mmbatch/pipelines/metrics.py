"""What a run does, as Ray's own metrics: the agent of each node hands them to Prometheus, `ray_` before the name.

The driver counts, where the ledger's counts tie out and as finished units of work arrive; where Ray does not run,
nothing is counted. Every process has time series of its own, which begin at zero (`docs/observability.md`).
"""

import time
from collections import Counter as Amounts
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import ray
from ray.util.metrics import Counter, Gauge

from mmbatch.pipelines.cluster import start_ray
from mmbatch.pipelines.resources import joined
from mmbatch.tables import FileEntry


class Declared(NamedTuple):
    """A metric."""

    name: str
    says: str
    tags: tuple[str, ...]


ROWS = Declared("mmbatch_rows_total", "Rows of a stage, by what became of them", ("stage", "outcome"))
SECONDS = Declared("mmbatch_stage_seconds_total", "Seconds that stages took", ("stage",))
QUARANTINED = Declared("mmbatch_quarantined_total", "What a stage could not use, by reason code", ("stage", "reason"))
BYTES = Declared("mmbatch_written_bytes_total", "Bytes of the files written for a table", ("table",))
CONTENTS = Declared("mmbatch_contents_total", "Contents that have left the encoders, as they do", ("stage",))
WORK = Declared("mmbatch_work_seconds_total", "Seconds by step of extraction, summed over processes", ("stage", "step"))
WAIT = Declared("mmbatch_encoder_wait_seconds_total", "Seconds that encoders had nothing to do", ("stage",))
CHANGES = Declared("mmbatch_changes_total", "Products that were decided otherwise, by reason", ("reason",))
NIGHTS = Declared("mmbatch_nights_total", "Nights that have ended", ("state",))
NIGHT_TIME = Declared("mmbatch_night_timestamp_seconds", "When the night ended, seconds since 1970", ("state",))

COUNTERS = (ROWS, SECONDS, QUARANTINED, BYTES, CONTENTS, WORK, WAIT, CHANGES, NIGHTS)
GAUGES = (NIGHT_TIME,)


@cache
def _counter(metric: Declared) -> Counter:
    return Counter(metric.name, description=metric.says, tag_keys=metric.tags)


@cache
def _gauge(metric: Declared) -> Gauge:
    return Gauge(metric.name, description=metric.says, tag_keys=metric.tags)


def count(metric: Declared, amounts: Mapping[str, float], **tags: str) -> None:
    """Add amounts by the value of the metric's last tag; the others are given."""
    if ray.is_initialized():
        for value, amount in amounts.items():
            if amount > 0:  # Ray's counters take nothing else
                _counter(metric).inc(amount, tags=tags | {metric.tags[-1]: value})


def stage_done(
    stage: str, outcomes: Mapping[str, int], *, seconds: float, reasons: Iterable[Mapping[str, int]] = ()
) -> None:
    """A stage has accounted for its rows.

    Args:
        stage: which.
        outcomes: rows by what became of them.
        seconds: that it took.
        reasons: what it could not use, by reason code; several are added up.
    """
    count(ROWS, outcomes, stage=stage)
    count(SECONDS, {stage: seconds})
    count(QUARANTINED, sum((Amounts(each) for each in reasons), Amounts()), stage=stage)


def unit_done(stage: str, table: str, done: Mapping[str, Any]) -> None:
    """A unit of contents (`encode_units.DONE`) is encoded, and written for a table."""
    steps = {name.removesuffix("_s"): spent for name, spent in dict(done["spent"]).items() if name.endswith("_s")}
    count(WORK, steps, stage=stage)
    count(WAIT, {stage: done["waited"]})
    count(CONTENTS, {stage: done["contents"]})
    count(BYTES, {table: sum(file["entry"]["size"] for file in done["files"])})


def written(table: str, files: Iterable[FileEntry]) -> None:
    """Files are written for a kind of table."""
    count(BYTES, {table: sum(file.size for file in files)})


def night_done(state: str, *, seconds: float) -> None:
    """A night has ended; on a cluster it is counted even where it had nothing to do and never needed Ray."""
    if joined():
        start_ray()
    count(NIGHTS, {state: 1})
    count(SECONDS, {"night": seconds})
    if ray.is_initialized():
        _gauge(NIGHT_TIME).set(time.time(), tags={"state": state})
