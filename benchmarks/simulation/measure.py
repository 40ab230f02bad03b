"""Runs whose seconds the simulation is held against (`benchmarks.simulation.checks`), on one core or two.

    python -m benchmarks.simulation.measure --folder DIR --cores 2 --rows 10000 100000 1000000

texts   the synthetic catalog: `jobs.ingest`, then `jobs.extract_features` with the cheapest encoder there is
sample  the sample catalog with its images, up to 100,000 rows: `jobs.ingest`

`--folder` is new, what a run leaves there is removed after it. The process and all that it starts are bound to the
first `--cores` processors. Seconds are of whole processes; `load` is the machine's, of the minute before a run.
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks.catalogs import synthetic
from benchmarks.running import new_workspace, report, run_job, store_encoder
from mmbatch.encoders.ngram import NgramText
from mmbatch.sample import write_sample

MOST_DRAWN = 100_000
"""Rows of the sample catalog: drawing it takes longer than reading it."""


def texts(folder: Path, rows: int) -> dict[str, float]:
    """Seconds of an ingest, and of an extraction of everything."""
    (folder / "source").mkdir(parents=True)
    synthetic(folder / "source", rows=rows)
    workspace = new_workspace(folder / "workspace", preset="sample", rows=rows)
    ingest = run_job("ingest", workspace.uri, "--source", str(folder / "source"))
    store_encoder(workspace, "cheap", NgramText.from_scratch(buckets=256, width=8, seed=0))
    extract = run_job("extract_features", workspace.uri)
    return {"ingest": ingest.seconds, "extract": extract.seconds}


def sample(folder: Path, rows: int) -> dict[str, float]:
    """Seconds of an ingest with images."""
    folder.mkdir(parents=True)
    write_sample(str(folder / "source"), rows=rows, seed=0)
    workspace = new_workspace(folder / "workspace", preset="sample", rows=rows)
    return {"ingest": run_job("ingest", workspace.uri, "--source", str(folder / "source")).seconds}


def main() -> None:
    """One line and one JSON object a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="new folder")
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    flags = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: flags.cores])
    for rows in flags.rows:
        for catalog in (texts, sample) if rows <= MOST_DRAWN else (texts,):
            load = os.getloadavg()[0]
            seconds: dict[str, Any] = catalog(flags.folder / catalog.__name__, rows)
            shutil.rmtree(flags.folder)
            line = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
            found = {"catalog": catalog.__name__, "rows": rows, "cores": flags.cores, "load": load, **seconds}
            report(f"{catalog.__name__}, {rows:,} rows, {flags.cores} core(s): {line}", found)


if __name__ == "__main__":
    main()
