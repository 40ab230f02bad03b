"""Crash drill: kills a night of work anywhere, again and again, and checks that nothing is lost, twice or different."""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.errors import InputError, MmbatchError
from mmbatch.progress import say

MARK = "drill.json"
"""File in a folder that a drill has made, and that the next one may empty."""


@dataclass(frozen=True, kw_only=True)
class Drill(Job):
    """Kill a night (ingest, extract, predict, maintain) anywhere, start it again, and compare what it ends in.

    Needs no data of yours: it makes its own small catalog, and its own Ray on this machine.
    """

    workspace: str = ""
    """Folder for the drill's own use, empty or made by an earlier drill. Default: a temporary one."""
    kills: int = 300
    """Kills in all: of the driver, of workers, of Ray's own processes, and at every failpoint in turn."""
    rows: int = 300
    """Products of the drill's catalog."""
    seed: int = 0
    """Seed of the catalog and of the kills."""


def main(config: Drill) -> dict[str, Any]:
    """Run the drill; raises `MmbatchError` when it has found anything."""
    if config.kills < 1 or config.rows < 50:
        raise InputError(f"--kills {config.kills} --rows {config.rows}: expected 1 kill and 50 rows or more")
    if config.dry_run:
        return plan(config, kills=config.kills, products=config.rows)

    folder = own_folder(config.workspace)
    result = _drill(config, folder)
    _say_table(result)
    if found := verdict(result):
        if config.json:
            print(json.dumps(result), file=sys.__stdout__)
        raise MmbatchError(f"drill: {found}; see {folder}")
    if not config.workspace:
        shutil.rmtree(folder)
    return result


def _drill(config: Drill, folder: Path) -> dict[str, Any]:
    from mmbatch.drill import drill
    from mmbatch.drill.findings import summary
    from mmbatch.drill.local_ray import LocalRay
    from mmbatch.drill.sources import write_sources

    before, after = write_sources(folder / "source", rows=config.rows, seed=config.seed)
    work = drill.Drill(folder, "jobs._drill_night", config.seed, folder / "base", after, LocalRay())
    try:
        work.prepare(before)
        return summary(work.run(config.kills), work.unreached)
    finally:
        work.stop()


def own_folder(named: str) -> Path:
    """The drill's folder, emptied; `InputError` when somebody else's files are in it."""
    folder = Path(named or tempfile.mkdtemp(prefix="drill-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / MARK).exists():
        raise InputError(f"--workspace {named}: not empty, and no drill made it; the drill needs a folder of its own")
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (folder / MARK).write_text("{}\n")
    return folder


def verdict(result: dict[str, Any]) -> str:
    """What is wrong, in one line; nothing when all is well."""
    wrong = [f"{result[kind]} rows {kind}" for kind in ("lost", "twice", "different") if result[kind]]
    wrong += [f"{len(result['faults'])} fault(s), the first: {result['faults'][0]}"] if result["faults"] else []
    missed = result["points_never_reached"]
    wrong += [f"the night never reaches {', '.join(missed)}"] if missed else []
    return "; ".join(wrong)


def _say_table(result: dict[str, Any]) -> None:
    columns = ("kills", "lost", "twice", "different")
    say(f"\n{'killed':<18}" + "".join(f"{column:>11}" for column in columns))
    for kind, counts in [*result["by_kind"].items(), ("in all", result)]:
        say(f"{kind:<18}" + "".join(f"{counts[column]:>11,}" for column in columns))
    say(f"\n{result['rounds']} rounds; a round's differences stand in the line of every kind of kill that it had")


if __name__ == "__main__":
    run_job(Drill, main)
