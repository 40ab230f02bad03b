"""A training worker's shard of the rows: a Ray Data stream that reads, decodes and tokenises ahead of the training.

The stream covers all that is left of a run, epoch after epoch, each epoch's train rows and then its fusion rows: one
task reads a unit's contents, others prepare batch after batch, and the order is kept. Memory holds a few batches.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray
import ray.data
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_tensors
from torch import Tensor

from mmbatch.catalog import Catalog
from mmbatch.encoders import Encoder, row_sizes
from mmbatch.pipelines.capacity import processors
from mmbatch.pipelines.cluster import rows_of, stream
from mmbatch.pipelines.ray_failures import RETRIES
from mmbatch.pipelines.resources import LENGTHS, TRAIN_PREPARE, TRAIN_READ
from mmbatch.pipelines.training_plan import SplitRows, TrainingPlan
from mmbatch.schema import Modality
from mmbatch.storage import storage_errors
from mmbatch.training import Augmentation

Part = Literal["train", "fusion"]
PARTS: tuple[Part, ...] = ("train", "fusion")

BLOCK_BYTES = 4 << 20
"""Contents that one task prepares: small, so that the first batch is there soon and several processors share a unit."""

FEW_ROWS = 20_000
"""Texts that are measured sooner in one process, about two seconds' work, than tasks are started for them."""


@dataclass(frozen=True)
class Batch:
    """One worker's rows of one step, as micro-batches."""

    inputs: list[dict[str, Tensor]]
    """Keyword arguments of `Encoder.forward`, on the CPU; no micro-batch where none of the rows can be used."""
    codes: list[Tensor]
    """int64 `[B]` each."""
    weights: list[Tensor]
    """float32 `[B]` each: what a row counts in the step's loss; 1 in all workers together, less unusable rows."""
    product_ids: list[str]
    unusable: int
    """Rows whose image or text could not be prepared."""


@dataclass(frozen=True)
class Shard:
    """What the tasks of one worker know."""

    catalog: Catalog
    """Pinned."""
    encoder: Encoder
    """Without its weights (`without_weights`)."""
    plans: Mapping[Part, Any]
    """References to the `TrainingPlan`s."""
    rank: int
    world: int
    workers: int
    """Of all runs on the cluster, which share its processors."""
    micro_batch: int
    augmentation: Augmentation | None
    class_weights: np.ndarray = field(repr=False)
    """float32 `[C]`."""

    @storage_errors()
    def read(self, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """This worker's rows of a unit, a batch at a time, as an Arrow stream with their codes and weights."""
        plan: TrainingPlan = ray.get(self.plans[item["part"]])
        batches = plan.batches(item["epoch"], item["unit"])[item["skip"] :]
        mine = [rows[self.rank :: self.world] for rows in batches]
        content = self._content(plan.rows, np.concatenate(mine)) if sum(map(len, mine)) else None
        start = 0
        for number, (batch, rows) in enumerate(zip(batches, mine, strict=True)):
            weights = self.class_weights[plan.rows.codes[rows]] / self.class_weights[plan.rows.codes[batch]].sum()
            yield {
                "augment": item["part"] == "train" and self.augmentation is not None,
                "seed": [plan.seed, item["epoch"], item["unit"], item["skip"] + number, self.rank],
                "content": b"" if content is None else _packed(content.slice(start, len(rows))),
                "codes": plan.rows.codes[rows].astype(np.int64).tobytes(),
                "weights": weights.astype(np.float32).tobytes(),
            }
            start += len(rows)

    def _content(self, rows: SplitRows, wanted: np.ndarray) -> pa.Table:
        """Contents of some rows, in their order, read bucket by bucket."""
        order = np.argsort(rows.buckets[wanted], kind="stable")
        by_bucket = wanted[order]
        cuts = np.flatnonzero(np.diff(rows.buckets[by_bucket])) + 1
        parts = [
            self.catalog.content(self.encoder.modality, int(rows.buckets[part[0]]), _hex(rows.hashes[part]))
            for part in np.split(by_bucket, cuts)
        ]
        return pa.concat_tables(parts).take(pa.array(np.argsort(order)))

    def prepare(self, row: dict[str, Any]) -> dict[str, Any]:
        """A batch, ready for the network: a safetensors blob per micro-batch."""
        content = pa.ipc.open_stream(row["content"]).read_all() if row["content"] else None
        if content is None or not content.num_rows:
            return {"blobs": [], "product_ids": [], "unusable": 0}
        seed = int(np.random.SeedSequence(row["seed"]).generate_state(1)[0])
        prepared = self.encoder.prepare(content, augmentation=self.augmentation if row["augment"] else None, seed=seed)
        codes, weights = np.frombuffer(row["codes"], np.int64), np.frombuffer(row["weights"], np.float32)
        blobs = []
        for start in range(0, len(prepared.good), self.micro_batch):
            part = np.arange(start, min(start + self.micro_batch, len(prepared.good)))
            rows = prepared.good[part]
            inputs = {f"in.{name}": array for name, array in self.encoder.collate(prepared.inputs, part).items()}
            arrays = inputs | {"codes": codes[rows], "weights": weights[rows]}
            blobs.append(save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
        ids = content["product_id"].take(pa.array(prepared.good)).to_pylist()
        return {"blobs": blobs, "product_ids": ids, "unusable": content.num_rows - len(prepared.good)}

    def batches(self, *, epochs: range, skip_steps: int) -> Iterator[Batch]:
        """Every batch of these epochs in order, train, then fusion; the first `skip_steps` of all are left out."""
        items = list(self._items(epochs, skip_steps))
        dataset: ray.data.Dataset = ray.data.from_items(items, override_num_blocks=len(items))
        context = dataset.context
        context.execution_options.preserve_order = True
        context.target_max_block_size = BLOCK_BYTES
        free = max(1, (processors()[0] - self.workers) // self.workers)
        dataset = dataset.flat_map(self.read, concurrency=2, max_retries=RETRIES, **TRAIN_READ.options)
        dataset = dataset.map(self.prepare, concurrency=free, max_retries=RETRIES, **TRAIN_PREPARE.options)
        for row in rows_of(dataset, stage="train"):
            yield _unpacked(row)

    def _items(self, epochs: range, skip_steps: int) -> Iterator[dict[str, Any]]:
        plans: dict[Part, TrainingPlan] = {part: ray.get(self.plans[part]) for part in PARTS}
        for epoch in epochs:
            for part in PARTS:
                skip = skip_steps if epoch == epochs.start and part == "train" else 0
                for unit in plans[part].order(epoch):
                    steps = plans[part].steps_of(unit)
                    if skip < steps:
                        yield {"part": part, "epoch": epoch, "unit": unit, "skip": skip}
                    skip = max(0, skip - steps)


def measure_lengths(catalog: Catalog, encoder: Encoder, rows: SplitRows) -> np.ndarray:
    """int64 `[N]`: what each row costs the network, by preparing every text once; ones for photos, all of one size.

    That costs little beside training, and an estimate from the characters is poor: in batches of 32 sorted by it, 13 to
    28 % more padded tokens than sorted by the true number (English and French products, 128 tokens).
    """
    lengths = np.ones(len(rows), np.int64)
    if encoder.modality == "image" or not len(rows):
        return lengths
    starts = np.flatnonzero(np.diff(rows.buckets, prepend=-1)).tolist()
    units = [
        {"bucket": int(rows.buckets[start]), "start": start, "hashes": rows.hashes[start:end].tobytes()}
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)
    ]
    measure = _Lengths(catalog, encoder, encoder.modality)
    here = chain.from_iterable(map(measure, units))
    for found in here if len(rows) <= FEW_ROWS else stream(units, measure, ask=LENGTHS):
        lengths[found["start"] : found["start"] + len(found["lengths"])] = found["lengths"]
    return lengths


@dataclass(frozen=True)
class _Lengths:
    catalog: Catalog
    encoder: Encoder
    modality: Modality

    def __call__(self, unit: dict[str, Any]) -> list[dict[str, Any]]:
        content = self.catalog.content(self.modality, unit["bucket"], _hex(np.frombuffer(unit["hashes"], "S32")))
        return [{"start": unit["start"], "lengths": row_sizes(self.encoder, content)}]


def _hex(hashes: np.ndarray) -> pa.Array:
    return pa.array(hashes.astype(str).tolist(), pa.string())


def _packed(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def _unpacked(row: dict[str, Any]) -> Batch:
    parts = [load_tensors(blob) for blob in row["blobs"]]
    return Batch(
        inputs=[{name[3:]: value for name, value in part.items() if name.startswith("in.")} for part in parts],
        codes=[part["codes"] for part in parts],
        weights=[part["weights"] for part in parts],
        product_ids=list(row["product_ids"]),
        unusable=row["unusable"],
    )
