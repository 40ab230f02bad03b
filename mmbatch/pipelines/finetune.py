"""Fine-tuning: catalog and labels -> encoder and its own classification layer, by one Ray Train loop for all encoders.

Each worker reads its share of the train rows bucket by bucket in every epoch, so that the training set never has to
fit in memory. The epoch with the best macro-F1 on the fusion rows is kept.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmbatch.catalog import Catalog
from mmbatch.encoders import Encoder, build_encoder, load_encoder, require_weights, to_tensors
from mmbatch.errors import InputError, MmbatchError
from mmbatch.metrics import f1_scores
from mmbatch.models import Model, digest_of, find_model, publish_model
from mmbatch.pipelines.cluster import processors, remove_folder, start_ray
from mmbatch.pipelines.rows import Labels, by_bucket, training_labels
from mmbatch.progress import say
from mmbatch.runs import Run
from mmbatch.schema import Modality
from mmbatch.workspace import Workspace

CLASSIFIER = "classifier.safetensors"
"""Weight `[C, width]` and bias `[C]` of the encoder's own classification layer, beside the encoder's files."""

LENGTH_POOL = 20
"""Batches whose rows are sorted by length together: little padding, and still a random order."""

LOOP_VERSION = 1
"""Raised when the loop changes what it makes of the same recipe."""


def finetune(
    workspace: Workspace,
    *,
    name: str,
    modality: Modality,
    kind: str,
    arguments: Mapping[str, str | int],
    training: Mapping[str, Any],
    weights: str | None,
    workers: int | None = None,
) -> Model | None:
    """Fine-tune one encoder on the train rows, unless the workspace holds it already.

    Args:
        workspace: whose catalog is learned.
        name: the encoder's name.
        modality: what it encodes.
        kind: key of `mmbatch.encoders.BUILDERS`.
        arguments: of that builder.
        training: fields of `mmbatch.presets.Training`.
        weights: folder of pretrained weights that is looked into first.
        workers: training processes; by default one a GPU, or one when there is none.

    Returns:
        The stored model; None when no train row has this modality.
    """
    labels = training_labels(Catalog(workspace=workspace))
    rows = labels.with_modality(modality)
    if not (rows["split"] == "train").any() or not (rows["split"] == "fusion").any():
        say(f"finetune   {name}: no labelled product has {modality}, skipped")
        return None
    settings = {"name": name, "kind": kind, "arguments": dict(arguments), "training": dict(training)}
    recipe = digest_of([LOOP_VERSION, settings, workspace.settings.seed, labels.digest(modality)])
    if found := find_model(workspace, kind="encoder", name=name, recipe=recipe):
        say(f"finetune   {name}: found {found.id}")
        return found
    require_weights(kind, arguments, weights)
    run = Run(workspace=workspace, job="finetune_encoder", settings=settings)
    config = settings | {"workspace": workspace, "modality": modality, "weights": weights}
    result = _fit(config | {"categories": labels.categories}, run, workers)
    with result.checkpoint.as_directory() as folder:
        model = _publish(workspace, Path(folder), name, recipe, labels, result.metrics, settings)
    remove_folder(workspace.path("tmp", run.run_id))
    run.finish({"model": model.id, **model.card["metrics"]})
    say(f"finetune   {name}: stored {model.id}, macro-F1 {model.card['metrics']['macro_f1']:.4f} on the fusion rows")
    return model


@dataclass(frozen=True)
class _Best:
    checkpoint: Checkpoint
    metrics: dict[str, Any]


def _fit(config: dict[str, Any], run: Run, workers: int | None) -> _Best:
    start_ray()
    _, gpus = processors()
    workers = workers or max(1, gpus)
    threads = max(1, torch.get_num_threads() // workers)
    device = "a GPU each" if gpus else f"{threads} CPU thread(s) each"
    say(f"finetune   {config['name']}: {workers} worker(s), {device}")
    trainer = ray.train.torch.TorchTrainer(
        _train_loop,
        train_loop_config=config | {"threads": threads},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=bool(gpus), resources_per_worker={"CPU": 1} | ({"GPU": 1} if gpus else {})
        ),
        run_config=RunConfig(
            name="finetune",
            storage_path=config["workspace"].path("tmp", run.run_id),
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="macro_f1"),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.WorkerGroupError as error:
        raise next((e for e in error.worker_failures.values() if isinstance(e, MmbatchError)), error) from None
    best = result.best_checkpoints or []
    checkpoint, metrics = max(best, key=lambda pair: (pair[1]["macro_f1"], -pair[1]["epoch"]))
    return _Best(checkpoint, metrics)


def _publish(
    workspace: Workspace,
    folder: Path,
    name: str,
    recipe: str,
    labels: Labels,
    metrics: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Model:
    (folder / "training_state.pt").unlink()
    encoder = load_encoder(folder)
    files = sorted(path.name for path in folder.iterdir())
    card = {
        "modality": encoder.modality,
        "width": encoder.width,
        "categories": labels.categories,
        "metrics": {"split": "fusion", **{key: metrics[key] for key in ("epoch", "macro_f1", "micro_f1", "rows")}},
        "training": settings,
        "versions": {"torch": torch.__version__, "ray": ray.__version__},
    }
    return publish_model(
        workspace,
        kind="encoder",
        name=name,
        folder=folder,
        identity=[file for file in files if file != CLASSIFIER],
        recipe=recipe,
        card=card,
    )


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


class _Data:
    """A worker's share of the rows: the same number of steps on every rank, read bucket by bucket."""

    def __init__(self, config: Mapping[str, Any], encoder: Encoder, *, rank: int, world: int) -> None:
        self.catalog = Catalog(workspace=config["workspace"])
        self.seed, self.rank, self.world = config["workspace"].settings.seed, rank, world
        self.encoder, self.modality = encoder, config["modality"]
        self.device = ray.train.torch.get_device()
        rows = training_labels(self.catalog).with_modality(self.modality)
        self.train, self.fusion = by_bucket(rows, "train"), by_bucket(rows, "fusion")

    def steps(self, batch: int) -> int:
        """Optimiser steps of one epoch."""
        return sum(math.ceil(math.ceil(len(rows) / self.world) / batch) for _, rows in self.train)

    def train_batches(self, batch: int, epoch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Shuffled batches of this rank; a bucket's rows wrap around so that no rank has fewer steps."""
        rng = np.random.default_rng([self.seed, epoch, self.rank])
        for index in np.random.default_rng([self.seed, epoch]).permutation(len(self.train)):
            bucket, rows = self.train[index]
            share = math.ceil(len(rows) / self.world)
            mine = rows.iloc[(np.arange(share) * self.world + self.rank) % len(rows)]
            content = self._content(bucket, mine)
            for chosen in _batches(self.encoder.lengths(content), batch, rng):
                yield self._prepare(content, mine, chosen, rng)

    def fusion_batches(self, batch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Every fusion row of this rank, once."""
        for bucket, rows in self.fusion:
            mine = rows.iloc[self.rank :: self.world]
            content = self._content(bucket, mine)
            for start in range(0, len(mine), batch):
                yield self._prepare(content, mine, np.arange(start, min(start + batch, len(mine))), None)

    def _content(self, bucket: int, rows: pd.DataFrame) -> pa.Table:
        return self.catalog.content(self.modality, bucket, pa.array(rows["content_hash"], pa.string()))

    def _prepare(
        self, content: pa.Table, rows: pd.DataFrame, chosen: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        prepared = self.encoder.prepare(content.take(pa.array(chosen)), rng=rng)
        targets = torch.from_numpy(rows["code"].to_numpy()[chosen[prepared.good]])
        return to_tensors(prepared.inputs, self.device), targets.to(self.device)


def _batches(lengths: np.ndarray, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row numbers of each batch: random pools of `LENGTH_POOL` batches, sorted by length within, in random order."""
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), batch * LENGTH_POOL):
        pool = order[start : start + batch * LENGTH_POOL]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[at : at + batch] for at in range(0, len(pool), batch)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _train_loop(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    training, context = config["training"], ray.train.get_context()
    torch.set_num_threads(config["threads"])
    seed = config["workspace"].settings.seed
    torch.manual_seed(seed)
    encoder = build_encoder(config["kind"], weights=config["weights"], seed=seed, **config["arguments"])
    module = Classifier(encoder, len(config["categories"]), training["dropout"])
    module.freeze(prefixes=training["frozen"], batch_norm=training["frozen_batch_norm"])
    model = ray.train.torch.prepare_model(module)
    data = _Data(config, encoder, rank=context.get_world_rank(), world=context.get_world_size())
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
        scores = _evaluate(module, data, batch)
        _report(module, optimizer, schedule, scores | {"epoch": epoch, "loss": float(np.mean(losses))}, context)


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
        state = torch.load(Path(folder) / "training_state.pt", weights_only=True)
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
        torch.save(state, folder / "training_state.pt")
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _evaluate(module: Classifier, data: "_Data", batch: int) -> dict[str, float]:
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
