"""What the simulation says of runs that were measured, and by how much it is off."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.simulation.model import Stage, extract, ingest, predict, publish, seconds
from benchmarks.simulation.rates import rate
from benchmarks.simulation.shapes import Load, shape_named


class Check(NamedTuple):
    """One measured run."""

    what: str
    measured: float
    """Seconds, of `benchmarks/RESULTS.md`."""
    predicted: float
    """Seconds."""
    note: str

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured

    @property
    def close(self) -> bool:
        """Within a quarter."""
        return 0.75 <= self.ratio <= 1.25


def checks() -> list[Check]:
    """Every run of two cores that RESULTS.md gives the seconds of, and that gave no rate of its own stage."""
    return [*_ingests(), *_extractions(), *_predictions()]


def _ingests() -> list[Check]:
    shape = shape_named("laptop")

    def run(what: str, measured: float, note: str, load: Load) -> Check:
        return Check(f"ingest, {load.products:,} {what}", measured, ingest(load, shape).seconds, note)

    def sample(rows: int) -> Load:
        return Load(products=rows, inline=True, image_bytes=5_000, labelled=1.0)

    text = Load(products=1_000_000, images=False, labelled=1.0)
    wide = Load(products=1_000_000, inline=True, image_bytes=8_400, labelled=1.0)
    shared = "machine shared"
    return [
        run("of the sample catalog", 20, shared, sample(10_000)),
        run("of the sample catalog", 27, shared, sample(100_000)),
        run("of the sample catalog", 50, shared, sample(200_000)),
        run("synthetic texts", 19.7, "between 18.6 and 21.3", text),
        run("Kakao rows with vectors", 115, "tests beside it", wide),
    ]


def _extractions() -> list[Check]:
    shape = shape_named("laptop")

    def run(measured: float, products: int) -> Check:
        load = Load(products=products, inline=True)
        return Check(f"extract, {products:,} products", measured, extract(load, shape).seconds, "quiet")

    again = rate("planning start") + 1_000_000 * rate("stale")
    return [
        run(2_094 / 24.0, 2_094),
        run(5_235 / 33.7, 5_235),
        Check("extract, 1,000,000 unchanged", 7.9, again, "nothing to do: Ray is not started"),
    ]


def _predictions() -> list[Check]:
    shape = shape_named("laptop")

    def whole(measured: float, note: str, parts: Callable[[Load], list[Stage]]) -> Check:
        load = Load(products=1_000_000)
        return Check("predict, 1,000,000 products", measured, seconds(parts(load)), note)

    return [
        whole(313, "crowded", lambda load: [predict(load, shape, fresh=False), publish(load, shape, fresh=True)]),
        whole(
            302,
            "crowded; another head",
            lambda load: [predict(load, shape, fresh=False), publish(load, shape, fresh=False)],
        ),
    ]
