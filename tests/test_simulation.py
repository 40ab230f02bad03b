"""The simulation behind docs/scale.md: what must grow, what binds where, and that the page is up to date."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulation.checks import checks
from benchmarks.simulation.figure import COLOURS, POINTS, figure_png
from benchmarks.simulation.limits import limit
from benchmarks.simulation.model import (
    RUNS,
    Requests,
    Stage,
    buckets,
    dollars,
    extract,
    ingest,
    seconds,
    touched,
    units,
)
from benchmarks.simulation.rates import RATES, Rate, gpu_seconds, rate
from benchmarks.simulation.shapes import SHAPES, Load, Shape, shape_named
from benchmarks.simulation.tables import TABLES, duration, refreshed, size_name
from mmbatch.errors import InputError
from mmbatch.stale import UNIT_CONTENTS
from mmbatch.workspace import PRODUCTS_PER_BUCKET
from tests.conftest import ROOT

LAPTOP, CPUS, L4 = (shape_named(name) for name in ("laptop", "8 x 16 CPU", "4 x L4"))
GROWING = [int(products) for products in np.geomspace(4e6, 2e9, 200)]
"""From where on every pool of actors is full, of a night too: below, one more product may start another actor."""


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=lambda shape: shape.name)
def test_more_products_are_never_faster_nor_cheaper(run: str, shape: Shape) -> None:
    found = [RUNS[run](products, shape) for products in GROWING]
    assert np.diff([seconds(stages) for stages in found]).min() >= -1e-9
    assert np.diff([dollars(stages, shape) for stages in found]).min() >= -1e-9


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=lambda shape: shape.name)
@pytest.mark.parametrize("products", [10**6, 10**7, 10**8, 10**9])
def test_more_nodes_or_cores_are_never_slower(run: str, shape: Shape, products: int) -> None:
    for grown in ("nodes", "cpus"):
        shapes = [replace(shape, **{grown: getattr(shape, grown) * times}) for times in (1, 2, 4, 16)]
        assert np.diff([seconds(RUNS[run](products, larger)) for larger in shapes]).max() <= 1e-9


def test_twice_the_cores_encode_twice_as_fast() -> None:
    load = Load(products=10**7)
    one, two = (extract(load, replace(CPUS, nodes=nodes)).together["encode cores"] for nodes in (4, 8))
    assert one / two == pytest.approx(2)


def test_a_pool_of_four_fifths_of_the_cores_encodes_on_a_cluster_of_cpus() -> None:
    load = Load(products=10**6)
    assert extract(load, CPUS).together["encode cores"] == pytest.approx(10**6 * rate("encode") / 102)


def test_what_binds_extraction_changes_with_the_cluster() -> None:
    load, one = Load(products=10**7), replace(L4, nodes=1, cpus=32)
    assert extract(load, CPUS).binds == "encode cores"
    assert extract(load, one).binds == "GPU"
    assert extract(load, replace(one, cpus=4)).binds == "decode cores"
    assert extract(load, replace(one, gb_per_s=0.01)).binds == "store bandwidth"
    assert extract(load, replace(CPUS, nodes=100)).binds == "store requests"
    assert extract(Load(products=10**9), shape_named("16 x H100")).binds == "driver: commits"


def test_what_binds_ingest_changes_with_the_size() -> None:
    assert [ingest(Load(products=products, images=False), LAPTOP).binds for products in (10**3, 10**9)] == [
        "start",
        "cores: staged footers",
    ]


def test_a_folder_asks_nothing_of_an_object_store() -> None:
    for stages in (simulate(10**7, LAPTOP) for simulate in RUNS.values()):
        assert dollars(stages, LAPTOP) == 0
        assert not any(part.startswith("store") for stage in stages for part in stage.together)


def test_buckets_units_and_touched_buckets_are_what_the_code_makes() -> None:
    load = Load(products=10**8)
    assert buckets(load) == 8192
    assert load.products / buckets(load) <= PRODUCTS_PER_BUCKET
    assert units(load, "text") == pytest.approx(8192 * -(-(10**8 / 8192) // UNIT_CONTENTS["text"]))
    night = replace(load, changed=0.01)
    assert touched(night) == pytest.approx(8192, rel=1e-3)
    assert units(night, "image") == touched(night)
    assert touched(Load(products=10**6, changed=1e-6)) == pytest.approx(1, rel=0.01)


def test_a_stage_adds_parts_of_one_resource_and_waits_for_the_busiest() -> None:
    stage = Stage(name="s", serial={"start": 2.0}, together={"cores: a": 3.0, "cores: b": 1.0, "GPU": 3.5})
    assert stage.seconds == 6
    assert stage.binds == "cores: a"
    assert Stage(name="s", serial={"start": 2.0}).seconds == 2


def test_requests_cost_seconds_at_the_limits_and_dollars_by_the_number() -> None:
    store = Requests(puts=3_500, gets=11_000, size=4.8e9)
    assert store.seconds(CPUS) == {"store requests": 2.0, "store bandwidth": pytest.approx(1.0)}
    assert store.dollars(CPUS) == pytest.approx(3.5 * 0.005 + 11 * 0.0004)


def test_a_run_costs_its_nodes_by_the_hour() -> None:
    hour = [Stage(name="s", serial={"start": 3600.0})]
    assert dollars(hour, CPUS) == pytest.approx(8 * CPUS.price)


def test_a_gpu_with_more_bandwidth_is_faster_in_proportion() -> None:
    assert gpu_seconds("L4") / gpu_seconds("H100") == pytest.approx(3350 / 300)


def test_limits_are_those_of_the_pages_that_name_them() -> None:
    found = limit(10**9)
    assert found.buckets == 65_536
    assert found.driver_gib == pytest.approx(10**9 * 72 / 2**30)
    assert found.night_files == pytest.approx(2 * 65_536)
    assert found.commits == found.files / 16


def test_measured_runs_are_within_a_quarter() -> None:
    found = checks()
    assert [check.what for check in found if not check.close] == []
    assert {check.cores for check in found} == {1, 2}


def test_every_rate_says_where_it_comes_from() -> None:
    assert {one.kind for one in RATES.values()} == {"measured", "published", "assumed"}
    assert all(one.source and one.unit for one in RATES.values())
    gpu = [one.kind for name, one in RATES.items() if name.split()[-1] in ("3090", "V100", "L4", "H100")]
    assert set(gpu) == {"published"}


def test_durations_and_sizes_are_short() -> None:
    assert [duration(amount) for amount in (9.4, 59, 60, 3_600, 86_400, 2 * 86_400, 4e8)] == [
        "9.4 s",
        "59 s",
        "1.0 min",
        "1.0 h",
        "24 h",
        "2.0 d",
        "4,630 d",
    ]
    assert [size_name(products) for products in (10**6, 10**9, 1_500)] == ["1 M", "1 B", "1,500"]


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "scale.md").read_text()
    assert refreshed(page) == page, "run: python -m benchmarks.simulation --write"


def test_a_page_without_a_table_is_refused() -> None:
    with pytest.raises(InputError, match="no place for the table 'first run'"):
        refreshed("# Scale")


def test_the_figure_has_a_colour_for_all_that_binds() -> None:
    met = {
        stage.binds.partition(":")[0]
        for simulate in RUNS.values()
        for shape in SHAPES.values()
        for products in POINTS
        for stage in simulate(int(products), shape)
    }
    assert met <= set(COLOURS)
    assert figure_png().startswith(b"\x89PNG")


@pytest.mark.parametrize("products", [0, -1])
def test_no_products_are_refused(products: int) -> None:
    with pytest.raises(InputError, match=f"products is {products}: expected at least 1"):
        RUNS["first run"](products, LAPTOP)


@pytest.mark.parametrize("changed", [0.0, 1.5])
def test_a_share_that_is_none_is_refused(changed: float) -> None:
    with pytest.raises(InputError, match="expected a share above 0 and at most 1"):
        Load(products=1, changed=changed)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="rate of 0 s from here: must be above 0"):
        Rate(0, "s", "assumed", "here")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--shape", "abacus"], "--shape 'abacus': unknown, expected one of laptop, 1 x 16 CPU, "),
        (["--shape", "laptop", "--products", "0"], "products is 0: expected at least 1"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(flags: list[str], line: str) -> None:
    done = _command(*flags)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_the_command_prints_every_table() -> None:
    done = _command()
    assert done.returncode == 0
    assert all(f"{name}\n\n| " in done.stdout for name in TABLES)


def _command(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.simulation", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
