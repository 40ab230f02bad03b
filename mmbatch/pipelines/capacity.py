"""What the cluster has, what a stage takes of it, and a wait for machines, or a refusal, where that is not enough."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.placement_group import placement_group, remove_placement_group

from mmbatch.errors import ClusterError
from mmbatch.pipelines.resources import (
    ENCODE,
    PREPARE,
    Ask,
    Node,
    actors_for,
    described,
    fits,
    joined,
    on_gpu,
    room,
    total,
    without,
)
from mmbatch.progress import INTERVAL_S, say

JOIN_S = 45.0
"""How long nothing may come before a cluster is refused: machines that were started together join within seconds."""

GROW_S = 1800.0
"""How long machines are waited for that the autoscaler has asked for."""

Wanted = tuple[Ask, int]
"""So many of these at once."""


def machines() -> list[Node]:
    """What each machine of the cluster has that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def processors() -> tuple[int, int]:
    """Logical CPUs and GPUs of the cluster."""
    found = total(machines())
    return int(found["CPU"]), int(found["GPU"])


def threads_here(asked: int | None, workers: int) -> int:
    """Threads of each of so many training workers on this machine, of those asked for or of its processors."""
    node = ray.get_runtime_context().get_node_id()
    cpus = asked or next(found["Resources"].get("CPU", 1) for found in ray.nodes() if found["NodeID"] == node)  # type: ignore[no-untyped-call]
    return max(1, int(cpus) // workers)


def encoders_for(stage: str, contents: int) -> tuple[Ask, int]:
    """The fixed pool of actors that so many contents are worth on this cluster, beside at least one reader; it is said.

    `ClusterError` where there is no room for one of each.
    """
    ask = replace(on_gpu(ENCODE, processors()[1]), stage=stage)
    require((ask, 1), (PREPARE, 1))
    nodes = machines()
    count = actors_for(contents, cpus=room(nodes, ask), gpus=room(nodes, ask) if ask.gpus else 0, remote=joined())
    while not fits(nodes, [(ask, count), (PREPARE, 1)]):
        count -= 1
    say_plan(ask.stage, (ask, count), (PREPARE, room(without(nodes, ask, count), PREPARE)))
    return ask, count


def plan_tasks(ask: Ask, units: int) -> None:
    """Say how many tasks a cluster runs at once for so many units; `ClusterError` where there is no room for one."""
    require((ask, 1))
    if joined():
        say_plan(ask.stage, (ask, min(units, room(machines(), ask))))


def require(*wanted: Wanted) -> None:
    """Wait until there is room for all of these at once; `ClusterError` where there is none and none will come.

    The autoscaler is asked for what is lacking. Without one machines may still be joining, so `JOIN_S` are waited.
    """
    if fits(machines(), wanted):
        return
    if not joined():
        raise ClusterError(_refusal(wanted))
    with _asked_for(wanted):
        started = moved = time.monotonic()
        known = len(machines())
        while not fits(machines(), wanted):
            now, coming = time.monotonic(), _coming()
            if coming or len(machines()) != known:
                moved, known = now, len(machines())
            if now - moved >= JOIN_S or now - started >= GROW_S:
                raise ClusterError(_refusal(wanted))
            say(f"waiting    for {_described(wanted)}: {_has()}, {coming} more {'is' if coming == 1 else 'are'} coming")
            time.sleep(INTERVAL_S)


def say_plan(stage: str, *wanted: Wanted) -> None:
    """Say what a stage takes: `plan       extract: 4 encoders x (1 CPU, 1 GPU, 3 GiB), 12 readers x 1 CPU; ...`."""
    _say_once(f"plan       {stage}: {_described(wanted)}" + (f"; {_has()}" if joined() else ""))


@cache
def _say_once(line: str) -> None:
    """A stage that runs again, for the next table, has the same plan."""
    say(line)


def _described(wanted: Sequence[Wanted]) -> str:
    return ", ".join(ask.describe(count) for ask, count in wanted)


def _has() -> str:
    """`the cluster has 16 CPUs, 4 GPUs on 4 nodes`."""
    nodes = machines()
    found = {name: amount for name, amount in total(nodes).items() if name != "memory"}
    return f"the cluster has {described(found).strip('()')} on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"


def _refusal(wanted: Sequence[Wanted]) -> str:
    scarce = "GPU" if any(ask.gpus for ask, _ in wanted) else "CPU"
    largest = max(machines(), key=lambda node: (node.get(scarce, 0), node.get("CPU", 0)), default={})
    return (
        f"{wanted[0][0].stage}: asks for {_described(wanted)} at once; {_has()}, the largest of which has"
        f" {described(largest).strip('()')}: add machines, or ask for less"
    )


@contextmanager
def _asked_for(wanted: Sequence[Wanted]) -> Iterator[None]:
    """The autoscaler sees the demand while the block runs; it ends with this process, whatever becomes of that."""
    bundles = [ask.resources for ask, count in wanted for _ in range(count)]
    demand = placement_group(bundles, strategy="PACK")
    try:
        yield
    finally:
        remove_placement_group(demand)


def _coming() -> int:
    """Machines that the autoscaler has asked for, or that have not joined yet."""
    if report := json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}").get("autoscaler_report"):
        return len(report["pending_nodes"]) + int(sum(report["pending_launches"].values()))
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches)
