"""A driver that works, puts lines and counts attempts on every worker node, and goes on when all of them are gone."""

import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mmbatch.pipelines.cluster import begun, count_attempts, lines_from_workers, start_ray
from mmbatch.progress import say


@ray.remote(num_cpus=0)
def begin(attempts: Any, unit: str) -> int:
    return begun(attempts, unit)


@ray.remote(num_cpus=0, max_retries=1)
def work(lines: Any, first: str) -> str:
    """On which node it is done; on the first it does not end."""
    lines.put("at work")
    while (here := ray.get_runtime_context().get_node_id()) == first:
        time.sleep(1)
    return here


def main() -> None:
    start_ray()
    here = ray.get_runtime_context().get_node_id()
    workers = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    attempts = count_attempts()
    with lines_from_workers() as lines:
        for unit, machines in {"one": workers[:1], "two": workers}.items():
            for machine in machines:
                there = NodeAffinitySchedulingStrategy(machine, soft=False)
                ray.get(begin.options(scheduling_strategy=there).remote(attempts, unit))
        first = NodeAffinitySchedulingStrategy(workers[0], soft=True)
        working = work.options(scheduling_strategy=first).remote(lines, workers[0])
        say("begun on every worker")
        while any(node["Alive"] for node in ray.nodes() if node["NodeID"] != here):
            time.sleep(0.1)
        lines.put("a line, when all workers are gone")
        begun(attempts, "here")
        found = [begun(attempts, unit) for unit in ("one", "two", "here")]
        say(f"attempts: {found[0]} after a lost machine, {found[1]} after two, {found[2]} on this one")
        assert ray.get(working) == here
        say("done here")


main()
