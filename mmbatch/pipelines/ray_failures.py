"""What Ray's errors mean for a person, in one line that names the stage."""

from collections.abc import Iterator
from typing import Any

from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import (
    ActorUnschedulableError,
    NodeDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

from mmbatch.errors import ClusterError, MmbatchError

RETRIES = 2
"""How often a unit whose worker has died is given to another one: once to find the record that ended its process, once
for a lost machine. By default Ray Data does so for ever."""

MEANINGS: dict[type[Exception], str] = {
    ExecutionTimeoutError: "nothing has moved for half an hour (RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S): nodes may be"
    " lost that no others have replaced; the same command goes on with those that there are",
    OutOfDiskError: "a node's disk is full, on which Ray puts what its object store cannot hold: make room under Ray's"
    " --temp-dir, or take nodes with larger disks",
    ObjectStoreFullError: "a node's object store is full: start its Ray with a larger --object-store-memory, or with"
    " fewer --num-cpus",
    OutOfMemoryError: f"a node ran out of memory, also when this was tried {RETRIES} more times: take nodes with more"
    " memory per processor, or start their Ray with fewer --num-cpus",
    NodeDiedError: f"nodes died, also when this was tried {RETRIES} more times: look at their Ray's logs",
    WorkerCrashedError: f"its process died, also when this was tried {RETRIES} more times, perhaps of too little"
    " memory: look at the node's log, or start its Ray with fewer --num-cpus",
    TaskUnschedulableError: "no node of the cluster can take it any more",
    ActorUnschedulableError: "no node of the cluster can take it any more",
}


def said_error(error: BaseException, stage: str) -> MmbatchError | None:
    """An `MmbatchError` that a worker raised, as itself, or what Ray's own error means; None: neither."""
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, MmbatchError) and not isinstance(cause, RayError):
            return type(cause)(str(cause).partition("\n")[0])  # Ray Data adds lines about its own retries
    for cause in chain:
        for kind, meaning in MEANINGS.items():
            if isinstance(cause, kind):
                return ClusterError(f"{stage}: {meaning}")
    return None


def _chain(error: BaseException | None) -> Iterator[Any]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__
