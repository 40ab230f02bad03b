"""Points at which a process kills itself with SIGKILL when its environment asks for it.

`MMBATCH_FAILPOINT=commit.before:3` ends the process that reaches that point for the third time, as a lost machine
would: nothing is flushed, nothing is cleaned up. `MMBATCH_FAILPOINT=encode:<content hash>` ends every process that
checks (`check`, at ingest), prepares (`prepare`) or encodes (`encode`) that one content, as a record that crashes a
decoder would. `MMBATCH_FAILPOINT=step:20` ends a training worker before its 20th step, `head.epoch:3` one that has
finished its third epoch of a head, `head.trained` a job whose heads are trained on Ray Train and not stored. Workers
get the variables of the job that they work for. A process that ends itself first adds a line to the file that
`MMBATCH_FAILPOINT_LOG` names, if it is set.
"""

import hashlib
import os
import signal
from collections.abc import Collection

VARIABLE = "MMBATCH_FAILPOINT"
LOG = "MMBATCH_FAILPOINT_LOG"

POINTS = tuple(
    f"{point}.{side}"
    for point in ("file", "delivery", "commit", "staging", "publish", "vacuum")
    for side in ("before", "after")
)
"""`file`: a worker writes a Parquet file; `delivery`: its entry goes to the driver; `commit`: a Delta commit;
`staging`: rows set aside for a merge are written; `publish`: predictions change; `vacuum`: unreferenced files go."""

_reached: dict[str, int] = {}


def reach(point: str) -> None:
    """Kill this process if it has now reached `point` as often as the environment says."""
    name, _, count = os.environ.get(VARIABLE, "").partition(":")
    if name == point:
        _reached[point] = _reached.get(point, 0) + 1
        if _reached[point] == int(count or 1):
            _die()


def reach_records(point: str, content_hashes: Collection[str]) -> None:
    """Kill this process if it works on the content that the environment names for `point`."""
    name, _, content_hash = os.environ.get(VARIABLE, "").partition(":")
    if name == point and content_hash in content_hashes:
        _die()


def reach_content(point: str, content: bytes) -> None:
    """`reach_records` for one file's bytes, which are hashed only when the environment names `point`."""
    if os.environ.get(VARIABLE, "").startswith(f"{point}:"):
        reach_records(point, [hashlib.blake2b(content, digest_size=16).hexdigest()])


def _die() -> None:
    if log := os.environ.get(LOG):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{os.environ[VARIABLE]} {os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGKILL)
