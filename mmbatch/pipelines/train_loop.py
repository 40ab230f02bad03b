"""What each Ray Train worker runs: one loop for every encoder."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import Checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmbatch.encoders import Encoder, build_encoder, load_encoder
from mmbatch.errors import InputError
from mmbatch.metrics import f1_scores
from mmbatch.pipelines.training_rows import TrainingRows

CLASSIFIER = "classifier.safetensors"
"""The classification layer that the encoder is trained under; scores come from a probe on stored features."""

TRAINING_STATE = "training_state.pt"
"""Optimiser, schedule and epoch. Both files serve a worker that is restarted and are no part of the model."""


class Classifier(nn.Module):
    """An encoder under its own classification layer: inputs -> logits `[B, C]`."""

    def __init__(self, encoder: Encoder, classes: int, dropout: float) -> None:
        super().__init__()
        self.frozen_batch_norm = False
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.width, classes)

    def freeze(self, *, prefixes: Sequence[str], batch_norm: bool) -> None:
        """Stop training the encoder's parameters with these name prefixes, and its batch statistics.

        `InputError` when a prefix names no parameter.
        """
        self.frozen_batch_norm = batch_norm
        for prefix in prefixes:
            named = [p for name, p in self.encoder.named_parameters() if f"{name}.".startswith(f"{prefix}.")]
            if not named:
                raise InputError(f"frozen {prefix!r}: the encoder has no parameter of that prefix")
            for parameter in named:
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for frozen batch normalisation."""
        super().train(mode)
        for module in self.encoder.modules():
            if self.frozen_batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, float32 `[B, C]`."""
        logits: Tensor = self.classifier(self.dropout(self.encoder(**inputs)))
        return logits


def train_loop(config: dict[str, Any]) -> None:
    """Fine-tune one encoder and report every epoch's scores with a checkpoint.

    `config` holds `workspace`, `name`, `modality`, `kind`, `arguments`, `training`, `weights`, `categories`, `threads`
    and `lines`, the queue of progress lines.
    """
    training, context = config["training"], ray.train.get_context()
    torch.set_num_threads(config["threads"])
    seed = config["workspace"].settings.seed
    torch.manual_seed(seed)
    encoder = build_encoder(config["kind"], weights=config["weights"], seed=seed, **config["arguments"])
    module = Classifier(encoder, len(config["categories"]), training["dropout"])
    module.freeze(prefixes=training["frozen"], batch_norm=training["frozen_batch_norm"])
    model = ray.train.torch.prepare_model(module)
    data = TrainingRows(config, encoder, rank=context.get_world_rank(), world=context.get_world_size())
    batch = max(1, int(training["batch_size"]) // context.get_world_size())
    optimizer, schedule = _optimizer(module, training, steps=data.steps(batch) * int(training["epochs"]))
    state = _resume(module, optimizer, schedule)
    loss_of = nn.CrossEntropyLoss(label_smoothing=training["label_smoothing"])
    for epoch in range(state, int(training["epochs"])):
        model.train()
        losses = []
        for inputs, targets in data.train_batches(batch, epoch):
            if not len(targets):
                continue
            loss = loss_of(model(inputs), targets)
            if not torch.isfinite(loss):
                raise InputError(f"{config['name']}: loss is {loss.item()} in epoch {epoch}: lower its learning_rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        metrics = _evaluate(module, data, batch) | {"epoch": epoch, "loss": float(np.mean(losses))}
        _report(module, optimizer, schedule, metrics, context)
        if context.get_world_rank() == 0:
            config["lines"].put(
                f"finetune   {config['name']}: epoch {epoch + 1} / {training['epochs']}"
                f"  loss {metrics['loss']:.3f}  macro-F1 {metrics['macro_f1']:.4f} on the fusion rows"
            )


def _optimizer(
    module: Classifier, training: Mapping[str, float], *, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with its own rate for the new layer; linear warm-up, then linear decay to zero."""
    groups = [
        {"params": [p for p in module.encoder.parameters() if p.requires_grad], "lr": training["learning_rate"]},
        {"params": list(module.classifier.parameters()), "lr": training["classifier_learning_rate"]},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=training["weight_decay"])
    warmup = max(1, int(steps * training["warmup_share"]))

    def factor(step: int) -> float:
        return min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _resume(module: Classifier, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LambdaLR) -> int:
    """Load the last reported epoch when Ray Train restarts a failed worker; the epoch to go on with."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        module.encoder.load_state_dict(load_encoder(Path(folder)).state_dict())
        module.classifier.load_state_dict(load_file(Path(folder) / CLASSIFIER))
        state = torch.load(Path(folder) / TRAINING_STATE, weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return int(state["epoch"]) + 1


def _report(
    module: Classifier,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    metrics: dict[str, float],
    context: Any,
) -> None:
    """Every rank reports; rank 0 brings the checkpoint."""
    if context.get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        module.encoder.save(folder)
        save_file(
            {key: value.contiguous() for key, value in module.classifier.state_dict().items()}, folder / CLASSIFIER
        )
        state = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "epoch": metrics["epoch"]}
        torch.save(state, folder / TRAINING_STATE)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _evaluate(module: Classifier, data: TrainingRows, batch: int) -> dict[str, float]:
    """Scores on all fusion rows; each rank predicts its share."""
    module.eval()
    gold, predicted = [], []
    with torch.inference_mode():
        for inputs, targets in data.fusion_batches(batch):
            if len(targets):
                predicted.append(module(inputs).argmax(dim=1).cpu().numpy())
                gold.append(targets.cpu().numpy())
    pair = (np.concatenate(gold), np.concatenate(predicted)) if gold else (np.zeros(0, int), np.zeros(0, int))
    pairs: list[Any] = [pair]
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        pairs = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(pairs, pair)
    scores = f1_scores(np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs]))
    return {"macro_f1": scores.macro, "micro_f1": scores.micro, "rows": scores.rows}
