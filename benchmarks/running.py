"""What the benchmarks of mmbatch share: jobs as processes, stored encoders, files on disk."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from benchmarks.footprint import measure
from mmbatch.encoders import Encoder
from mmbatch.models import Model, publish_model
from mmbatch.presets import preset_named
from mmbatch.workspace import Settings, Workspace, buckets_for


class Finished(NamedTuple):
    """A job that ended well."""

    counts: dict[str, Any]
    """Of its ledger entry; of a training job, what it says of the model."""
    seconds: float
    """Of the whole process, its start included."""
    peak_bytes: int
    """PSS of the process and all that it started; see `benchmarks.footprint`."""
    driver_bytes: int
    """PSS of the process alone, at most."""
    lines: list[tuple[float, str]]
    """What it said on stderr, each line with the clock (`time.monotonic`) when it came."""


def run_job(name: str, workspace: str, *flags: str) -> Finished:
    """Run `jobs.NAME` as a process; `CalledProcessError` when it fails."""
    command = [sys.executable, "-m", f"jobs.{name}", "--workspace", workspace, *flags, "--json"]
    with tempfile.TemporaryFile("w+") as output, _lines() as (stderr, lines):
        found = measure(command, stdout=output, stderr=stderr)
        if found.returncode:
            raise subprocess.CalledProcessError(found.returncode, command)
        output.seek(0)
        said = json.load(output)
        return Finished(said.get("counts", said), found.seconds, found.peak_bytes, found.own_bytes, lines)


@contextmanager
def _lines() -> Iterator[tuple[IO[str], list[tuple[float, str]]]]:
    """A pipe, and what is written into it line by line as it comes, passed on to stderr."""
    reading, writing = os.pipe()
    lines: list[tuple[float, str]] = []

    def collect() -> None:
        with open(reading, encoding="utf-8", errors="replace") as source:
            for line in source:
                lines.append((time.monotonic(), line.rstrip("\n")))
                sys.stderr.write(line)

    collector = threading.Thread(target=collect, daemon=True)
    collector.start()
    with open(writing, "w", encoding="utf-8") as target:
        yield target, lines
    collector.join(10)


def new_workspace(folder: Path, *, preset: str, rows: int) -> Workspace:
    """An empty workspace with buckets for so many products."""
    settings = Settings(preset=preset, level=preset_named(preset).level, seed=0, buckets=buckets_for(rows))
    return Workspace.create(str(folder), settings)


def store_encoder(workspace: Workspace, name: str, encoder: Encoder) -> Model:
    """Store an encoder as it is, without any fine-tuning."""
    card: dict[str, Any] = {"modality": encoder.modality, "width": encoder.width, "categories": [], "metrics": {}}
    with tempfile.TemporaryDirectory() as folder:
        encoder.save(Path(folder))
        files = sorted(path.name for path in Path(folder).iterdir())
        return publish_model(
            workspace, kind="encoder", name=name, folder=Path(folder), identity=files, recipe="", card=card
        )


def files_below(folder: str) -> dict[str, int]:
    """Bytes of every file, by its path below the folder."""
    root = Path(folder)
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}


def bytes_by_table(files: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Bytes of a workspace's files (path below its root, bytes), by table, Delta log included."""
    totals: Counter[str] = Counter()
    for path, size in files:
        parts = path.split("/")
        totals["/".join(parts[: 2 if parts[0] == "features" else 1])] += size
    return dict(sorted(totals.items()))


def report(text: str, figures: Mapping[str, Any]) -> None:
    """One line for people on stderr, one JSON object on stdout."""
    print(text, file=sys.stderr)
    print(json.dumps(figures, default=str))
