"""What the simulation says of runs that were measured, and by how much it is off."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from benchmarks.simulation.model import Stage, extract, ingest, predict, publish, seconds
from benchmarks.simulation.rates import rate
from benchmarks.simulation.shapes import Load, Shape, shape_named


class Check(NamedTuple):
    """One measured run."""

    what: str
    cores: int
    measured: float
    """Seconds, of `benchmarks/RESULTS.md`."""
    predicted: float
    """Seconds."""
    note: str = ""

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured

    @property
    def close(self) -> bool:
        """Within a quarter."""
        return 0.75 <= self.ratio <= 1.25


TEXTS = {
    (10_000, 2): (16.3, 32.7),
    (100_000, 2): (22.3, 47.3),
    (1_000_000, 2): (33.7, 118.5),
    (10_000, 1): (23.7, 50.5),
    (100_000, 1): (29.1, 63.8),
    (1_000_000, 1): (60.6, 248.4),
}
"""Rows of the synthetic catalog, cores -> seconds of ingest and of extraction (`benchmarks.simulation.measure`)."""

SAMPLES = {(10_000, 2): 23.1, (100_000, 2): 29.4, (10_000, 1): 33.7, (100_000, 1): 51.9}
"""Rows of the sample catalog, cores -> seconds of ingest (`benchmarks.simulation.measure`)."""

SOURCES = ("ingest, 10,000 sample products, 2 cores", "extract, 1,000,000 texts, 1 core")
"""Runs that gave a rate of their own stage: they would check nothing."""


def checks() -> list[Check]:
    """Every run of two cores or one that RESULTS.md gives the seconds of, and that gave no rate of its own stage."""
    found = [*_texts(), *_samples(), *_encoded(), *_predicted()]
    return [check for check in found if f"{check.what}, {check.cores} core{'s' * (check.cores > 1)}" not in SOURCES]


def _laptop(cores: int) -> Shape:
    return replace(shape_named("laptop"), cpus=cores)


def _texts() -> Iterator[Check]:
    for (rows, cores), (taken, encoded) in TEXTS.items():
        load = Load(products=rows, images=False, labelled=1.0, part_rows=25_000, cheapest=True)
        yield Check(f"ingest, {rows:,} texts", cores, taken, ingest(load, _laptop(cores)).seconds)
        yield Check(f"extract, {rows:,} texts", cores, encoded, extract(load, _laptop(cores)).seconds)


def _samples() -> Iterator[Check]:
    for (rows, cores), taken in SAMPLES.items():
        load = Load(products=rows, inline=True, image_bytes=5_000, labelled=1.0, part_rows=1_000)
        yield Check(f"ingest, {rows:,} sample products", cores, taken, ingest(load, _laptop(cores)).seconds)


def _encoded() -> Iterator[Check]:
    load = Load(products=19_893, inline=True)
    note = "MiniLM and EfficientNet-Lite0"
    yield Check("extract, 19,893 products", 2, 626.0, extract(load, _laptop(2)).seconds, note)
    again = rate("planning start") + 1_000_000 * rate("stale")
    yield Check("extract, 1,000,000 unchanged", 2, 7.9, again, "a faster day; Ray is not started")


def _predicted() -> Iterator[Check]:
    load, shape = Load(products=1_000_000), _laptop(2)
    stages: list[Stage] = [predict(load, shape, fresh=False), publish(load, shape, fresh=True)]
    yield Check("predict, 1,000,000 products", 2, 177.5, seconds(stages), "a tenth of them explained")
    again: list[Stage] = [predict(load, shape, fresh=False), publish(load, shape, fresh=False)]
    yield Check("predict, 1,000,000 products", 2, 166.9, seconds(again), "another head; an eighth of them explained")
