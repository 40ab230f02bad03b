"""Runs whose seconds the simulation is held against (`benchmarks.simulation.checks`), on one core or two.

    python -m benchmarks.simulation.measure --folder DIR --cores 2 --rows 10000 100000 1000000

texts   the synthetic catalog: `jobs.ingest`, then `jobs.extract_features` with the cheapest encoder there is
sample  the sample catalog with its images, up to 100,000 rows: `jobs.ingest`

`--folder` is new, what a run leaves there is removed after it. The process and all that it starts are bound to the
first `--cores` processors. Seconds are of whole processes, `driver_gib` is the most that the job's own process held;
`load` is the machine's, of the minute before a run.
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks.catalogs import synthetic
from benchmarks.running import Finished, new_workspace, report, run_job, store_encoder
from mmbatch.encoders.ngram import NgramText
from mmbatch.sample import write_sample

MOST_DRAWN = 100_000
"""Rows of the sample catalog: drawing it takes longer than reading it."""


def texts(folder: Path, rows: int) -> dict[str, Finished]:
    """An ingest, and an extraction of everything."""
    (folder / "source").mkdir(parents=True)
    synthetic(folder / "source", rows=rows)
    workspace = new_workspace(folder / "workspace", preset="sample", rows=rows)
    ingest = run_job("ingest", workspace.uri, "--source", str(folder / "source"))
    store_encoder(workspace, "cheap", NgramText.from_scratch(buckets=256, width=8, seed=0))
    return {"ingest": ingest, "extract": run_job("extract_features", workspace.uri)}


def sample(folder: Path, rows: int) -> dict[str, Finished]:
    """An ingest with images."""
    folder.mkdir(parents=True)
    write_sample(str(folder / "source"), rows=rows, seed=0)
    workspace = new_workspace(folder / "workspace", preset="sample", rows=rows)
    return {"ingest": run_job("ingest", workspace.uri, "--source", str(folder / "source"))}


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
            jobs = catalog(flags.folder / catalog.__name__, rows)
            shutil.rmtree(flags.folder)
            line = ", ".join(f"{stage} {job.seconds:.1f} s" for stage, job in jobs.items())
            found: dict[str, Any] = {"catalog": catalog.__name__, "rows": rows, "cores": flags.cores, "load": load}
            found |= {stage: round(job.seconds, 1) for stage, job in jobs.items()}
            found["driver_gib"] = {stage: round(job.driver_bytes / 2**30, 2) for stage, job in jobs.items()}
            report(f"{catalog.__name__}, {rows:,} rows, {flags.cores} core(s): {line}", found)


if __name__ == "__main__":
    main()
