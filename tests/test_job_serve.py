"""The service as a user has it: a process that answers over HTTP, and ends when it is told to."""

import base64
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from jobs.serve import Serve, main
from mmbatch.errors import InputError
from mmbatch.limits import Limits
from mmbatch.models import open_model, published_predictor
from mmbatch.pipelines.predict import predict
from mmbatch.workspace import Workspace
from tests.conftest import ROOT, run_job
from tests.published_shop import PDF, PRODUCTS, publish_predictor, publish_shop, rows_of
from tests.test_endpoint import as_json
from tests.test_online import assert_same, published

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
"""Ray Serve declares its settings so."""

PATIENCE_S = 240.0
"""Ray starts in this time, whatever else the machine does."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            response = httpx2.get(f"{address}/ready", timeout=5)
        except httpx2.TransportError:
            continue
        if response.status_code == 200:
            found: dict[str, Any] = response.json()
            return found
    raise AssertionError(f"not ready: {log.read_text()}")


@contextmanager
def running(workspace: Workspace, log: Path, *flags: object) -> Iterator[tuple[subprocess.Popen[bytes], str, str]]:
    """The process, its address, and what answers."""
    port = free_port()
    command = [sys.executable, "-m", "jobs.serve", "--workspace", workspace.uri, "--port", str(port), *map(str, flags)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{port}"
    try:
        yield process, address, wait_until_ready(process, address, log)["predictor"]
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.mark.slow
def test_the_service_answers_what_is_published_until_it_is_told_to_end(tmp_path: Path, in_process: None) -> None:
    workspace, log = publish_shop(tmp_path), tmp_path / "log"
    batch = published(workspace)
    champion = published_predictor(workspace)
    assert champion is not None
    with running(workspace, log) as (process, address, predictor):
        assert predictor == champion.id
        assert httpx2.get(f"{address}/health").json() == {"status": "ok"}

        def ask(product: dict[str, Any]) -> dict[str, Any]:
            response = httpx2.post(f"{address}/predict", json=as_json(product), timeout=60)
            assert response.status_code == 200, response.text
            found: dict[str, Any] = response.json()
            return found

        with ThreadPoolExecutor(8) as clients:
            for found in clients.map(ask, rows_of(PRODUCTS) * 4):
                expected = batch[found["product_id"]]
                unsaid = {name: expected[name] for name in ("title_hash", "description_hash", "bucket")}
                assert_same(found | unsaid, expected)
        refused = httpx2.post(f"{address}/predict", json={"image": base64.b64encode(PDF).decode()})
        assert (refused.status_code, refused.json()["reason"]) == (422, "no_content")
        assert "/predict" in httpx2.get(f"{address}/openapi.json").json()["paths"]

        replace_predictor(workspace, tmp_path)
        now = published_predictor(workspace)
        assert now is not None
        assert now.id != champion.id
        assert ask({"title": "lamp"})["predictor"] == champion.id, "until it is started again"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, log.read_text()
    lines = log.read_text().splitlines()
    assert f"serve      {champion.id} answers at {address}/predict, described at {address}/docs" in lines
    assert "serve      ending: requests under way are answered first" in lines
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"{address}/health")


def replace_predictor(workspace: Workspace, folder: Path) -> None:
    """Publish the predictions of another one."""
    champion = published_predictor(workspace)
    assert champion is not None
    first, second = (open_model(workspace, kind="encoder", model_id=name) for name in champion.card["encoders"])
    predict(workspace, publish_predictor(workspace, (first, second), None, folder / "challenger", seed=1))


def test_a_workspace_without_a_predictor_ends_it_with_one_line(tmp_path: Path, in_process: None) -> None:
    workspace = publish_shop(tmp_path)
    for table in ("predictions", "models/predictor"):
        (tmp_path / "w" / table).rename(tmp_path / table.replace("/", "-"))
    done = run_job("serve", "--workspace", workspace.uri)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: --workspace {workspace.uri}: no predictor there; `jobs.train_late_fusion` makes one\n"
    )


def test_a_port_that_is_taken_ends_it(shop: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"^--host 127.0.0.1 --port {port}: cannot listen there: Address already"):
            main(Serve(workspace=shop.uri, port=port))
    with pytest.raises(InputError, match=r"^--host 203.0.113.9 --port 8000: cannot listen there: Cannot assign"):
        main(Serve(workspace=shop.uri, host="203.0.113.9"))


def test_what_lets_nothing_through_is_refused(shop: Workspace) -> None:
    with pytest.raises(InputError, match=r"^--limits.batch-size 0: expected more than 0"):
        main(Serve(workspace=shop.uri, limits=Limits(batch_size=0)))
    with pytest.raises(InputError, match=r"^--limits.batch-wait -1: expected 0 or more"):
        main(Serve(workspace=shop.uri, limits=Limits(batch_wait=-1)))
    for port in (0, 70000):
        with pytest.raises(InputError, match=rf"^--port {port}: expected 1 to 65535"):
            main(Serve(workspace=shop.uri, port=port))
    with pytest.raises(InputError, match=r"^--replicas 0: expected 1 or more"):
        main(Serve(workspace=shop.uri, replicas=0))


def test_an_encoder_that_is_gone_is_named_before_anything_starts(tmp_path: Path, in_process: None) -> None:
    workspace = publish_shop(tmp_path)
    champion = published_predictor(workspace)
    assert champion is not None
    gone = champion.card["encoders"][0]
    (tmp_path / "w" / "models" / "encoder" / gone / "encoder.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=rf"{gone}/encoder.safetensors: sha256 is "):
        main(Serve(workspace=workspace.uri, port=free_port()))


def test_a_dry_run_says_what_would_answer(shop: Workspace) -> None:
    champion = published_predictor(shop)
    assert champion is not None
    assert main(Serve(workspace=shop.uri, dry_run=True))["work"]["predictor"] == champion.id
