"""Submission: what is uploaded, exit codes, logs, the store, a stop; and a night that is submitted twice."""

import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus
from s3fs import S3FileSystem

from cluster import submit as submitting
from cluster.local import Cluster
from cluster.submit import Follower, exit_code, start, submission_id
from mmbatch.drill.contents import compare, contents
from mmbatch.drill.sources import write_sources
from mmbatch.epochs import taken
from mmbatch.errors import InputError
from mmbatch.predictions import Predictions
from mmbatch.workspace import Workspace
from tests.cluster.running import asked, jobs_of, ray_job, run, submit, submit_command, wait_while
from tests.cluster.test_image import code_files
from tests.conftest import ROOT
from tests.s3.conftest import KEY, SECRET, Server

NIGHT = ("python", "-m", "jobs.nightly", "--workspace", "s3://b/w")
NAME = submission_id(NIGHT, today="20260131")


class Client:
    """A cluster that knows the states of submissions; a log comes in the parts it is given."""

    def __init__(self, **states: JobStatus) -> None:
        self.states = {name.replace("_", "-"): state for name, state in states.items()}
        self.parts: list[str | Exception] = []
        self.rival = False

    def list_jobs(self) -> list[Any]:
        driver = SimpleNamespace(submission_id=None, status=JobStatus.RUNNING)
        return [driver, *(SimpleNamespace(submission_id=name, status=each) for name, each in self.states.items())]

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, str]) -> None:
        if self.rival:
            self.states[submission_id] = JobStatus.RUNNING
        if submission_id in self.states:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists.")
        self.states[submission_id] = JobStatus.PENDING

    def get_job_info(self, name: str) -> Any:
        if name not in self.states:
            raise RuntimeError(f"Request failed with status code 404: Job {name} does not exist.")
        return SimpleNamespace(status=self.states[name], driver_exit_code=None)

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        while self.parts:
            part = self.parts.pop(0)
            if isinstance(part, Exception):
                raise part
            yield part


def started(client: Client, *, again: bool = False) -> str:
    return start(client, NIGHT, today="20260131", again=again)  # type: ignore[arg-type]


def followed(client: Client) -> Any:
    return Follower(client, pause=lambda _: None).follow(NAME)  # type: ignore[arg-type]


def test_the_name_is_made_of_job_day_and_command() -> None:
    assert NAME.startswith("mmbatch-nightly-20260131-")
    assert submission_id(NIGHT, today="20260131") == NAME
    others = {submission_id(NIGHT, today="20260201"), submission_id([*NIGHT, "--json"], today="20260131")}
    assert len(others | {NAME}) == 3


def test_a_command_that_is_no_job_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"-- python night\.py: expected python -m jobs\.NAME"):
        submission_id(["python", "night.py"], today="20260131")


@pytest.mark.parametrize(
    ("states", "again", "counts"),
    [
        ({}, False, NAME),
        ({}, True, NAME),
        ({NAME: JobStatus.RUNNING}, False, NAME),
        ({NAME: JobStatus.RUNNING}, True, NAME),
        ({NAME: JobStatus.FAILED}, False, NAME),
        ({NAME: JobStatus.FAILED}, True, f"{NAME}-2"),
        ({NAME: JobStatus.FAILED, f"{NAME}-2": JobStatus.RUNNING}, True, f"{NAME}-2"),
        ({NAME: JobStatus.FAILED, f"{NAME}-2": JobStatus.SUCCEEDED}, False, f"{NAME}-2"),
        ({NAME: JobStatus.FAILED, f"{NAME}-10": JobStatus.STOPPED}, True, f"{NAME}-11"),
        ({f"{NAME}0": JobStatus.RUNNING, f"{NAME}-x": JobStatus.RUNNING}, False, NAME),
    ],
)
def test_one_of_a_name_runs_and_again_starts_the_next(states: dict[str, JobStatus], again: bool, counts: str) -> None:
    client = Client()
    client.states = dict(states)
    assert started(client, again=again) == counts
    assert {*client.states} == {*states, counts}


def test_a_submitter_that_is_second_follows_the_first() -> None:
    client = Client()
    client.rival = True
    assert started(client) == NAME


def test_a_cluster_that_refuses_is_an_error() -> None:
    client = Client()
    client.submit_job = lambda **_: (_ for _ in ()).throw(RuntimeError("no agent"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="404"):
        started(client)


def test_a_log_is_printed_once_however_often_the_connection_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    client = Client()
    client.states[NAME] = JobStatus.SUCCEEDED
    client.parts = ["one\n", RuntimeError("closed"), "one\ntw", ConnectionError("away"), "one\n", "two\n", "three\n"]
    assert followed(client).status == JobStatus.SUCCEEDED
    said = capsys.readouterr()
    assert said.out == "one\ntwo\nthree\n"
    assert said.err == "asking again: closed\nasking again: away\n"


def test_a_cluster_that_stays_away_is_given_up() -> None:
    client = Client()
    client.states[NAME] = JobStatus.RUNNING
    client.parts = [ConnectionError("away")] * (submitting.PATIENCE + 1)
    with pytest.raises(ConnectionError, match="away"):
        followed(client)
    assert len(client.parts) == 1


@pytest.mark.parametrize(
    ("status", "code", "ends_with"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", None, 1), ("FAILED", -9, 137), ("STOPPED", None, 1)],
)
def test_exit_codes(status: str, code: int | None, ends_with: int) -> None:
    assert exit_code(SimpleNamespace(status=JobStatus(status), driver_exit_code=code)) == ends_with  # type: ignore[arg-type]


def test_no_cluster_at_the_address_is_one_line() -> None:
    command = ["env", "RAY_API_SERVER_ADDRESS=http://127.0.0.1:9", *submit_command("jobs.predict", "--workspace", "w")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "error: Failed to connect to Ray at address: http://127.0.0.1:9.\n"


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_sources(tmp_path_factory.mktemp("sources"), rows=300, seed=0)


@pytest.fixture(scope="session")
def base(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, sources: tuple[Path, Path]) -> Path:
    """A workspace with a published predictor, made on the cluster; tests copy it."""
    workspace = tmp_path_factory.mktemp("base") / "w"
    done = submit(cluster, "jobs._drill_night", "--workspace", workspace, "--source", sources[0], "--first")
    assert done.returncode == 0, done.stdout
    return workspace


@pytest.fixture
def workspace(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "w"))


@pytest.mark.slow
def test_a_night_that_is_submitted_twice_runs_once_and_reads_well(
    cluster: Cluster, workspace: Path, sources: tuple[Path, Path]
) -> None:
    command = submit_command(
        "jobs.nightly", "--workspace", workspace, "--source", sources[1], "--gate", "smallest=1000000"
    )
    environment = cluster.environment()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen(["env", *(f"{k}={v}" for k, v in environment.items()), *command], cwd=ROOT, **pipes)
        for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("there already, its result counts" in stderr for _, stderr in said) == [False, True]
    third = run(cluster, command)
    assert third.returncode == 0
    assert {third.stdout} == {stdout for stdout, _ in said}
    [job] = jobs_of(cluster, workspace)
    lines = third.stdout.splitlines()
    assert "\x1b" not in third.stdout
    assert any(line.startswith("extract ") and "100%" in line and "contents" in line for line in lines)
    assert [line for line in lines if re.search(r"Traceback|WARN| E \d+ \d+\]", line)] == []
    assert job["driver_exit_code"] == 0


@pytest.mark.slow
def test_what_is_uploaded_is_the_code_and_nothing_else(cluster: Cluster, base: Path) -> None:
    [job] = jobs_of(cluster, base)
    package = Path(job["runtime_env"]["working_dir"]).stem
    [unpacked] = (cluster.state / "ray").glob(f"head/session_2*/runtime_resources/working_dir_files/{package}")
    found = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert {name for name in found if "__pycache__" not in name} == code_files(ROOT)


@pytest.mark.slow
def test_a_wrong_flag_ends_with_2_where_ray_says_1(cluster: Cluster, base: Path) -> None:
    wrong = ("jobs.nightly", "--workspace", base, "--gate", "changed=2")
    done = submit(cluster, *wrong)
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == "error: --gate changed=2: expected a share, 0 to 1"
    assert ray_job(cluster, "submit", "--working-dir", ".", "--", "python", "-m", *wrong).returncode == 1


@pytest.mark.slow
def test_a_refused_night_ends_with_3_and_again_runs_it_again(
    cluster: Cluster, workspace: Path, sources: tuple[Path, Path]
) -> None:
    night = ("jobs.nightly", "--workspace", workspace, "--source", sources[1], "--gate", "changed=0", "smallest=1")
    refused = submit(cluster, *night)
    assert refused.returncode == 3, refused.stdout
    assert refused.stdout.splitlines()[-1].startswith("error: ")
    assert submit(cluster, *night).returncode == 3
    assert len(jobs_of(cluster, workspace)) == 1
    assert submit(cluster, *night, again=True).returncode == 3
    first, second = jobs_of(cluster, workspace)
    assert second["submission_id"] == f"{first['submission_id']}-2"


@pytest.mark.slow
def test_a_locked_workspace_ends_with_4(cluster: Cluster, workspace: Path) -> None:
    with taken(str(workspace / "epochs"), job="predict"):
        done = submit(cluster, "jobs.predict", "--workspace", workspace)
    assert done.returncode == 4
    assert "another run is writing here (predict, process " in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_workers_find_the_store_by_the_environment_of_their_node(
    cluster: Cluster, moto: Server, sources: tuple[Path, Path]
) -> None:
    files = S3FileSystem(key=KEY, secret=SECRET, endpoint_url=moto.url, skip_instance_cache=True)
    files.mkdir("submitted")
    files.put(f"{sources[0]}/part-0.parquet", "submitted/source/part-0.parquet")
    places = ("--workspace", "s3://submitted/w", "--source", "s3://submitted/source")
    done = submit(cluster, "jobs.ingest", *places, "--preset", "sample")
    assert done.returncode == 0, done.stdout
    assert SECRET not in str(jobs_of(cluster, "s3://submitted/w"))


def working(cluster: Cluster) -> list[str]:
    """Titles of workers that do something; Ray Data's own actors stay as long as the cluster."""
    pids = ",".join(map(str, cluster.processes()))
    titles = subprocess.run(["ps", "-o", "args=", "-p", pids], capture_output=True, text=True, check=True).stdout
    workers = [title.strip() for title in titles.splitlines() if title.startswith("ray::")]
    own = ("Agent", "IDLE", "_StatsActor", "CoordinatorActor", "ActorLocationTracker")
    return [title for title in workers if not title.endswith(own)]


@pytest.mark.slow
def test_a_night_that_is_stopped_ends_cleanly_and_goes_on(
    cluster: Cluster, base: Path, workspace: Path, sources: tuple[Path, Path], tmp_path: Path
) -> None:
    truth = Path(shutil.copytree(base, tmp_path / "truth"))
    assert submit(cluster, "jobs._drill_night", "--workspace", truth, "--source", sources[1]).returncode == 0
    night = ("jobs._drill_night", "--workspace", workspace, "--source", sources[1])
    queued = ("submit", "--no-wait", "--working-dir", ".", "--submission-id", "stopped", "--", "python", "-m", *night)
    assert ray_job(cluster, *queued).returncode == 0
    wait_while(lambda: "\nextract " not in asked(cluster, "stopped/logs")["logs"] and "no encoder runs")
    assert asked(cluster, "stopped/stop", method="POST") == {"stopped": True}
    wait_while(lambda: asked(cluster, "stopped")["status"] == "RUNNING" and "it runs")
    log = asked(cluster, "stopped/logs")["logs"].splitlines()
    assert log[-1] == "interrupted: the same command goes on from what is committed"
    assert [line for line in log if line.startswith("predict ")] == []
    assert asked(cluster, "stopped")["status"] == "STOPPED"
    wait_while(lambda: working(cluster))
    published = [Predictions(workspace=Workspace.open(str(each))).table.version() for each in (base, workspace)]
    assert published[0] == published[1]
    assert submit(cluster, *night).returncode == 0
    difference = compare(*(contents(Workspace.open(str(each))) for each in (truth, workspace)))
    assert not difference, difference
