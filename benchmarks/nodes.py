"""What a second node gains, and what a node costs that is lost midway: extraction and prediction on real Ray nodes.

    python -m benchmarks.nodes --folder DIR [--rows 6000] [--predicted 100000]

Each node is a machine of `tests.nodes`: a network namespace with an address and a disk of its own where this user may
make one, else an address of loopback; the workspace lies in moto's S3 server. A worker node is bound to one processor,
the first to the first, the next to the second; head, driver and S3 server take what is left, so that with two nodes on
two processors they take it from the nodes.

extraction  the sample catalog's images by EfficientNet-Lite0 with weights from a seed
prediction  made-up products with stored vectors, as in `benchmarks.prediction`, by a predictor that is trained here
per_s       products a second by the files that nodes write, less the first one of each node
lost        the same extraction, in which one of two nodes is killed when half of the files are there and a fresh one
            joins at once; `ideal_s` is the undisturbed run's time, and that of the files written twice
"""

import argparse
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.footprint import descendants
from benchmarks.prediction import train, write_workspace
from benchmarks.running import report, run_job, store_encoder
from mmbatch.encoders import build_encoder
from mmbatch.runs import last_run
from mmbatch.sample import write_sample
from mmbatch.storage import filesystem_of
from mmbatch.workspace import Settings, Workspace
from tests.nodes.machines import Machine, Machines, Submitted, machines
from tests.nodes.networks import network
from tests.s3.conftest import environment, moto_server
from tests.s3.proxy import Request

BUCKET = "s3://bucket"
LABELLED = 6_000
"""Products that the predictor is trained on."""

FEATURES, STAGED = "/features/", "/staged/"
WITHIN_S = 900.0


@dataclass
class Files:
    """When nodes wrote Parquet files below some folder."""

    folder: str
    clocks: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, request: Request) -> None:
        """Of a node's proxy: note the time of a file."""
        if request.method == "PUT" and self.folder in request.target and ".parquet" in request.target:
            with self.lock:
                self.clocks.append(time.monotonic())

    def per_s(self, products: int, *, nodes: int) -> float:
        """Products a second, the first file of each node left out."""
        files = len(self.clocks)
        return products * (files - nodes) / files / (self.clocks[-1] - self.clocks[nodes - 1])


def join(cluster: Machines, processor: int) -> Machine:
    """A worker node that is bound to one processor."""
    return cluster.join(prefix=("taskset", "--cpu-list", str(processor % (os.cpu_count() or 1))))


def watch(cluster: Machines, folder: str) -> Files:
    """Note what all workers write."""
    files = Files(folder)
    for machine in cluster.workers:
        machine.proxy.plan = files.plan
    return files


@contextmanager
def measured_driver(cluster: Machines) -> Iterator[list[int]]:
    """Collects resident bytes of the process that runs `jobs.NAME` on the head."""
    found, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            found.extend(map(_resident, descendants(cluster.head.process.pid)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _resident(process: int) -> int:
    """Peak so far of a driver; 0 of any other process."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    is_driver = b"-m" in command[:-1] and command[command.index(b"-m") + 1].startswith(b"jobs.")
    peak = next((line for line in lines if line.startswith("VmHWM")), None)
    return int(peak.split()[1]) * 1024 if peak and is_driver else 0


def finished(cluster: Machines, job: Submitted, uri: str, name: str) -> dict[str, Any]:
    """Wait for a job; what its ledger entry counts, its seconds, and its driver's memory."""
    with measured_driver(cluster) as resident:
        if job.exit_code(within=WITHIN_S):
            raise RuntimeError("\n".join(job.lines()[-20:]))
    entry = last_run(Workspace.open(uri), name)
    assert entry is not None
    counts: dict[str, Any] = entry["counts"]
    return counts | {"seconds": round(entry["seconds"], 1), "driver_gib": round(max(resident) / 2**30, 2)}


def write_images(folder: Path, rows: int) -> None:
    """A workspace with the sample catalog and an image encoder, copied for each measurement."""
    write_sample(str(folder / "source"), rows=rows, seed=0)
    workspace = Workspace.create(f"{BUCKET}/images", Settings(preset="sample", level=1, seed=0, buckets=4))
    encoder = build_encoder("timm-from-scratch", weights=None, seed=0, model="tf_efficientnet_lite0", size=224)
    store_encoder(workspace, "efficientnet-lite0", encoder)
    run_job("ingest", workspace.uri, "--source", str(folder / "source"))
    filesystem, root = filesystem_of(workspace.uri)
    for name in ("1", "2", "lost"):
        filesystem.copy(f"{root}/", f"{root}-{name}/", recursive=True)


def write_vectors(folder: Path, rows: int) -> None:
    """A workspace with features and a predictor, copied for each measurement."""
    workspace = write_workspace(folder / "vectors", rows, labelled=LABELLED)
    train(workspace)
    filesystem, root = filesystem_of(BUCKET)
    for nodes in (1, 2):
        filesystem.put(workspace.uri, f"{root}/vectors-{nodes}", recursive=True)


def run(cluster: Machines, job: str, uri: str, folder: str, counted: str) -> dict[str, Any]:
    """A job on the nodes that there are."""
    files, nodes = watch(cluster, folder), len(cluster.workers)
    done = finished(cluster, cluster.submit_job(job, "--workspace", uri), uri, job)
    figures = {name: done[name] for name in ("seconds", "driver_gib", counted)}
    return figures | {"files": len(files.clocks), "per_s": round(files.per_s(done[counted], nodes=nodes), 1)}


def lose(cluster: Machines, uri: str, undisturbed: dict[str, Any]) -> dict[str, Any]:
    """An extraction in which a node is lost when half of the files are there, and another one joins."""
    files = watch(cluster, FEATURES)
    job = cluster.submit_job("extract_features", "--workspace", uri)
    job.wait_until(lambda: len(files.clocks) >= undisturbed["files"] // 2, within=WITHIN_S)
    cluster.kill(cluster.workers[0])
    join(cluster, 0).proxy.plan = files.plan
    done = finished(cluster, job, uri, "extract_features")
    again = len(files.clocks) - undisturbed["files"]
    ideal = undisturbed["seconds"] + again * done["computed"] / undisturbed["files"] / undisturbed["per_s"]
    return {name: done[name] for name in ("seconds", "driver_gib", "computed")} | {
        "written_again": again,
        "ideal_s": round(ideal, 1),
        "over_ideal": round(done["seconds"] / ideal, 3),
    }


def measured(folder: Path, rows: int, predicted: int) -> dict[str, Any]:
    """All of it."""
    figures: dict[str, Any] = {}
    with network() as found, moto_server(folder / "moto.log") as server:
        os.environ.update(environment(server.url))
        filesystem_of(BUCKET)[0].mkdir("bucket")
        write_images(folder, rows)
        write_vectors(folder, predicted)
        with machines(found, server, folder, workers=0) as cluster:
            for nodes in (1, 2):
                join(cluster, nodes - 1).wait()
                uris = f"{BUCKET}/images-{nodes}", f"{BUCKET}/vectors-{nodes}"
                figures[f"extraction_{nodes}"] = run(cluster, "extract_features", uris[0], FEATURES, "computed")
                figures[f"prediction_{nodes}"] = run(cluster, "predict", uris[1], STAGED, "predicted")
            figures["lost"] = lose(cluster, f"{BUCKET}/images-lost", figures["extraction_2"])
    for what in ("extraction", "prediction"):
        figures[f"{what}_ratio"] = round(figures[f"{what}_2"]["per_s"] / figures[f"{what}_1"]["per_s"], 2)
    return {"network": found.kind} | figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="new folder, left as it is at the end")
    parser.add_argument("--rows", type=int, default=6_000, help="of the catalog whose images are encoded")
    parser.add_argument("--predicted", type=int, default=100_000, help="products to predict")
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True)
    figures = measured(flags.folder.resolve(), flags.rows, flags.predicted)
    report(f"two nodes: {figures['extraction_ratio']} and {figures['prediction_ratio']} times one", figures)


if __name__ == "__main__":
    main()
