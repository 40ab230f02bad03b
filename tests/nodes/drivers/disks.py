"""A driver whose tasks, one on each node, write files, and then look for what the others have written.

usage: disks.py FOLDER...   prints JSON: node's address -> `wrote`, and `sees`, files of other nodes
"""

import json
import sys
import tempfile
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@ray.remote(num_cpus=0)
def write(name: str, folders: list[str]) -> list[str]:
    """The files of this name that could be written."""
    wrote = []
    for folder in [*folders, tempfile.gettempdir(), str(Path.home()), str(Path.cwd()), "/dev/shm", "/var/tmp"]:
        try:
            Path(folder, name).write_text(name)
        except OSError:
            continue
        wrote.append(str(Path(folder, name)))
    return wrote


@ray.remote(num_cpus=0)
def seen(files: list[str]) -> list[str]:
    return [file for file in files if Path(file).exists()]


def main() -> None:
    ray.init()
    nodes = {node["NodeManagerAddress"]: NodeAffinitySchedulingStrategy(node["NodeID"], False) for node in ray.nodes()}
    wrote = {
        at: ray.get(write.options(scheduling_strategy=there).remote(at, sys.argv[1:])) for at, there in nodes.items()
    }
    found = {}
    for at, there in nodes.items():
        others = [file for other, files in wrote.items() if other != at for file in files]
        found[at] = {"wrote": wrote[at], "sees": ray.get(seen.options(scheduling_strategy=there).remote(others))}
    print(f"found {json.dumps(found)}", flush=True)  # noqa: T201


main()
