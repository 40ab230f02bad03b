"""What each stage asks of Ray, in one place: processors, GPUs and memory of one task, actor or worker.

Memory is what such processes were seen to hold by themselves at most (`Pss`, in nights of 100,000 sample products and
in fine-tuning), rounded up: without it Ray starts as many processes as there are processors. Only a cluster is asked
for memory: on one machine Ray divides what happens to be free when it starts, and a small laptop is to be slow rather
than refused.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Any

MIB = 1 << 20
GIB = 1 << 30

LOCAL_OBJECT_STORE = 1 * GIB
"""Bytes of shared memory on a laptop: a few blocks of decoded images."""

LOCAL_MEMORY = 1 * GIB
"""Bytes that Ray may promise on a laptop, where nobody asks for any: by itself it refuses to start where less than 5 %
would be free beside the object store, as on a laptop of 2 GiB."""

LOCAL_SPARE_CPUS = 2
"""Logical CPUs beyond the real ones on a laptop: a training controller or an actor pool must not starve the readers."""

Node = Mapping[str, float]
"""`CPU`, `GPU` and `memory` (bytes) of one machine, as Ray counts them; what it has none of is left out."""


def joined() -> bool:
    """Whether Ray is a cluster that was there before, and not this job's own."""
    return bool(os.environ.get("RAY_ADDRESS"))


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What one task, actor or worker of a stage asks for."""

    stage: str
    name: str = "task"
    """In the plan, in the singular."""
    cpus: float = 1
    gpus: float = 0
    memory: int = 0
    """Bytes, of a cluster."""
    busy: bool = False
    """Keeps a processor busy and holds much: on a laptop, where Ray is told of more processors than there are, no more
    of them than processors."""

    @property
    def resources(self) -> dict[str, float]:
        """As Ray names them."""
        spare = 1 + LOCAL_SPARE_CPUS / (os.cpu_count() or 1) if self.busy and not joined() else 1
        found = {"CPU": self.cpus * spare, "GPU": self.gpus, "memory": self.memory if joined() else 0}
        return {name: amount for name, amount in found.items() if amount}

    @property
    def options(self) -> dict[str, Any]:
        """As options of a task or actor."""
        found = self.resources
        named = {"num_cpus": found.get("CPU", 0), "num_gpus": found.get("GPU", 0)}
        return named | ({"memory": found["memory"]} if "memory" in found else {})

    def describe(self, count: int) -> str:
        """`4 encoders x (1 CPU, 1 GPU, 3 GiB)`."""
        return f"{count} {self.name}{'s' if count != 1 else ''} x {described(self.resources)}"


def on_gpu(ask: Ask, gpus: int | bool) -> Ask:
    """The same with a GPU, where there are any."""
    return replace(ask, gpus=1, memory=ask.memory + GPU_MEMORY) if gpus else ask


TASK_MEMORY = 5 * GIB // 4
"""Of a task that reads a part of a source, or merges, copies, predicts or compares one bucket: 1,090 MiB."""

GPU_MEMORY = 2 * GIB
"""Of a process with a GPU besides: CUDA's own and page-locked batches. Not measured, so generous."""

STAGE = Ask(stage="ingest", name="reader", memory=TASK_MEMORY)
"""Reads, checks and hashes a part of a source."""

MERGE = Ask(stage="merge", memory=TASK_MEMORY)
"""One bucket of the catalog."""

COPY = Ask(stage="copy", memory=TASK_MEMORY)
"""Stored vectors of one bucket, to products of equal content."""

PREPARE = Ask(stage="extract", name="reader", memory=1 * GIB)
"""Reads and decodes a unit of at most 512 images or 1,024 texts: 922 MiB."""

ENCODE = Ask(stage="extract", name="encoder", memory=3 * GIB // 2)
"""An actor with all encoders, one prepared unit and its vectors: 786 MiB with small ones."""

PREDICT = Ask(stage="predict", memory=TASK_MEMORY, busy=True)
"""One bucket's features through head and late fusion."""

COMPARE = Ask(stage="publish", memory=TASK_MEMORY, busy=True)
"""One bucket's staged predictions with the published ones."""

COMPACT = Ask(stage="maintain", memory=TASK_MEMORY)
"""Files of at most 128 MiB are joined, about three times of which is held; a single one of 1 GiB is rare."""

MEASURE = Ask(stage="measure", memory=TASK_MEMORY)
"""One bucket's embeddings, for what drift is measured by."""

WORDS = Ask(stage="words", memory=TASK_MEMORY)
"""Counts the words of one bucket's texts."""

LENGTHS = Ask(stage="lengths", cpus=0.5)
"""Tokenises texts to measure them: two on a processor, as each also waits for its bucket."""

SERVE = Ask(stage="serve", name="replica", memory=3 * GIB // 2)
"""All models, and the batches that go through them: 1.1 GiB with small ones."""

STRESS = Ask(stage="stress", memory=3 * GIB // 2)
"""One encoder, and one bucket's vectors and texts."""

FIT = Ask(stage="fit", memory=3 * GIB)
"""A head, a late fusion or suspected labels, in one process that is not the driver's: 673 MiB with few rows, 2.3 GiB
more for the probabilities that are held at most."""

TRAIN = Ask(stage="train", name="worker", memory=3 * GIB)
"""A worker of Ray Train: an encoder with gradients and the optimiser's state, and the next batches: 1,860 MiB."""

TRAIN_READ = Ask(stage="train", name="reader", cpus=0.05)
"""Reserved by a task that reads for a training worker: nearly nothing, or the tasks of one worker, waiting for it to
take their batches while it waits for the gradients of another, could keep that other's tasks from starting.
`concurrency` is what bounds them."""

TRAIN_PREPARE = Ask(stage="train", name="reader", cpus=0.1)
"""The same of a task that decodes or tokenises a batch."""

TRIAL = Ask(stage="sweep", name="trial", cpus=0.01)
"""Reserved by the process that waits for a trial's workers."""

WATCH = Ask(stage="watch", name="actor", cpus=0)
"""A queue, who counts attempts, or the check that a machine can read the workspace: nothing to compute."""

ACTOR_CONTENTS = 500
"""Contents for which one more encoding actor is started: it takes about 8 processor seconds until it encodes."""

READERS = 0.2
"""Of a cluster's processors, those which read and prepare where the others encode: of 1,000 products' 36.6 processor
seconds 6.7 (`benchmarks/simulation/rates.py`). On a laptop half of the logical ones, which leaves all real ones to
encoders."""


def actors_for(contents: int, *, cpus: int, gpus: int, remote: bool) -> int:
    """Encoding actors that so many contents are worth, of so many that there is room for; a reader always has one."""
    most = gpus or (cpus - max(1, ceil(cpus * READERS)) if remote else cpus // 2)
    return max(1, min(most, contents // ACTOR_CONTENTS))


def room(nodes: Iterable[Node], ask: Ask) -> int:
    """How many of these fit on the machines at once."""
    return sum(_fitting(node, ask) for node in nodes)


def without(nodes: Iterable[Node], ask: Ask, count: int) -> list[Node]:
    """What is left of the machines when so many of these are placed."""
    left: list[Node] = []
    for node in nodes:
        here = min(count, _fitting(node, ask))
        left.append({name: amount - here * ask.resources.get(name, 0) for name, amount in node.items()})
        count -= here
    return left


def fits(nodes: Sequence[Node], wanted: Sequence[tuple[Ask, int]]) -> bool:
    """Whether all of these fit at once, those that are named first placed first."""
    for ask, count in wanted:
        if room(nodes, ask) < count:
            return False
        nodes = without(nodes, ask, count)
    return True


def total(nodes: Iterable[Node]) -> dict[str, float]:
    """Of all machines together."""
    found = {"CPU": 0.0, "GPU": 0.0, "memory": 0.0}
    for node in nodes:
        found = {name: amount + node.get(name, 0) for name, amount in found.items()}
    return found


def described(resources: Mapping[str, float]) -> str:
    """`1 CPU`, `(1 CPU, 1 GPU, 3 GiB)`."""
    cpus, gpus, memory = (resources.get(name, 0) for name in ("CPU", "GPU", "memory"))
    parts = [f"{cpus:g} CPU{'s' if cpus > 1 else ''}"]
    parts += [f"{gpus:g} GPU{'s' if gpus > 1 else ''}"] if gpus else []
    parts += [f"{memory / GIB:.3g} GiB"] if memory else []
    return f"({', '.join(parts)})" if len(parts) > 1 else parts[0]


def _fitting(node: Node, ask: Ask) -> int:
    return min(floor((node.get(name, 0) + 1e-9) / amount) for name, amount in ask.resources.items())
