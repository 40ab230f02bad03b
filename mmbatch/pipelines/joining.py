"""Joins a cluster, or says in one line why not, and checks that every machine of it can read the workspace."""

import os
import socket
from functools import cache
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmbatch.errors import ClusterError, MmbatchError
from mmbatch.pipelines.resources import WATCH
from mmbatch.storage import storage_errors
from mmbatch.workspace import Settings, Workspace

CONNECT_S = 10.0
"""For a connection to the head of a cluster."""

PROBE_S = 60.0
"""For every machine to start a process and read one small file."""


def join(environment: dict[str, Any], **options: Any) -> None:
    """Join the cluster that `RAY_ADDRESS` names; `ClusterError` says within a minute why that cannot be."""
    address = os.environ["RAY_ADDRESS"]
    if "://" in address:
        raise ClusterError(
            f"RAY_ADDRESS={address}: an address for `ray job submit`, or a client's; expected HOST:PORT of the head, as"
            " 10.0.0.1:6379, or `auto` on a machine of the cluster"
        )
    try:
        if found := canonicalize_bootstrap_address(address):
            _require_listener(found)
        if found and address != "auto":  # of which `ray.init` finds the token, too
            GcsClient(address=found)  # gives up after 40 s, `ray.init` after minutes
        ray.init(runtime_env=environment, **options)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"RAY_ADDRESS={address}: {_said(error)}") from None


def _require_listener(address: str) -> None:
    """`OSError` where nobody takes a connection."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _said(error: Exception) -> str:
    """The words of an error of Ray's in one line."""
    return " ".join(str(error).split())


@cache
def check_nodes(uri: str, settings: Settings) -> None:
    """Let every machine that can work read a workspace's settings, once; `ClusterError` names one that cannot."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]  # type: ignore[no-untyped-call]
    asked = {_probe_on(node["NodeID"]).remote(uri, settings): node["NodeManagerAddress"] for node in nodes}
    answers, silent = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_S)
    reasons = [(asked[answer], _reason(answer)) for answer in answers]
    reasons += [(asked[answer], f"no answer within {PROBE_S:.0f} s") for answer in silent]
    if bad := [(node, reason) for node, reason in reasons if reason]:
        node, reason = min(bad)
        others = f", nor can {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ClusterError(
            f"--workspace {uri}: the node {node} cannot read it{others}: {reason}; expected an object store that"
            f" all {len(nodes)} nodes reach, or a folder that they share"
        )


def _probe_on(node: str) -> Any:
    only = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_probe).options(max_retries=0, scheduling_strategy=only, **WATCH.options)


def _probe(uri: str, settings: Settings) -> str:
    """Runs in a Ray task on each machine: why the workspace cannot be read there, empty where it can."""
    try:
        with storage_errors():
            found = Workspace.open(uri)
    except (MmbatchError, OSError) as error:
        return str(error).removeprefix(f"--workspace {uri}: ")
    return "" if found.settings == settings else "another workspace lies there"


def _reason(answer: Any) -> str:
    try:
        return str(ray.get(answer))
    except RayError as error:
        return _said(error).rpartition("Error: ")[2][:200]
