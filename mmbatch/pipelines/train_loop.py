"""What each Ray Train worker runs: one loop for every encoder."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import Checkpoint
from ray.train.collective import broadcast_from_rank_zero
from ray.util.queue import Queue
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmbatch.catalog import Catalog
from mmbatch.encoders import Encoder, build_encoder, without_weights
from mmbatch.encoders.foreign import load_foreign
from mmbatch.encoders.mixing import Mixing
from mmbatch.errors import InputError
from mmbatch.failpoints import reach
from mmbatch.fusion.levels import Levels
from mmbatch.metrics import f1_scores
from mmbatch.pipelines.capacity import threads_here
from mmbatch.pipelines.classifier import Classifier
from mmbatch.pipelines.optimisation import optimizer_of, rates_of, schedule_of
from mmbatch.pipelines.training_plan import SplitRows, TrainingPlan
from mmbatch.pipelines.training_rows import PARTS, Batch, Part, Shard, measure_lengths
from mmbatch.pipelines.training_state import Progress, Trained, seed_step
from mmbatch.progress import Progress as Meter
from mmbatch.training import Training

if TYPE_CHECKING:
    from mmbatch.encoders.text import TransformersText

UNFINISHED = -1.0
"""Score of a checkpoint within an epoch: it is there to go on from, and never the best."""

EARLIER = 1e-9
"""Taken off the score for each epoch: of equal ones the earliest is the best."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, on what, and how: the same for every worker."""

    catalog: Catalog
    """Pinned."""
    seed: int
    name: str
    kind: str
    arguments: Mapping[str, Any]
    weights: str | None
    start_from: str | None
    """File of weights (`load_foreign`) that replace the pretrained ones."""
    training: Training
    recipe: str
    """Digest of all of the above and of the rows."""
    rows: Mapping[Part, Any]
    """References to `SplitRows`."""
    levels: Levels
    """What the classification layer learns."""
    micro_batch: int
    """Rows that go through the network at once, at most."""
    checkpoint_steps: int
    """Steps between two checkpoints within an epoch."""
    at_once: int = 1
    """Runs of training that share the cluster's processors."""
    lines: Queue
    """Lines for the person who waits."""
    refusals: Queue
    """Why training cannot go on, whoever tries: a worker that is started again gives up at once."""


def train_loop(config: dict[str, Any]) -> None:
    """Fine-tune one encoder and report every epoch's scores with a checkpoint; `config` holds `task` and `threads`.

    `threads` are those of torch on a machine, shared by its workers; None: as many as Ray gives it processors.
    """
    task: Task = config["task"]
    if not task.refusals.empty():
        return  # started again after one refused: the driver tells why
    context = ray.train.get_context()
    torch.set_num_threads(threads_here(config["threads"], context.get_local_world_size()))
    try:
        _Loop(task).run()
    except (InputError, RuntimeError) as error:
        reason = _refusal(task, error)
        if reason is None:
            raise
        task.refusals.put(reason)
        if context.get_world_size() > 1:
            raise  # the other workers wait for this one's gradients


def _refusal(task: Task, error: Exception) -> str | None:
    """Why nobody could go on, in one line; None for an error after which a new worker may."""
    if isinstance(error, InputError):
        return str(error)
    from accelerate.utils.memory import should_reduce_batch_size

    if should_reduce_batch_size(error):
        return (
            f"{task.name}: too little memory for {task.micro_batch} products at once: lower --micro-batch (the step"
            f" stays as large). {str(error).partition(chr(10))[0]}"
        )
    return None


class _Loop:
    """One worker's part in training."""

    def __init__(self, task: Task) -> None:
        context = ray.train.get_context()
        self.task, self.training = task, task.training
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        torch.manual_seed(task.seed)
        encoder = self._new_encoder()
        self.module = Classifier(
            encoder, sum(task.levels.classes), dropout=self.training.dropout, activation=self.training.activation
        )
        self.module.freeze(prefixes=self.training.frozen, batch_norm=self.training.frozen_batch_norm)
        self.model = ray.train.torch.prepare_model(self.module)
        self.network: nn.Module = torch.compile(self.model) if self.training.compile else self.model  # type: ignore[assignment]
        self.plans = _plans(task, without_weights(encoder), self.rank)
        optimizer = optimizer_of(self.module, self.training, rates_of(self.module, self.training))
        steps = self.plans["train"].steps * self.training.epochs
        self.mixing = Mixing(mixup=self.training.mixup, cutmix=self.training.cutmix, classes=len(task.levels.codes))
        self.trained = Trained(self.module, optimizer, schedule_of(optimizer, self.training, steps=steps))
        self.shard = self._shard(encoder)
        self.progress = self._resumed()
        self.meter = self._meter()

    def _new_encoder(self) -> Encoder:
        """As the recipe asks for it, before any step."""
        task = self.task
        encoder = build_encoder(task.kind, weights=task.weights, seed=task.seed, **task.arguments)
        if task.start_from:
            fit = load_foreign(encoder, task.start_from)
            if not self.rank:
                task.lines.put(f"finetune   {task.name}: {fit.describe()}")
        if self.training.lora:
            from mmbatch.encoders.lora import add_lora

            add_lora(_of_transformers(encoder, task.name), self.training.lora)
        return encoder

    def _shard(self, encoder: Encoder) -> Shard:
        rows, balanced = self.plans["train"].rows, self.training.class_weights == "balanced"
        classes = len(self.task.levels.codes)
        return Shard(
            catalog=self.task.catalog,
            encoder=without_weights(encoder),
            plans={part: ray.put(plan) for part, plan in self.plans.items()},
            rank=self.rank,
            world=self.world,
            workers=self.world * self.task.at_once,
            micro_batch=self.task.micro_batch,
            augmentation=self.training.augmentation,
            class_weights=rows.class_weights(classes) if balanced else np.ones(classes, np.float32),
        )

    def _resumed(self) -> Progress:
        """Where the last checkpoint was, or the beginning."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return Progress(recipe=self.task.recipe)
        with checkpoint.as_directory() as folder:
            progress = self.trained.load(Path(folder), recipe=self.task.recipe)
        if self.rank:
            progress.loss, progress.unusable = 0.0, 0  # the first worker holds the sums of all
        return progress

    def run(self) -> None:
        """Train until the last epoch, or until the score has not risen for as long as the recipe is patient."""
        done = self.progress
        epochs = range(done.epoch, self.training.epochs)
        if not epochs or done.stalled(self.training.patience):
            return
        batches = self.shard.batches(epochs=epochs, skip_steps=done.step)
        if not self.rank and (done.epoch or done.step):
            batches = chain([next(batches)], batches)  # it is said when there is something to go on with
            where = f"epoch {done.epoch + 1}, step {done.step + 1}"
            self.task.lines.put(f"finetune   {self.task.name}: goes on at {where}")
        for epoch in epochs:
            self._train_epoch(batches, epoch)
            self._finish_epoch(self._evaluate(batches), epoch)
            if done.stalled(self.training.patience):
                return

    def _train_epoch(self, batches: Iterator[Batch], epoch: int) -> None:
        self.network.train()
        done, steps = self.progress, self.plans["train"].steps
        self.began, self.first_step, self.waited = time.monotonic(), done.step, 0.0
        pending: tuple[int, Batch, Tensor] | None = None
        for step in range(done.step, steps):
            batch = self._next(batches)
            reach("step")
            seed_step(self.task.seed, epoch=epoch, step=step, rank=self.rank)
            loss = self._step(batch)
            self._count(pending)  # of the step before: reading this one's loss would wait for the device
            pending = (step, batch, loss)
            done.step, done.unusable = step + 1, done.unusable + batch.unusable
            self.meter.advance(1)
            if done.step % self.task.checkpoint_steps == 0 and done.step < steps:
                self._count(pending)
                pending = None
                self._checkpoint()
        self._count(pending)
        self.seconds = time.monotonic() - self.began

    def _meter(self) -> Meter:
        steps = self.plans["train"].steps
        return Meter(
            f"finetune   {self.task.name}",
            total=steps * self.training.epochs,
            unit="steps",
            done=self.progress.epoch * steps + self.progress.step,
            tell=_silent if self.rank else self.task.lines.put,
        )

    def _next(self, batches: Iterator[Batch]) -> Batch:
        clock = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - clock
        return batch

    def _step(self, batch: Batch) -> Tensor:
        """One optimiser step; this worker's share of its loss."""
        self.trained.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        if not batch.inputs:
            self.network({}).backward()
        for number, (inputs, codes, weights) in enumerate(zip(batch.inputs, batch.codes, batch.weights, strict=True)):
            last = number == len(batch.inputs) - 1
            unsynced = (
                nullcontext() if last or self.world == 1 else cast("DistributedDataParallel", self.model).no_sync()
            )
            with unsynced:
                loss = self._loss(self._moved(inputs), codes.to(self.device), weights.to(self.device))
                (loss * self.world).backward()  # gradients of all workers are averaged, and the weights add up to 1
            total += loss.detach()
        if self.training.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.training.clip)
        self.trained.optimizer.step()
        self.trained.schedule.step()
        return total

    def _moved(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.device.type != "cuda":
            return dict(inputs)
        return {name: value.pin_memory().to(self.device, non_blocking=True) for name, value in inputs.items()}

    def _loss(self, inputs: dict[str, Tensor], codes: Tensor, weights: Tensor) -> Tensor:
        inputs, targets = self.mixing(inputs, codes)
        with self._autocast():
            logits = self.network(inputs)
        losses = self.task.levels.losses(logits, targets, label_smoothing=self.training.label_smoothing)
        return (losses * weights).sum()

    def _autocast(self) -> torch.autocast:
        """bfloat16 on a GPU that has it: as wide a range as float32, so that no gradient has to be scaled."""
        able = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=able)

    def _count(self, pending: tuple[int, Batch, Tensor] | None) -> None:
        """Add a step's loss to the epoch's; `InputError` names the step and the rows where it is no number."""
        if pending is None:
            return
        step, batch, loss = pending
        value = loss.item()
        if not np.isfinite(value):
            raise InputError(
                f"{self.task.name}: loss is {value} in epoch {self.progress.epoch + 1}, step {step + 1}, products"
                f" {_some(batch.product_ids)}: lower learning_rate (now {self.training.learning_rate:g})"
            )
        self.progress.loss += value

    def _evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Scores on all fusion rows; each worker predicts its share."""
        self.network.eval()
        gold, predicted = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        with torch.inference_mode(), self._autocast():
            for _ in range(self.plans["fusion"].steps):
                batch = self._next(batches)
                for inputs, codes in zip(batch.inputs, batch.codes, strict=True):
                    predicted.append(self.task.levels.best(self.module(self._moved(inputs))))
                    gold.append(codes.numpy())
        golds, predictions = self._gathered(np.concatenate(gold)), self._gathered(np.concatenate(predicted))
        if not len(golds):
            raise InputError(f"{self.task.name}: none of the fusion rows can be read, so no epoch can be chosen")
        scores = f1_scores(golds, predictions)
        return {"macro_f1": scores.macro, "micro_f1": scores.micro, "rows": scores.rows}

    def _gathered(self, mine: np.ndarray) -> np.ndarray:
        """The arrays of all workers, one after the other."""
        if self.world == 1:
            return mine
        parts: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(parts, mine)
        return np.concatenate(parts)

    def _finish_epoch(self, scores: dict[str, float], epoch: int) -> None:
        done, steps = self.progress, self.plans["train"].steps
        loss, unusable = self._gathered(np.array([[done.loss, done.unusable]])).sum(axis=0).tolist()
        entry = scores | {
            "epoch": epoch,
            "loss": loss / steps,
            "learning_rate": max(group["lr"] for group in self.trained.optimizer.param_groups),
            "unusable": unusable,
            "seconds": self.seconds,
            "steps": steps - self.first_step,
            "waited_s": self.waited,
        }
        done.history.append(entry)
        done.epoch, done.step, done.loss, done.unusable = epoch + 1, 0, 0.0, 0
        self._report(entry | {"score": entry["macro_f1"] - EARLIER * epoch}, with_encoder=True)
        if not self.rank:
            self.task.lines.put(
                f"finetune   {self.task.name}: epoch {epoch + 1} / {self.training.epochs}"
                f"  loss {entry['loss']:.3f}  macro-F1 {entry['macro_f1']:.4f} on the fusion rows"
                + (f"  {unusable:.0f} products could not be read" if unusable else "")
            )

    def _checkpoint(self) -> None:
        """Keep the state within an epoch."""
        done = self.progress
        total = self._gathered(np.array([[done.loss, done.unusable]])).sum(axis=0).tolist()
        done.loss, done.unusable = (total[0], int(total[1])) if not self.rank else (0.0, 0)
        self._report({"score": UNFINISHED, "epoch": done.epoch, "step": done.step}, with_encoder=False)

    def _report(self, metrics: dict[str, Any], *, with_encoder: bool) -> None:
        """Every rank reports; rank 0 brings the checkpoint."""
        if self.rank:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self.trained.save(folder, self.progress)
            if with_encoder:
                self._plain_encoder().save(folder)
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    def _plain_encoder(self) -> Encoder:
        """The encoder, adapters merged into the weights that they stand on."""
        if not self.training.lora:
            return self.module.encoder
        from mmbatch.encoders.lora import merge_lora

        encoder = _of_transformers(deepcopy(self.module.encoder), self.task.name)
        merge_lora(encoder)
        return encoder


def _plans(task: Task, encoder: Encoder, rank: int) -> dict[Part, TrainingPlan]:
    """The order of both splits' rows; the first worker measures their lengths for all."""
    plans: dict[Part, TrainingPlan] = {}
    for part in PARTS:
        rows: SplitRows = ray.get(task.rows[part])
        found = [ray.put(measure_lengths(task.catalog, encoder, rows))] if rank == 0 else None
        plans[part] = TrainingPlan(
            rows=rows,
            lengths=ray.get(cast("list[Any]", broadcast_from_rank_zero(found))[0]),
            batch=task.training.batch_size,
            seed=task.seed,
            shuffled=part == "train",
            sampling=task.training.sampling if part == "train" else "natural",
        )
    return plans


def _of_transformers(encoder: Encoder, name: str) -> "TransformersText":
    from mmbatch.encoders.text import TransformersText

    if not isinstance(encoder, TransformersText):
        raise InputError(f"{name}: lora adapts transformers alone, not an encoder of kind {encoder.kind}")
    return encoder


def _silent(_: str) -> None:
    """The first worker speaks for all."""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
