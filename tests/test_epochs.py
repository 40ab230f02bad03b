import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from mmbatch import epochs, tables
from mmbatch.epochs import KEPT_CLAIMS, Epoch, taken, tidy
from mmbatch.errors import LostRaceError
from mmbatch.tables import Table
from mmbatch.workspace import Settings, Workspace
from tests.conftest import ROOT, run_job

SCHEMA = pa.schema([("product_id", pa.string()), ("bucket", pa.int32())])

HOLD = """
import sys
from mmbatch.epochs import taken
with taken(sys.argv[1], job="predict") as epoch:
    print(epoch.number, flush=True)
    sys.stdin.readline()
"""

HOLD_AND_COMMIT = """
import sys
import pyarrow as pa
from mmbatch.errors import LostRaceError
from mmbatch.workspace import Workspace
with Workspace.open(sys.argv[1]).writing("asleep") as workspace:
    table = workspace.table("t", schema=pa.schema([("product_id", pa.string()), ("bucket", pa.int32())]))
    entry = table.write_file(pa.table({"product_id": ["late"], "bucket": [0]}, table.schema), bucket=0)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        table.commit([entry], app_id="late")
    except LostRaceError as error:
        print("lost", error, flush=True)
"""

HOLDING_JOB = """
import sys
from jobs._cli import Job, run_job
from mmbatch.workspace import Workspace
def main(config):
    with Workspace.open(config.workspace).writing("job"):
        print("writing", flush=True, file=sys.__stdout__)
        sys.stdin.readline()
run_job(Job, main)
"""

CLAIM = """
import sys
from mmbatch.epochs import Epoch, _claim
print("ready", flush=True)
sys.stdin.readline()
print(*(number for number in range(1, 51) if _claim(Epoch(sys.argv[1], number), "race")))
"""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "w" / "epochs")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=2, seed=0, buckets=2))
    table = made.table("t", schema=SCHEMA)
    table.commit([table.write_file(rows("first"), bucket=0)], app_id="first")
    return made


def rows(name: str) -> pa.Table:
    return pa.table({"product_id": [name], "bucket": [0]}, SCHEMA)


def ids(workspace: Workspace) -> list[str]:
    found: list[str] = workspace.table("t", schema=SCHEMA).read()["product_id"].to_pylist()
    return sorted(found)


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has printed its first line; killed at the end if it still lives."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


def claim_of(folder: str, number: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / f"{number:08d}.json").read_text())
    return found


def foreign_claim(folder: str, *, silent_s: float, beat: bool = True, content: str | None = None) -> None:
    """A claim of a run on another machine whose last sign of life was so long ago."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    claim = {"job": "extract_features", "host": "other", "pid": 1, "born": "1", "since": "then", "took_over": False}
    for name in ["00000001.json", *(["00000001.beat"] if beat else [])]:
        (root / name).write_text(json.dumps(claim) if content is None and name.endswith("json") else content or "")
        then = time.time() - silent_s
        os.utime(root / name, (then, then))


def test_a_clean_end_lets_the_next_run_begin_at_once(folder: str) -> None:
    with taken(folder, job="one") as first:
        first.check()
    with taken(folder, job="two") as second:
        second.check()
        with pytest.raises(LostRaceError, match="epoch 1 is over"):
            first.check()
    assert (first.number, second.number, second.took_over) == (1, 2, False)


def test_a_run_that_fails_frees_the_turn(folder: str) -> None:
    with pytest.raises(ZeroDivisionError), taken(folder, job="one"):
        raise ZeroDivisionError
    with taken(folder, job="two") as epoch:
        assert (epoch.number, epoch.took_over) == (2, False)


def test_a_second_run_stops_and_names_the_first(folder: str) -> None:
    with process(HOLD, folder) as holder:
        claim = claim_of(folder)
        expected = rf"another run is writing here \(predict, process {holder.pid} on [^/ ]+, since {claim['since']}\)"
        with pytest.raises(LostRaceError, match=expected), taken(folder, job="two"):
            pass
    assert [path.name for path in Path(folder).glob("*.json")] == ["00000001.json"]


def test_jobs_stop_with_exit_code_4_while_another_process_writes(workspace: Workspace, sample_file: Path) -> None:
    with process(HOLD, workspace.path("epochs")) as holder:
        done = run_job("ingest", "--workspace", workspace.uri, "--source", sample_file)
    assert done.returncode == 4
    assert done.stderr.startswith(f"error: {workspace.uri}: another run is writing here (predict, process {holder.pid}")
    assert done.stderr.count("\n") == 1


def test_a_run_that_waits_goes_on_when_the_other_ends(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "_POLL_S", 0.01)
    said = []
    with process(HOLD, folder) as holder:

        def say(line: str) -> None:
            said.append(line)
            assert holder.stdin is not None
            holder.stdin.write("end\n")
            holder.stdin.flush()

        monkeypatch.setattr(epochs, "say", say)
        with taken(folder, job="two", wait_s=60) as epoch:
            assert (epoch.number, epoch.took_over) == (2, False)
    assert len(said) == 1
    assert said[0].startswith(f"waiting    another run is writing here (predict, process {holder.pid} on ")
    assert (Path(folder) / "00000001.end").exists()


def test_waiting_ends(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "_POLL_S", 0.01)
    foreign_claim(folder, silent_s=0)
    with pytest.raises(LostRaceError, match="on other, since then"), taken(folder, job="two", wait_s=0.05):
        pass


def test_a_killed_holder_is_followed_at_once(folder: str) -> None:
    with process(HOLD, folder) as holder:
        holder.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # ended, and a zombie still
        with taken(folder, job="two") as epoch:
            assert (epoch.number, epoch.took_over) == (2, False)


@pytest.mark.parametrize("field", ["host", "born"])
def test_only_a_process_of_this_machine_can_be_known_to_be_dead(folder: str, field: str) -> None:
    with process(HOLD, folder) as holder:
        holder.kill()
        holder.wait()
    path = Path(folder) / "00000001.json"
    path.write_text(json.dumps(claim_of(folder) | {field: None}))
    with pytest.raises(LostRaceError), taken(folder, job="two"):
        pass


def test_another_process_with_the_number_of_a_dead_one_is_not_taken_for_it(folder: str) -> None:
    with taken(folder, job="one"):
        path = Path(folder) / "00000001.json"
        path.write_text(json.dumps(claim_of(folder) | {"born": "0"}))
        with taken(folder, job="two") as epoch:
            assert epoch.number == 2


@pytest.mark.parametrize("beat", [True, False])
def test_a_silent_run_of_another_machine_is_taken_over_after_the_expiry_and_not_before(folder: str, beat: bool) -> None:
    foreign_claim(folder, silent_s=50, beat=beat)
    with pytest.raises(LostRaceError, match="extract_features"), taken(folder, job="two"):
        pass
    foreign_claim(folder, silent_s=70, beat=beat)
    with taken(folder, job="two") as epoch:
        assert (epoch.number, epoch.took_over) == (2, True)


@pytest.mark.parametrize("content", ["", "\0\0\0", '{"job'])
def test_an_unfinished_claim_counts_until_it_expires(folder: str, content: str) -> None:
    foreign_claim(folder, silent_s=10, beat=False, content=content)
    with (
        pytest.raises(LostRaceError, match="another run is writing here, which began just now"),
        taken(folder, job="b"),
    ):
        pass
    foreign_claim(folder, silent_s=70, beat=False, content=content)
    with taken(folder, job="two") as epoch:
        assert (epoch.number, epoch.took_over) == (2, True)


def test_a_beat_renews_the_claim(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = threading.Event()
    original = epochs._beat

    def beat(epoch: Epoch, ended: threading.Event) -> None:
        renewed.set()
        original(epoch, ended)

    monkeypatch.setattr(epochs, "_beat", beat)
    with taken(folder, job="one"):
        assert renewed.wait(10)
    assert (Path(folder) / "00000001.beat").exists()


def test_a_sleeper_is_fenced_and_commits_nothing_when_it_wakes(workspace: Workspace) -> None:
    with process(HOLD_AND_COMMIT, workspace.uri) as sleeper:
        assert sleeper.stdin is not None
        assert sleeper.stdout is not None
        sleeper.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOWAIT)
        then = time.time() - 70
        for path in Path(workspace.path("epochs")).glob("00000001.*"):
            os.utime(path, (then, then))
        with workspace.writing("awake") as awake:
            assert awake.epoch == Epoch(workspace.path("epochs"), 2, took_over=True)
            sleeper.stdin.write("\n")
            sleeper.stdin.flush()
            sleeper.send_signal(signal.SIGCONT)
            assert sleeper.stdout.readline().startswith(f"lost {workspace.path('epochs')}: epoch 1 is over")
            table = awake.table("t", schema=SCHEMA)
            table.commit([table.write_file(rows("second"), bucket=0)], app_id="second")
    assert ids(workspace) == ["first", "second"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_sleeper_that_had_opened_the_table_before_the_fence_commits_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    """It wakes between its own check and its commit: Delta's conflict check alone can stop it."""
    with workspace.writing("asleep") as asleep:
        table = asleep.table("t", schema=SCHEMA)
        added, read = [table.write_file(rows("late"), bucket=0)], table.snapshot()
        original = Epoch.check

        def sleep_here(epoch: Epoch) -> None:
            original(epoch)
            monkeypatch.setattr(Epoch, "check", original)
            with workspace.writing("awake", expiry_s=-1) as awake:
                assert awake.epoch is not None
                assert awake.epoch.took_over

        monkeypatch.setattr(Epoch, "check", sleep_here)
        swap = partial(table.replace, removed=read.entries, read_version=read.version)
        with pytest.raises(LostRaceError, match="another run has changed this table"):
            (swap if replace else table.commit)(added, app_id="late")
    assert ids(workspace) == ["first"]


def test_a_commit_that_lands_while_the_fence_is_written_does_not_stop_the_fence(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with workspace.writing("asleep") as asleep:
        sleeper = asleep.table("t", schema=SCHEMA)
        landed: list[int] = []

        def open_and_be_overtaken(uri: str, **options: object) -> DeltaTable:
            opened = DeltaTable(uri)
            monkeypatch.setattr(tables, "DeltaTable", DeltaTable)
            landed.append(sleeper.commit([sleeper.write_file(rows("in time"), bucket=0)], app_id="in time"))
            return opened

        monkeypatch.setattr(tables, "DeltaTable", open_and_be_overtaken)
        Table(sleeper.uri, pa.schema([])).fence(Epoch(workspace.path("epochs"), 1))
        assert landed == [sleeper.version() - 1]
    assert ids(workspace) == ["first", "in time"]


def test_who_follows_a_run_that_died_while_it_took_over_fences_too(folder: str) -> None:
    foreign_claim(folder, silent_s=70)
    with process(HOLD, folder):
        assert claim_of(folder, 2)["took_over"]
    with taken(folder, job="three") as third:
        assert (third.number, third.took_over) == (3, True)
    with taken(folder, job="four") as fourth:
        assert (fourth.number, fourth.took_over) == (4, False)


def test_each_number_goes_to_one_of_many_claimants(folder: str) -> None:
    Path(folder).mkdir(parents=True)
    command = [sys.executable, "-c", CLAIM, folder]
    children = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    won: list[int] = []
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        won += [int(number) for number in child.communicate()[0].split()]
    assert sorted(won) == list(range(1, 51))


def test_tidying_keeps_the_newest_claims_and_tells_an_old_run_that_it_is_over(folder: str) -> None:
    for number in range(1, KEPT_CLAIMS + 5):
        with taken(folder, job=f"{number}"):
            pass
    (Path(folder) / "00000002.beat").touch()
    assert tidy(folder, dry_run=True) == 4
    assert tidy(folder) == 4
    assert tidy(folder) == 0
    left = sorted(path.name for path in Path(folder).glob("*.json"))
    assert (left[0], len(left)) == ("00000005.json", KEPT_CLAIMS)
    assert not list(Path(folder).glob("0000000[1-4].*"))
    with pytest.raises(LostRaceError, match="epoch 2 is over"):
        Epoch(folder, 2).check()


def test_sigterm_ends_a_job_with_code_130_and_frees_the_turn(workspace: Workspace) -> None:
    with process(HOLDING_JOB, "--workspace", workspace.uri) as job:
        job.terminate()
        assert job.wait() == 130
    assert (Path(workspace.path("epochs")) / "00000001.end").exists()
    with workspace.writing("next") as owned:
        assert owned.epoch == Epoch(workspace.path("epochs"), 2)


@pytest.mark.slow
def test_sigterm_ends_a_job_that_has_started_ray_with_code_130(tmp_path: Path, sample_file: Path) -> None:
    workspace = tmp_path / "w"
    command = [sys.executable, "-m", "jobs.ingest", "--workspace", str(workspace), "--source", str(sample_file)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr is not None
        assert any(line.startswith("read ") for line in job.stderr)
        job.terminate()
        said = job.stderr.read()
    assert said.endswith("interrupted: the same command goes on from what is committed\n")
    assert job.returncode == 130
    assert (workspace / "epochs" / "00000001.end").exists()
