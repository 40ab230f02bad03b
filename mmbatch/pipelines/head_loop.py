"""What trains fusion heads: one loop for a single process and for the workers of Ray Train.

Every step adds up the gradients of all workers by hand, divided by the products that all of them had: a worker whose
units are read sooner goes on with none, so that uneven shares neither hang nor count twice.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from mmbatch.errors import InputError
from mmbatch.failpoints import reach
from mmbatch.fusion.head import FusionHead, build_head
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.taxonomy import Scores
from mmbatch.fusion.taxonomy_paths import Ints
from mmbatch.pipelines.dealing import Batch, Deal
from mmbatch.pipelines.optimisation import optimizer_of, schedule_of
from mmbatch.pipelines.training_state import seed_step
from mmbatch.progress import Progress, say
from mmbatch.training import HeadKind, HeadRecipe


@dataclass
class Trained:
    """The best epoch of one kind of head so far, and where its training stands; plain data, for checkpoints."""

    kind: HeadKind
    epoch: int = 0
    """The next one."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the best epoch."""
    log_loss: float = float("inf")
    """Of the best epoch on the fusion rows, in nats."""
    best_epoch: int = -1
    state: dict[str, Any] = field(default_factory=dict)
    """Of the head, the optimiser and the schedule after the last epoch."""


@dataclass(frozen=True)
class HeadLoop:
    """One worker's part in training one head."""

    rows: Deal
    recipe: HeadRecipe
    levels: Levels
    inputs: Mapping[str, Any]
    """Arguments of `build_head` that the encoders and the categories decide."""
    seed: int
    worker: int
    device: torch.device
    tell: Callable[[str], None] = say
    """Gets the lines for the person who waits."""

    def run(self, done: Trained, keep: Callable[[Trained], None]) -> FusionHead:
        """Train from `done` on, handing it to `keep` after every epoch; the best epoch's head, on the CPU.

        Raises:
            InputError: the inputs do not suit the kind of head, or its loss is no number.
        """
        torch.manual_seed(self.seed)
        head = build_head(**self.inputs, **self.recipe.arguments(done.kind)).to(self.device)
        optimizer = optimizer_of(
            head, self.recipe, dict.fromkeys(dict(head.named_parameters()), self.recipe.learning_rate)
        )
        steps = sum(self._steps(epoch) for epoch in range(self.recipe.epochs))
        schedule = schedule_of(optimizer, self.recipe, steps=steps)
        parts: dict[str, Any] = {"head": head, "optimizer": optimizer, "schedule": schedule}
        for name, state in done.state.items():
            parts[name].load_state_dict(state)
        before = sum(self._steps(epoch) for epoch in range(done.epoch))
        meter = Progress(f"head       {done.kind}", total=steps, unit="steps", done=before, tell=self.tell)
        for epoch in range(done.epoch, self.recipe.epochs):
            seed_step(self.seed, epoch=epoch, step=0, rank=self.worker)
            self._train(head, optimizer, schedule, epoch, meter)
            self._judge(head, done, epoch)
            done.state = {name: part.state_dict() for name, part in parts.items()}
            keep(done)
            reach("head.epoch")
        head.load_state_dict(done.best)
        return head.cpu().eval()

    def fusion_scores(self, head: FusionHead) -> tuple[Ints, Ints]:
        """Class codes of all fusion rows and what the head says of them, int64 `[N]` each."""
        gold, said = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for log_probs, codes in self._scored(head):
            gold.append(codes)
            said.append(log_probs.argmax(axis=1))
        return self._gathered(np.concatenate(gold)), self._gathered(np.concatenate(said))

    def _steps(self, epoch: int) -> int:
        return self.rows.steps(epoch, batch=self.recipe.batch_size, seed=self.seed)

    def _train(
        self, head: FusionHead, optimizer: torch.optim.Optimizer, schedule: Any, epoch: int, meter: Progress
    ) -> None:
        head.train()
        batches = self.rows.batches(epoch, batch=self.recipe.batch_size, seed=self.seed, worker=self.worker)
        for step in range(self._steps(epoch)):
            optimizer.zero_grad(set_to_none=False)
            self._backward(head, next(batches, None), where=f"epoch {epoch + 1}, step {step + 1}")
            optimizer.step()
            schedule.step()
            meter.advance(1)

    def _backward(self, head: FusionHead, batch: Batch | None, *, where: str) -> None:
        """Gradients of the mean loss over the products of all workers' batches."""
        products = torch.zeros(1, device=self.device)
        if batch is not None:
            features, present, codes = batch
            logits = head(features, present)
            loss = self.levels.losses(logits, codes.to(self.device), label_smoothing=self.recipe.label_smoothing).sum()
            if not torch.isfinite(loss):
                raise InputError(f"{head.kind} head: loss is {loss.item()} in {where}: lower learning_rate")
            loss.backward()  # type: ignore[no-untyped-call]
            products += len(codes)
        gradients = [parameter.grad for parameter in head.parameters() if parameter.grad is not None]
        if self.rows.source.workers > 1:
            gradients = _added_up(head, products)
        for gradient in gradients:
            gradient /= products.clamp_min(1)

    def _judge(self, head: FusionHead, done: Trained, epoch: int) -> None:
        """Keep the epoch's weights where its log-loss on the fusion rows is the lowest."""
        total, rows = 0.0, 0
        for log_probs, codes in self._scored(head):
            total -= float(log_probs[np.arange(len(codes)), codes].sum(dtype=np.float64))
            rows += len(codes)
        total, rows = self._gathered(np.array([[total, rows]])).sum(axis=0).tolist()
        if not rows:
            raise InputError("none of the fusion rows has stored features, so no epoch of a head can be chosen")
        if total / rows < done.log_loss:
            done.best, done.log_loss, done.best_epoch = copy.deepcopy(head.state_dict()), total / rows, epoch
        done.epoch = epoch + 1

    def _scored(self, head: FusionHead) -> Iterator[tuple[Scores, Ints]]:
        """Path log-probabilities and class codes of this worker's fusion rows, a few products at a time."""
        head.eval()
        for features, present, codes in self.rows.in_order("fusion", worker=self.worker):
            with torch.inference_mode():
                logits = head(features, present)
            yield self.levels.path_log_probs(logits), codes.numpy()

    def _gathered(self, mine: np.ndarray) -> np.ndarray:
        """The arrays of all workers, one after the other."""
        if self.rows.source.workers == 1:
            return mine
        parts: list[Any] = [None] * self.rows.source.workers
        torch.distributed.all_gather_object(parts, mine)
        return np.concatenate(parts)


def _added_up(head: FusionHead, products: Tensor) -> list[Tensor]:
    """The gradients, summed over the workers, as `products` is: one exchange a step, in place."""
    for parameter in head.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in head.parameters() if parameter.grad is not None]
    flat = torch.cat([products, *(gradient.reshape(-1) for gradient in gradients)])
    torch.distributed.all_reduce(flat)
    products.copy_(flat[:1])
    for gradient, summed in zip(gradients, torch.split(flat[1:], [g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
    return gradients
