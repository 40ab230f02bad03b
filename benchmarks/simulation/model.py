"""How long each stage of a run takes, and what binds it.

A stage is a sum of parts that wait for each other (`serial`: starting, planning, what only the driver does) and of the
busiest of the resources that work side by side (`together`: the driver, cores, GPUs, the object store). The name of a
part begins with its resource, and parts of one resource add up. What binds is the longest part of all that count.
Numbers of buckets (B) and of files by table are those that the code makes.

Where a task opens a table it reads the whole log, so tasks of B buckets read of the order of B squared file entries.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.simulation.rates import gpu_seconds, rate
from benchmarks.simulation.shapes import Load, Shape
from mmbatch.pipelines.delivery import COMMIT_FILES, COMMIT_S
from mmbatch.pipelines.resources import LOCAL_SPARE_CPUS, actors_for
from mmbatch.pipelines.staging import STAGE_BYTES
from mmbatch.stale import UNIT_CONTENTS
from mmbatch.workspace import buckets_for

READERS = 4
"""Buckets that planning reads at the same time (`mmbatch.stale`)."""

VECTOR_BYTES = 2 * (384 + 1280)
"""Of a product: float16 of MiniLM and of EfficientNet-Lite0."""


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What a stage asks of the object store."""

    puts: float = 0.0
    gets: float = 0.0
    size: float = 0.0
    """Bytes, both ways."""

    def seconds(self, shape: Shape) -> dict[str, float]:
        """At the limits of one prefix and of the nodes' networks; none on a disk."""
        if not shape.remote:
            return {}
        requests = max(self.puts / rate("put limit"), self.gets / rate("get limit"))
        return {"store requests": requests, "store bandwidth": self.size / (shape.nodes * shape.gb_per_s * 1e9)}

    def dollars(self, shape: Shape) -> float:
        """What the requests cost; nothing on a disk."""
        return self.puts * rate("put price") + self.gets * rate("get price") if shape.remote else 0.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Seconds of one stage by what takes them, and what it asks of the object store."""

    name: str
    serial: Mapping[str, float]
    together: Mapping[str, float] = field(default_factory=dict)
    store: Requests = field(default_factory=Requests)

    @property
    def seconds(self) -> float:
        """Of the whole stage."""
        return sum(self.serial.values()) + sum(self._busiest().values())

    @property
    def binds(self) -> str:
        """The part that takes the most of them."""
        parts = {**self.serial, **self._busiest()}
        return max(parts, key=parts.__getitem__)

    def _busiest(self) -> dict[str, float]:
        resources: dict[str, dict[str, float]] = {}
        for part, seconds in self.together.items():
            resources.setdefault(part.partition(":")[0], {})[part] = seconds
        return max(resources.values(), key=lambda parts: sum(parts.values()), default={})


def buckets(load: Load) -> int:
    """B."""
    return buckets_for(load.products)


def touched(load: Load) -> float:
    """Buckets that have a changed product, on average, products being spread by a hash."""
    count = buckets(load)
    return count * -math.expm1(-load.rows / count)


def units(load: Load, modality: str) -> float:
    """Units of work of a modality: at most so many contents, all of one bucket; each leaves one file an encoder."""
    there = touched(load)
    size = UNIT_CONTENTS["image" if modality == "image" else "text"]
    return there * math.ceil(load.rows / there / size) if there >= 1 else 1.0


def modalities(load: Load) -> tuple[str, ...]:
    """Of the encoders."""
    return ("text", "image") if load.images else ("text",)


def latency(shape: Shape) -> float:
    """Seconds of a request."""
    return rate("latency") if shape.remote else 0.0


def _slots(shape: Shape) -> int:
    """Tasks that Ray runs at once."""
    return shape.cores if shape.remote else shape.cores + LOCAL_SPARE_CPUS


def _start(stage: str, shape: Shape) -> float:
    """Seconds of the driver and of Ray's own processes until the first task runs, on more than two cores as on two."""
    return rate(f"{stage} start") + rate(f"{stage} start, shared") / min(shape.cores, 2)


def logs(shape: Shape, files: float, tables: int) -> tuple[float, float]:
    """Core seconds and waiting, in seconds, of opening some tables that have so many files together."""
    return files * rate("snapshot"), tables * rate("open requests") * latency(shape)


def ingest(load: Load, shape: Shape) -> Stage:
    """A source's rows: checked and staged, merged bucket by bucket, committed at once, splits drawn by the driver.

    Every merge of a bucket reads the footer of every staged file, which has a row group for each bucket.
    """
    kind = "image" if load.images else "text"
    count, there = buckets(load), touched(load)
    size = load.rows * (load.row_bytes + (load.image_bytes if load.inline else 0))
    staged = max(1.0, size / STAGE_BYTES)
    footers, groups = count * staged, min(count, load.rows / staged)
    trips = footers * rate("file requests")
    opened, waited = logs(shape, 2 * count if load.changed < 1 else 0, 3)
    fetched = load.rows if load.images and not load.inline else 0.0
    workers = min(_slots(shape), math.ceil(load.rows / load.part_rows))
    store = Requests(
        puts=staged + 2 * there, gets=trips + 9 * count + fetched, size=2 * size + fetched * load.image_bytes
    )
    return Stage(
        name="ingest",
        serial={
            "start": _start("ingest", shape) + workers * rate("worker") / shape.cores,
            "driver: splits": load.products * load.labelled * rate("split"),
            "driver: commits": 3 * rate("commit requests") * latency(shape) + 2 * there * rate("commit"),
        },
        together={
            "cores: rows": load.rows * (rate(f"stage {kind}") + rate(f"merge {kind}")) / shape.cores,
            "cores: staged footers": footers * groups * rate("staged footer") / shape.cores,
            "cores: table logs": count * (opened + waited) / shape.cores,
            **store.seconds(shape),
        },
        store=store,
    )


def extract(load: Load, shape: Shape) -> Stage:
    """What is stale through the encoders: planned and committed by the driver, prepared and encoded by tasks."""
    count, kinds = buckets(load), modalities(load)
    written = {kind: units(load, kind) for kind in kinds}
    held = {kind: 0.0 if load.changed == 1 else float(count) for kind in kinds}  # files before, one a bucket
    encoding = _encoding(load, shape, sum(written.values()))
    fetched = load.rows if load.images else 0.0
    planned = len(kinds) * count * (4 if load.changed < 1 else 1)
    store = Requests(
        puts=sum(written.values()) * (1 + 1 / COMMIT_FILES),
        gets=planned + 4 * sum(written.values()) + fetched,
        size=fetched * load.image_bytes,
    )
    started = _start("extract", shape) if load.cheapest else rate("encoder start")
    return Stage(
        name="extract",
        serial={"start": started, "driver: planning": _planning(load, shape)},
        together={
            **encoding,
            "driver: commits": _commits(shape, written, held, max(encoding.values())),
            "driver: units": sum(written.values()) * rate("dispatch"),
            **store.seconds(shape),
        },
        store=store,
    )


def _planning(load: Load, shape: Shape) -> float:
    """Seconds of finding what is stale; of a night also which bucket holds a content, one bucket after another."""
    kinds, trips = len(modalities(load)), rate("file requests") * latency(shape)
    reading = load.products * rate("stale") + load.rows * rate("sorting")
    if load.changed == 1:
        return kinds * (reading + buckets(load) * trips / READERS)
    return kinds * (reading + buckets(load) * (2 * trips / READERS + trips))


def _encoding(load: Load, shape: Shape, units: float) -> dict[str, float]:
    """Seconds of the two stages of units: CPU tasks, and a fixed pool of actors of one core each."""
    slots = _slots(shape)
    contents = int(load.rows * len(modalities(load)))
    actors = actors_for(contents, cpus=slots, gpus=shape.gpus, remote=shape.remote)
    overhead = units * rate("unit")
    if load.cheapest:
        return {"encode cores": (load.rows * rate("encode cheapest") + overhead) / shape.cores}
    prepared = load.rows * (rate("read") + rate("prepare")) + overhead
    decode = prepared / max(slots - actors, 1)
    if shape.gpu:
        return {"decode cores": decode, "GPU": load.rows * gpu_seconds(shape.gpu) / actors}
    network = load.rows * rate("encode")
    pool = max(network / min(actors, shape.cores), (prepared + network) / shape.cores)
    return {"decode cores": decode, "encode cores": pool}


def _commits(shape: Shape, written: Mapping[str, float], held: Mapping[str, float], busy: float) -> float:
    """Driver seconds of committing files as they come; each commit reads the log of its table anew."""
    seconds = 0.0
    for kind, files in written.items():
        number = max(files / COMMIT_FILES, min(files, busy / COMMIT_S))
        each = rate("commit alone") + (held[kind] + files / 2) * rate("commit")
        seconds += number * (each + rate("commit requests") * latency(shape))
    return seconds


def train_head(load: Load) -> Stage:
    """One fusion head by one worker; it takes the same time on every shape."""
    rows = min(load.products * load.labelled, rate("head rows"))
    return Stage(
        name="train head",
        serial={"start": rate("ray start"), "training worker": rows * rate("head epochs") * rate("train head")},
    )


def predict(load: Load, shape: Shape, *, fresh: bool) -> Stage:
    """What is outdated, found by the driver bucket by bucket, then predicted by a task a bucket.

    `fresh`: features lie in the files that extraction has just written; else in one file a bucket, as maintenance
    leaves them.
    """
    count, there, kinds = buckets(load), touched(load), modalities(load)
    published = 0.0 if fresh else float(count)
    features = sum(units(load, kind) if fresh else float(count) for kind in kinds)
    planned, waiting = logs(shape, count + published, 2)
    reads = 2 * rate("file requests") * latency(shape)
    opened, waited = logs(shape, count + 2 * published + features, 4 + len(kinds))
    store = Requests(
        puts=there,
        gets=(2 * count + (4 + len(kinds)) * there) * rate("open requests") + 2 * features,
        size=load.rows * VECTOR_BYTES,
    )
    return Stage(
        name="predict",
        serial={
            "start": rate("planning start") + rate("ray start"),
            "driver: planning": load.products * rate("outdated") + count * (planned + waiting + reads),
        },
        together={
            "cores: predict": load.rows * rate("predict") / shape.cores,
            "cores: table logs": there * (opened + waited) / shape.cores,
            **store.seconds(shape),
        },
        store=store,
    )


def publish(load: Load, shape: Shape, *, fresh: bool) -> Stage:
    """All buckets, as they are and as they are to be, compared by tasks; one commit by the driver."""
    count, there = buckets(load), touched(load)
    opened, waited = logs(shape, 2 * count + (0 if fresh else count), 3)
    store = Requests(
        puts=2 * there,
        gets=count * (3 * rate("open requests") + 2 * rate("file requests")),
        size=load.products * load.row_bytes,
    )
    return Stage(
        name="publish",
        serial={"driver: commits": 3 * rate("commit requests") * latency(shape) + 3 * there * rate("commit")},
        together={
            "cores: publish": load.products * rate("publish") / shape.cores,
            "cores: table logs": count * (opened + waited) / shape.cores,
            **store.seconds(shape),
        },
        store=store,
    )


def first_run(products: int, shape: Shape) -> list[Stage]:
    """A catalog from its source to its first publication; the encoders are there."""
    load = Load(products=products, inline=not shape.remote)
    return [
        ingest(load, shape),
        extract(load, shape),
        train_head(load),
        predict(load, shape, fresh=True),
        publish(load, shape, fresh=True),
    ]


def night(products: int, shape: Shape) -> list[Stage]:
    """One product in a hundred new or edited, told by a change feed; tables as maintenance leaves them."""
    load = Load(products=products, changed=0.01, inline=not shape.remote)
    return [
        ingest(load, shape),
        extract(load, shape),
        predict(load, shape, fresh=False),
        publish(load, shape, fresh=False),
    ]


def new_head(products: int, shape: Shape) -> list[Stage]:
    """Another head, and the whole catalog predicted by it from stored features."""
    load = Load(products=products, inline=not shape.remote)
    return [
        train_head(load),
        predict(load, shape, fresh=False),
        publish(load, shape, fresh=False),
    ]


RUNS = {"first run": first_run, "night": night, "new head": new_head}
"""By name."""


def seconds(stages: list[Stage]) -> float:
    """Of a run."""
    return sum(stage.seconds for stage in stages)


def longest(stages: list[Stage]) -> tuple[str, str]:
    """The stage that takes longest, and what binds it."""
    stage = max(stages, key=lambda found: found.seconds)
    return stage.name, stage.binds


def dollars(stages: list[Stage], shape: Shape) -> float:
    """Of a run: nodes by the second, requests by the number; storage is not in it."""
    requests = sum(stage.store.dollars(shape) for stage in stages)
    return seconds(stages) / 3600 * shape.nodes * shape.price + requests
