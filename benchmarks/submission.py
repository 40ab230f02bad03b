"""What submitting a job costs over running it here: the same tiny jobs, each way in turn, medians in seconds.

    python -m benchmarks.submission [--times 5]

dry run   `jobs.ingest --dry-run`, which starts no Ray
ingest    `jobs.ingest` of 100 products into a new workspace

here      as a process on this machine: an ingest starts a Ray of its own
ray       by `ray job submit`, on a local cluster that is up (`cluster.local`)
submit    by `cluster.submit`, on the same one

`up_s` and `down_s` are the cluster's start and end, `first_s` its first submission: the code is uploaded and unpacked.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.running import report
from cluster.local import Cluster
from mmbatch.sample import write_sample

ROOT = Path(__file__).resolve().parents[1]
PRODUCTS = 100

WAYS = {
    "here": [],
    "ray": [str(Path(sys.executable).with_name("ray")), "job", "submit", "--working-dir", ".", "--"],
    "submit": [sys.executable, "-m", "cluster.submit", "--"],
}


def seconds(way: str, cluster: Cluster, flags: list[str]) -> float:
    """Of one job from start to end; `CalledProcessError` when it fails."""
    environment = os.environ | ({} if way == "here" else cluster.environment())
    python = sys.executable if way == "here" else "python"
    began = time.monotonic()
    command = [*WAYS[way], python, "-m", "jobs.ingest", *flags]
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=sys.stderr, check=True)
    return time.monotonic() - began


def measure(folder: Path, source: str, cluster: Cluster, times: int) -> dict[str, dict[str, float]]:
    """Medians by job and way."""
    taken: dict[str, dict[str, list[float]]] = {job: {way: [] for way in WAYS} for job in ("dry run", "ingest")}
    for number in range(times):
        for job, ways in taken.items():
            for way, found in ways.items():
                flags = ["--workspace", str(folder / f"{way}-{number}"), "--source", source, "--preset", "sample"]
                found.append(seconds(way, cluster, [*flags, "--dry-run"] if job == "dry run" else flags))
    return {job: {way: round(median(found), 1) for way, found in ways.items()} for job, ways in taken.items()}


def main() -> None:
    """Start the cluster, measure, and end it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as folder:
        source = write_sample(f"{folder}/source", rows=PRODUCTS, seed=0)[0]
        cluster, began = Cluster(Path(folder) / "cluster"), time.monotonic()
        try:
            cluster.up()
            up = time.monotonic()
            flags = ["--workspace", f"{folder}/first", "--source", source, "--preset", "sample", "--dry-run"]
            first = seconds("submit", cluster, flags)
            figures = measure(Path(folder), source, cluster, times)
        finally:
            ending = time.monotonic()
            cluster.down()
    whole = {"up_s": up - began, "first_s": first, "down_s": time.monotonic() - ending}
    report(f"medians of {times}: {figures}", figures | {name: round(value, 1) for name, value in whole.items()})


if __name__ == "__main__":
    main()
