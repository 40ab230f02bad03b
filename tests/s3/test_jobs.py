"""Whole jobs on S3, in processes that know the store from their environment alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmbatch.catalog import Catalog
from mmbatch.models import newest_encoders
from mmbatch.pipelines.extract import store_of
from mmbatch.predictions import Predictions
from mmbatch.runs import last_run
from mmbatch.sample import write_sample
from mmbatch.storage import filesystem_of
from mmbatch.workspace import Workspace
from tests.conftest import run_job, run_json
from tests.s3.conftest import KEY, SECRET, Server
from tests.s3.proxy import FAULTS, FaultProxy, spread_faults
from tests.s3.untrained import publish_models

ROWS = 200
JOBS = ("ingest", "extract_features", "predict")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_sample(str(tmp_path_factory.mktemp("source")), rows=ROWS, seed=3)[0])


def run_jobs(uri: str, source: str) -> dict[str, Any]:
    """Ingest, extraction and prediction with untrained models; the counts that each job printed."""
    counts = {"ingest": run_json("ingest", "--workspace", uri, "--source", source)["counts"]}
    publish_models(Workspace.open(uri))
    counts |= {job: run_json(job, "--workspace", uri)["counts"] for job in JOBS[1:]}
    return {
        job: {key: number for key, number in found.items() if isinstance(number, int)} for job, found in counts.items()
    }


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, source: Path) -> tuple[Workspace, dict[str, Any]]:
    """A folder after these jobs, and their counts."""
    folder = str(tmp_path_factory.mktemp("local") / "w")
    counts = run_jobs(folder, str(source))
    return Workspace.open(folder), counts


def same_rows(ours: pa.Table, theirs: pa.Table, *unlike: str) -> bool:
    """Whether two tables hold the same rows, each as often, but for some columns."""
    order = [("product_id", "ascending")]
    return bool(ours.drop_columns(list(unlike)).sort_by(order).equals(theirs.drop_columns(list(unlike)).sort_by(order)))


def check_jobs(bucket: str, source: Path, local: tuple[Workspace, dict[str, Any]]) -> None:
    """Run the jobs on a bucket, from a source in the bucket: they must store what they store in a folder."""
    folder, counts = local
    filesystem, root = filesystem_of(bucket)
    filesystem.put_file(str(source), f"{root}/source/{source.name}")
    assert run_jobs(f"{bucket}/w", f"{bucket}/source") == counts
    assert counts["ingest"]["rows"] == ROWS
    remote = Workspace.open(f"{bucket}/w")
    assert same_rows(Catalog(workspace=remote).table.read(), Catalog(workspace=folder).table.read(), "source")
    for model in newest_encoders(folder):
        stored = store_of(remote, model).table.read()
        assert stored.num_rows > ROWS // 2
        assert same_rows(stored, store_of(folder, model).table.read())
    published = [Predictions(workspace=workspace).table.read() for workspace in (remote, folder)]
    assert same_rows(*published, "run_id")
    for job in JOBS:
        assert SECRET not in str(last_run(remote, job))


@pytest.mark.slow
def test_jobs_on_s3_store_what_they_store_in_a_folder(
    local: tuple[Workspace, dict[str, Any]], bucket: str, server: Server, source: Path
) -> None:
    if server.kind == "moto":
        pytest.skip("the same jobs under faults are enough for moto")
    check_jobs(bucket, source, local)


@pytest.mark.slow
def test_jobs_under_faults_store_the_same(
    local: tuple[Workspace, dict[str, Any]], bucket: str, faulty: FaultProxy, source: Path
) -> None:
    faulty.plan = spread_faults(share=0.05)
    check_jobs(bucket, source, local)
    assert set(faulty.injected) == set(FAULTS)


def refused(*command: object) -> str:
    """The one line that a job prints before it ends with exit code 2; no credential is in anything it prints."""
    done = run_job(*command)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    assert KEY not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    return line.removeprefix("error: ")


@pytest.mark.parametrize("job", ["ingest", "predict"])
def test_a_failing_store_is_one_line_without_credentials(
    job: str, bucket: str, server: Server, use: Callable[..., dict[str, str]], source: Path
) -> None:
    more = ("--source", source) if job == "ingest" else ()
    flags = (job, "--workspace", f"{bucket}/w", *more)
    if server.kind == "rgw":  # moto checks no credentials
        use(server.url, AWS_SECRET_ACCESS_KEY=f"not-{SECRET}")
        assert "403: access denied: wrong credentials" in refused(*flags)
    use("http://127.0.0.1:9")
    assert "object store http://127.0.0.1:9: EndpointConnectionError: no usable answer" in refused(*flags)
    use(server.url)
    line = refused(job, "--workspace", f"{bucket}-none/w", *more)
    assert ("no such bucket" if job == "ingest" else "no workspace.json there") in line


def test_credentials_in_a_uri_are_refused_and_not_repeated(bucket: str, source: Path) -> None:
    named = bucket.replace("s3://", f"s3://{KEY}:{SECRET}@")
    for flags in (
        ("ingest", "--workspace", f"{named}/w", "--source", source),
        ("ingest", "--workspace", f"{bucket}/w", "--source", f"{named}/catalog.csv"),
        ("predict", "--workspace", f"{named}/w", "--dry-run"),
    ):
        assert "credentials in a URI are refused" in refused(*flags)


@pytest.mark.slow
def test_nights_on_s3_are_published_refused_approved_and_rolled_back(bucket: str, source: Path, tmp_path: Path) -> None:
    uri, filesystem = f"{bucket}/w", filesystem_of(bucket)[0]
    for night, dropped in (("first", 0), ("second", 30)):
        rows = pq.read_table(source)
        pq.write_table(rows.slice(0, rows.num_rows - dropped), tmp_path / f"{night}.parquet")
        filesystem.put_file(str(tmp_path / f"{night}.parquet"), f"{filesystem_of(bucket)[1]}/{night}/catalog.parquet")
    run_json("ingest", "--workspace", uri, "--source", f"{bucket}/first", "--snapshot")
    publish_models(Workspace.open(uri))
    first = run_json("nightly", "--workspace", uri, "--source", f"{bucket}/first")
    predictions = Predictions(workspace=Workspace.open(uri))
    before = predictions.table.read().sort_by("product_id")
    assert first["counts"]["reasons"] == {"new": before.num_rows}
    night = (
        "nightly",
        "--workspace",
        uri,
        "--source",
        f"{bucket}/second",
        "--gate",
        "removed=0",
        "smallest=1",
        "--json",
    )
    refused_night = run_job(*night)
    assert refused_night.returncode == 3
    assert predictions.table.read().sort_by("product_id").equals(before)
    run_id = json.loads(refused_night.stdout)["run_id"]
    approved = run_json("nightly", "--workspace", uri, "--approve", run_id)
    assert predictions.table.rows() == before.num_rows - approved["counts"]["reasons"]["removed"] < before.num_rows
    run_json("rollback", "--workspace", uri)
    assert predictions.table.read().sort_by("product_id").equals(before)
    for job in ("nightly", "rollback"):
        assert SECRET not in str(last_run(predictions.workspace, job))
    assert filesystem.exists(f"{filesystem_of(bucket)[1]}/w/reports/index.html")
