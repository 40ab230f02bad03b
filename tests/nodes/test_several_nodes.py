"""A pipeline and a night on several machines that share nothing but an object store, some of which are lost."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mmbatch.drill.contents import Rows, compare, contents
from mmbatch.predictions import Predictions
from mmbatch.quarantine import quarantine_table
from mmbatch.runs import last_run
from mmbatch.sample import write_sample
from mmbatch.storage import filesystem_of
from mmbatch.workspace import Workspace
from tests.conftest import ROOT, run_job
from tests.nodes.machines import CPUS, Machines, Submitted
from tests.nodes.networks import KINDS
from tests.nodes.traps import Trap

pytestmark = pytest.mark.slow

ROWS = 600
"""Enough for two encoding actors."""

WITHIN_S = 900.0

DRIVERS = Path(__file__).with_name("drivers")

WRITABLE = ("/tmp", "/tmp/home", "/dev/shm")
"""On a machine's own disk, besides the copy of the code."""

PUBLISHED = ["product_id", "category", "decision", "decided_category", "quarantined"]

TIMES = ("speed", "timings")
"""What a ledger entry says of them."""

GATE = ("--gate", "drift=1000", "changed=1", "changed_per_category=1", "quarantined=1", "review=1", "removed=1")
"""What is tested is that the same is published, not whether."""


@pytest.mark.parametrize("cluster", KINDS, indirect=True)
def test_no_machine_sees_what_another_one_writes(cluster: Machines) -> None:
    if not cluster.own_disks:
        pytest.skip("machines share a disk: mount namespaces are not permitted here")
    job = cluster.submit("python", "disks.py", ROOT, code=DRIVERS)
    assert job.exit_code(within=120) == 0, job.lines()
    [line] = [line for line in job.lines() if line.startswith("found ")]
    found = json.loads(line.removeprefix("found "))
    assert set(found) == {machine.place.address for machine in (cluster.head, *cluster.workers)}
    for at, files in found.items():
        wrote = [Path(file).parent for file in files["wrote"] if "/_ray_pkg_" not in file]
        assert [*map(Path, WRITABLE)] == [folder for folder in wrote if folder != ROOT], at
        assert ROOT not in wrote or ROOT.is_relative_to("/tmp"), at  # a clone there is on each machine's own disk, too
        assert len(files["wrote"]) == len(wrote) + 1, at
        assert files["sees"] == [], at


def test_what_a_run_cannot_do_without_outlives_all_workers(cluster: Machines, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "mmbatch", tmp_path / "code" / "mmbatch")
    shutil.copy(DRIVERS / "lost.py", tmp_path / "code")
    job = cluster.submit("python", "lost.py", code=tmp_path / "code")
    job.wait_until(lambda: {"begun on every worker", "at work"} <= {*job.lines()}, within=120)
    for machine in list(cluster.workers):
        cluster.kill(machine)
    assert job.exit_code(within=200) == 0, job.lines()
    assert "a line, when all workers are gone" in job.lines()
    assert "attempts: 1 after a lost machine, 3 after two, 2 on this one" in job.lines()
    assert "done here" in job.lines()  # within the time above, where Ray by itself waits for five minutes


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog, and, beside it, the next night's."""
    folder = tmp_path_factory.mktemp("source")
    file = Path(write_sample(str(folder / "first"), rows=ROWS, seed=3)[0])
    rows = pq.read_table(file)
    edited = pc.binary_join_element_wise(rows["title"], pa.scalar("red"), " ")
    some = pa.array(np.arange(len(rows)) % 5 == 0)
    title = rows.schema.get_field_index("title")
    rows = rows.set_column(title, rows.schema.field(title), pc.if_else(some, edited, rows["title"]))
    (folder / "second").mkdir()
    pq.write_table(rows.slice(20), folder / "second" / file.name)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, source: Path) -> tuple[Workspace, Workspace]:
    """What one process leaves in a folder: after the pipeline, and after the night that follows."""
    folder = tmp_path_factory.mktemp("alone")
    threads = {"OMP_NUM_THREADS": str(CPUS)}  # of training: as many as a machine's processors
    _run("pipeline", "--workspace", folder / "w", "--source", source / "first", **threads)
    shutil.copytree(folder / "w", folder / "before")
    _run("nightly", "--workspace", folder / "w", "--source", source / "second", *GATE, **threads)
    return Workspace.open(str(folder / "before")), Workspace.open(str(folder / "w"))


def _run(job: str, *flags: object, **environment: str) -> None:
    done = run_job(job, *flags, **environment)
    assert done.returncode == 0, done.stderr


def test_machines_that_are_lost_and_join_change_nothing(
    cluster: Machines, bucket: str, source: Path, alone: tuple[Workspace, Workspace]
) -> None:
    filesystem, root = filesystem_of(bucket)
    filesystem.put(str(source), f"{root}/source", recursive=True)
    flags = ("--workspace", f"{bucket}/w", "--source")

    job = cluster.submit_job("pipeline", *flags, f"{bucket}/source/first")
    lose(cluster, job, r"/finetune-ngram-text[^/]*/run/(checkpoint_[^/]+)/", after=2, title="ray::RayTrainWorker")
    cluster.join().wait()
    lose(cluster, job, r"/features/.*\.parquet")  # and what is left has to do
    job.wait_until(lambda: any(line.startswith("head ") for line in job.lines()), within=WITHIN_S)
    cluster.join().wait()
    lose(cluster, job, r"/staged/.*\.parquet")
    assert job.exit_code(within=WITHIN_S) == 0, job.lines()
    check_same(Workspace.open(f"{bucket}/w"), alone[0], "ingest", "extract_features", "predict")

    night = cluster.submit_job("nightly", *flags, f"{bucket}/source/second", *GATE)
    cluster.join().wait()
    lose(cluster, night, r"/tmp/.*/rows/.*")
    assert night.exit_code(within=WITHIN_S) == 0, night.lines()
    check_same(Workspace.open(f"{bucket}/w"), alone[1], "nightly")


def lose(cluster: Machines, job: Submitted, pattern: str, *, after: int = 0, title: str = "") -> None:
    """Kill the worker node that writes to such a path, while it does."""
    trap = Trap(cluster, pattern, after=after, title=title)
    job.wait_until(lambda: trap.held is not None, within=WITHIN_S)
    caught = trap.caught()
    assert caught is not None
    cluster.kill(caught)


def check_same(found: Workspace, truth: Workspace, *jobs: str) -> None:
    """All that is stored, what is published, and what the ledger counts."""
    for job in jobs:
        assert counts_of(found, job) == counts_of(truth, job)
    held, wanted = contents(found), contents(truth)
    own = ("quarantine", "predictions")  # say which source and which predictor, and these are not the same
    assert compare({name: wanted[name] for name in wanted if name not in own}, held).examples == []
    assert quarantined(found) == quarantined(truth)
    for name in wanted:
        if name.startswith("features/"):
            vectors = [vectors_by_key(rows) for rows in (held[name], wanted[name])]
            assert np.abs(vectors[0] - vectors[1]).max() <= 1e-5
    published = [Predictions(workspace=workspace).table.read(PUBLISHED) for workspace in (found, truth)]
    assert published[0].sort_by("product_id").equals(published[1].sort_by("product_id"))


def quarantined(workspace: Workspace) -> list[tuple[str, str]]:
    rows = quarantine_table(workspace).read(["product_id", "reason"]).to_pylist()
    return sorted((str(row["product_id"]), row["reason"]) for row in rows)


def vectors_by_key(rows: Rows) -> np.ndarray:
    assert rows.numbers is not None
    return rows.numbers[np.argsort(rows.keys)]


def counts_of(workspace: Workspace, job: str) -> dict[str, Any]:
    run = last_run(workspace, job)
    assert run is not None
    return numbers(run["counts"])


def numbers(counts: dict[str, Any]) -> dict[str, Any]:
    """The whole numbers at any depth, but for those of time."""
    inner = {name: numbers(part) for name, part in counts.items() if isinstance(part, dict) and name not in TIMES}
    return inner | {name: number for name, number in counts.items() if isinstance(number, int)}
