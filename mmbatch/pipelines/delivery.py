"""Units of work through CPU tasks and a pool of actors, and their files into tables, committed as they come.

The pool is fixed in size: one that grows costs a fifth, and one that shrinks can hang on actors that are gone. What was
committed is not stale any more, so a run that is killed goes on where it was.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray.data

from mmbatch.failpoints import reach
from mmbatch.pipelines.capacity import machines
from mmbatch.pipelines.ray_failures import RETRIES
from mmbatch.pipelines.resources import PREPARE, Ask, room, without
from mmbatch.pipelines.speed import Speed
from mmbatch.progress import Progress
from mmbatch.tables import FileEntry, Table

COMMIT_FILES = 16
COMMIT_S = 10.0
"""Files per commit, and seconds after which fewer are committed: what a crash can cost."""

SLIVER = 0.02
"""CPUs that a reader asks for beside encoders on CPUs, and that each of those leaves. When a machine is lost, its
encoders start again wherever there is room; readers that asked for a whole CPU would wait for ever where they fill the
rest. How many read at once is bounded by a number instead."""

ACTOR_RESTARTS = 20
"""Of one actor in a run: each record that kills its encoder costs one."""


def through_actors(
    rows: Sequence[dict[str, Any]],
    prepare: Callable[[dict[str, Any]], list[dict[str, Any]]],
    actor: type,
    arguments: Mapping[str, Any],
    *,
    pool: tuple[Ask, int],
) -> ray.data.Dataset:
    """Units as they will be when `prepare` has read them and an `actor` of these arguments has done its work.

    `pool` is the actors (`capacity.encoders_for`). Who prepares keeps off machines with GPUs while others have room.
    """
    ask, actors = pool
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # max_restarts has no name of its own yet
    readers, encoders = _side_by_side(ask, actors)
    return (
        ray.data.from_items(list(rows), override_num_blocks=len(rows))
        .flat_map(prepare, max_retries=RETRIES, **readers)
        .map_batches(
            actor,
            fn_constructor_kwargs=dict(arguments),
            batch_size=1,
            batch_format="pyarrow",
            concurrency=actors,
            max_restarts=ACTOR_RESTARTS,
            max_task_retries=RETRIES,
            **encoders,
        )
    )


def _side_by_side(encoder: Ask, actors: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of readers and encoders, which share the processors where encoders have no GPUs."""
    if encoder.gpus:
        return PREPARE.options | {"scheduling_strategy": "DEFAULT"}, encoder.options
    at_once = room(without(machines(), encoder, actors), PREPARE)
    shared = {"num_cpus": encoder.cpus - SLIVER}
    return {"num_cpus": SLIVER, "concurrency": max(1, at_once)}, encoder.options | shared


@dataclass
class Delivered:
    """What has come."""

    rows: Counter[str] = field(default_factory=Counter)
    """Written, by table."""
    failures: list[dict[str, Any]] = field(default_factory=list)


def deliver(
    done: Iterable[Mapping[str, Any]], tables: Mapping[str, Table], *, app_id: str, speed: Speed, progress: Progress
) -> Delivered:
    """Commit the files of finished units (`encode_units.DONE`) as they come, and collect what failed.

    Args:
        done: the units, in any order.
        tables: name in the units' files -> where they go.
        app_id: of the commits.
        speed: is told of every unit.
        progress: counts contents.
    """
    found = Delivered()
    commits = {name: Commits(table, app_id) for name, table in tables.items()}
    for row in done:
        reach("delivery.after")
        for file in row["files"]:
            commits[file["encoder"]].add(FileEntry(**file["entry"]))
            found.rows[file["encoder"]] += file["entry"]["rows"]
        found.failures += row["failures"]
        speed.add(row)
        progress.advance(row["contents"])
    for commit in commits.values():
        commit.flush()
    return found


class Commits:
    """Collects file entries and commits them every `COMMIT_FILES` of them, or `COMMIT_S` seconds."""

    def __init__(self, table: Table, app_id: str) -> None:
        self.table, self.app_id = table, app_id
        self.entries: list[FileEntry] = []
        self.count = 0
        self.since = time.monotonic()

    def add(self, entry: FileEntry) -> None:
        """Take the entry of a file that is written."""
        self.entries.append(entry)
        if len(self.entries) >= COMMIT_FILES or time.monotonic() - self.since >= COMMIT_S:
            self.flush()

    def flush(self) -> None:
        """Commit what there is."""
        if self.entries:
            self.table.commit(self.entries, app_id=self.app_id, version=self.count)
            self.entries, self.count = [], self.count + 1
        self.since = time.monotonic()
