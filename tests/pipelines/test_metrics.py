"""A night on a Ray that was there before, as in `ray job submit`: what the node exports is what the ledger says."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from mmbatch.drill.local_ray import SETTINGS, LocalRay
from mmbatch.pipelines import metrics
from mmbatch.tables import FileEntry
from tests.conftest import run_job
from tests.test_whole_job import Finished

DEADLINE_S = 60.0

Samples = dict[str, dict[tuple[str, ...], float]]
"""Metric -> values of its tags, in their order -> amount, of all processes."""


class Night(NamedTuple):
    """A night that has ended."""

    entry: dict[str, Any]
    """Of the ledger."""
    lines: list[str]
    exported: Samples
    written: dict[str, int]
    """Bytes of the files that it added, by kind of table."""
    seconds: float
    """Of the whole process."""


def files(workspace: Path) -> dict[str, int]:
    """Every data file of the tables with its bytes."""
    found = (path for path in workspace.rglob("*.parquet") if "_delta_log" not in path.parts)
    return {str(path.relative_to(workspace)): path.stat().st_size for path in found}


PORT = "import ray; ray.init(log_to_driver=False); print(ray.nodes()[0]['MetricsExportPort'])"


def exported(address: str, *, wanted: str) -> Samples:
    """What the node of a Ray exports of this project, as soon as it has a metric."""
    command, environment = [sys.executable, "-c", PORT], os.environ | {"RAY_ADDRESS": address}
    port = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()[-1]
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            text = page.read().decode()
        if wanted in text:
            return samples(text)
        time.sleep(0.5)
    raise AssertionError(f"no {wanted} within {DEADLINE_S} s: {text[:2000]}")


def samples(text: str) -> Samples:
    found: Samples = {}
    tags = {f"ray_{each.name}": each.tags for each in (*metrics.COUNTERS, *metrics.GAUGES)}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in tags:
                key = tuple(sample.labels[tag] for tag in tags[sample.name])
                amounts = found.setdefault(sample.name.removeprefix("ray_"), {})
                amounts[key] = amounts.get(key, 0.0) + sample.value
    return found


@pytest.fixture(scope="module")
def night(finished: Finished, sample_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """New titles that an encoder has to see, products that are gone, and rows without an id."""
    folder = tmp_path_factory.mktemp("night")
    shutil.copytree(finished[0], folder / "workspace")
    rows = pq.read_table(sample_file).to_pandas()
    rows = rows.drop_duplicates("product_id").dropna(subset=["product_id"]).iloc[:-5].reset_index(drop=True)
    rows.loc[:30, "title"] = [f"porcelain teapot number {number}" for number in range(31)]
    rows.loc[40:42, "product_id"] = None
    (folder / "source").mkdir()
    table = pa.Table.from_pandas(rows, schema=pq.read_schema(sample_file), preserve_index=False)
    pq.write_table(table, folder / "source" / "catalog.parquet")
    before, flags = files(folder / "workspace"), ("--source", folder / "source", "--gate", "smallest=1000000")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (SETTINGS | {"RAY_AUTH_TOKEN": "t" * 64}).items():
            patch.setenv(name, value)
        local, clock = LocalRay(), time.monotonic()
        try:
            done = run_job(
                "nightly", "--workspace", folder / "workspace", *flags, "--json",
                RAY_ADDRESS=local.address, MMBATCH_LOG="json",
            )  # fmt: skip
            seconds = time.monotonic() - clock
            assert done.returncode == 0, done.stderr
            found = exported(local.address, wanted="ray_mmbatch_nights_total")
        finally:
            local.stop()
    added = Counter[str]()
    for path, size in files(folder / "workspace").items():
        added[path.split("/")[0]] += 0 if path in before else size
    return Night(json.loads(done.stdout), done.stderr.splitlines(), found, dict(added), seconds)


@pytest.mark.slow
def test_rows_are_those_of_the_ledger(night: Night) -> None:
    counts = night.entry["counts"]
    read, encoded, predicted = counts["ingest"], counts["extract"], counts["products"]
    expected = {
        **{("ingest", name): read[name] for name in ("new", "edited", "unchanged", "rejected")},
        **{("extract", name): encoded[name] for name in ("unchanged", "computed", "reused", "quarantined")},
        **{("predict", name): predicted[name] for name in ("unchanged", "predicted", "unpredictable")},
    }
    assert night.exported["mmbatch_rows_total"] == {key: amount for key, amount in expected.items() if amount}
    assert read["rejected"] == 3
    assert encoded["computed"] == 31
    assert sum(amount for (stage, _), amount in expected.items() if stage == "ingest") == read["rows"]


@pytest.mark.slow
def test_quarantine_changes_and_the_night_are_those_of_the_ledger(night: Night) -> None:
    counts = night.entry["counts"]
    found = Counter(counts["ingest"]["reasons"]) + Counter(counts["ingest"]["part_reasons"])
    assert found["no_id"] == 3
    assert night.exported["mmbatch_quarantined_total"] == {
        ("ingest", reason): amount for reason, amount in found.items()
    }
    changed = {(reason,): amount for reason, amount in counts["reasons"].items()}
    assert changed[("title",)] > 0
    assert night.exported["mmbatch_changes_total"] == changed
    assert night.exported["mmbatch_nights_total"] == {("published",): 1}
    ((state, ended),) = night.exported["mmbatch_night_timestamp_seconds"].items()
    assert state == ("published",)
    assert time.time() - 600 < ended < time.time()


@pytest.mark.slow
def test_bytes_are_those_of_the_files(night: Night) -> None:
    found = {table: amount for (table,), amount in night.exported["mmbatch_written_bytes_total"].items()}
    assert found.pop("staged") > 0  # which are gone when they are published
    del night.written["runs"]
    assert found == {table: size for table, size in night.written.items() if size}
    assert {"catalog", "quarantine", "features", "predictions", "changes"} <= {*found}


@pytest.mark.slow
def test_seconds_and_steps(night: Night) -> None:
    seconds = {stage: amount for (stage,), amount in night.exported["mmbatch_stage_seconds_total"].items()}
    timings = night.entry["counts"]["timings"]
    assert {*seconds} == {"ingest", "extract", "predict", "night"}
    for stage in ("ingest", "extract", "predict"):
        assert 0 < seconds[stage] <= timings[stage]
    assert sum(timings.values()) <= seconds["night"] <= night.seconds
    assert night.exported["mmbatch_contents_total"] == {("extract",): 31}
    steps = {step: amount for (stage, step), amount in night.exported["mmbatch_work_seconds_total"].items()}
    assert {*steps} == {"read", "prepare", "encode", "write"}
    assert max(steps.values()) < night.seconds
    assert night.exported.get("mmbatch_encoder_wait_seconds_total", {}).get(("extract",), 0.0) < night.seconds


@pytest.mark.slow
def test_every_line_of_the_night_is_json_and_names_its_run(night: Night) -> None:
    said = [json.loads(line) for line in night.lines if not line.startswith("[")]  # that is Ray's core
    jobs = {line["job"]: line["run"] for line in said}
    assert jobs["nightly"] == night.entry["run_id"]
    assert {*jobs} == {"ingest", "extract_features", "nightly"}
    by_stage = {line["stage"]: line for line in said if "done" in line}
    assert by_stage["extract"]["run"] == jobs["extract_features"]
    assert (by_stage["predict"]["run"], by_stage["compare"]["run"]) == (jobs["nightly"], jobs["nightly"])
    assert by_stage["predict"]["done"] == by_stage["predict"]["total"]


@pytest.fixture
def counters() -> Callable[[], int]:
    """How many of Ray's counters this process has made."""
    metrics._counter.cache_clear()
    return lambda: metrics._counter.cache_info().currsize


def test_where_ray_does_not_run_nothing_is_counted(
    counters: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not ray.is_initialized()
    metrics.stage_done("ingest", {"new": 3}, seconds=1.0, reasons=[{"no_id": 1}])
    metrics.written("catalog", [FileEntry("a.parquet", 1, 10, 0)])
    metrics.night_done("published", seconds=1.0)
    assert counters() == 0


def test_a_night_that_needs_no_ray_is_counted_where_a_cluster_is(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(metrics, "start_ray", lambda: started.append(True))
    metrics.night_done("unchanged", seconds=1.0)
    assert started == [True]
