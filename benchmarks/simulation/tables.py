"""The simulation's tables in Markdown, and the page that holds them.

`docs/scale.md` has each table between two comments that name it; `refreshed` puts the present ones there.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.simulation.checks import checks
from benchmarks.simulation.limits import limit
from benchmarks.simulation.model import RUNS, Stage, dollars, longest, seconds
from benchmarks.simulation.rates import RATES
from benchmarks.simulation.shapes import SHAPES, Shape
from mmbatch.errors import InputError

SIZES = (10**6, 10**7, 10**8, 10**9)
"""Products."""

STAGES_OF = ("8 x 16 CPU", 10**8)
"""Shape and size whose stages are listed one by one."""


def size_name(products: int) -> str:
    """1 M, 1 B."""
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if products % unit == 0:
            return f"{products // unit} {name}"
    return f"{products:,}"


def duration(amount: float) -> str:
    """Seconds in the largest unit of which there is one, two digits."""
    for unit, name in ((86_400 * 2, "d"), (3_600, "h"), (60, "min")):
        if amount >= unit:
            return f"{_short(amount / min(unit, 86_400))} {name}"
    return f"{_short(amount)} s"


def _short(number: float) -> str:
    """At least two significant digits, thousands with a comma."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run_table(run: str) -> str:
    """Time, cost and what binds the longest stage, by shape and size."""
    rows = [
        [shape.name, *(_run_cell(RUNS[run](products, shape), shape) for products in SIZES)] for shape in SHAPES.values()
    ]
    return table(["cluster", *map(size_name, SIZES)], rows)


def _run_cell(stages: list[Stage], shape: Shape) -> str:
    stage, part = longest(stages)
    cost = f", ${_short(dollars(stages, shape))}" if shape.price else ""
    return f"**{duration(seconds(stages))}**{cost}<br>{stage}: {part}"


def stages_table() -> str:
    """Every stage of every run on one shape at one size."""
    name, products = STAGES_OF
    rows = [
        [run, stage.name, duration(stage.seconds), stage.binds]
        for run, simulate in RUNS.items()
        for stage in simulate(products, SHAPES[name])
    ]
    return table(["run", "stage", "time", "what binds"], rows)


def check_table() -> str:
    """Predicted over measured."""
    rows = [
        [
            check.what,
            str(check.cores),
            f"{check.measured:.1f}",
            f"{check.predicted:.1f}",
            f"{check.ratio:.2f}",
            check.note,
        ]
        for check in checks()
    ]
    return table(["run", "cores", "measured, s", "predicted, s", "predicted / measured", ""], rows)


def limit_table() -> str:
    """What grows faster than the catalog."""
    found = [limit(products) for products in SIZES]
    rows = [
        ["buckets", *(f"{one.buckets:,}" for one in found)],
        ["driver, sorting all contents of a modality, GiB", *(_short(one.driver_gib) for one in found)],
        ["feature files of a first run", *(f"{one.files:,.0f}" for one in found)],
        ["their entries in each task of the first prediction, GiB", *(f"{one.listed_gib:.2f}" for one in found)],
        ["commits of a first extraction", *(f"{one.commits:,.0f}" for one in found)],
        ["the last of them, processor seconds", *(f"{one.commit_s:.2f}" for one in found)],
        ["small files that a night adds", *(f"{one.night_files:,.0f}" for one in found)],
        ["staged footers read by a first ingest", *(f"{one.footers:,.0f}" for one in found)],
    ]
    return table(["", *map(size_name, SIZES)], rows)


def rate_table() -> str:
    """Every rate, and where it comes from."""
    rows = [[name, f"{one.value:.3g}", one.unit, one.kind, one.source] for name, one in RATES.items()]
    return table(["rate", "value", "unit", "kind", "source"], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    **{run: partial(run_table, run) for run in RUNS},
    "stages": stages_table,
    "checks": check_table,
    "limits": limit_table,
    "rates": rate_table,
}
"""By the name that the page gives them."""


def refreshed(page: str) -> str:
    """The page with the present tables; `InputError` where it lacks one."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not found.search(page):
            raise InputError(f"docs/scale.md: no place for the table {name!r}, expected {begin} and {end}")
        page = found.sub(f"{begin}\n{make()}\n{end}".replace("\\", r"\\"), page)
    return page
