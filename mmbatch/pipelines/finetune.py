"""Fine-tuning: catalog and labels -> encoder, by one Ray Train loop for all encoders.

Each worker streams its shard of the train rows in every epoch, so that the training set never has to fit in memory. The
epoch with the best macro-F1 on the fusion rows is kept. Checkpoints lie under a name that follows from what is trained
on what: the same command, given again after any kind of death, goes on from the last one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from mmbatch.catalog import Catalog
from mmbatch.encoders import load_encoder, require_weights
from mmbatch.errors import InputError
from mmbatch.models import Model, digest_of, file_digest, find_model, publish_model
from mmbatch.pipelines.cluster import lines_from_workers, processors, remove_folder, start_ray
from mmbatch.pipelines.rows import Labels, training_labels
from mmbatch.pipelines.train_loop import Task, train_loop
from mmbatch.pipelines.training_plan import SplitRows
from mmbatch.pipelines.training_rows import PARTS
from mmbatch.pipelines.training_state import STATE, Progress
from mmbatch.pipelines.word_counts import most_frequent_words
from mmbatch.progress import say
from mmbatch.reports.curves import training_curves
from mmbatch.runs import Run
from mmbatch.schema import Modality
from mmbatch.training import Training
from mmbatch.workspace import Workspace

LOOP_VERSION = 2
"""Raised when the loop changes what it makes of the same recipe."""

FAILURES = 3
"""Deaths of workers after which training gives up."""

CURVES = "curves.png"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What training may use. None of it changes the result, but for float noise."""

    workers: tuple[int, int] | None = None
    """Fewest and most training processes; None: one a GPU, or one where there is none. Between the two, training goes
    on with as many as the cluster has."""
    micro_batch: int | None = None
    """Products that go through the network at once in a worker, gradients added up; None: its whole share."""
    checkpoint_steps: int = 500
    """Steps between two checkpoints within an epoch; there is one at the end of each epoch anyway."""


def finetune(
    workspace: Workspace,
    *,
    name: str,
    modality: Modality,
    kind: str,
    arguments: Mapping[str, Any],
    training: Training,
    weights: str | None,
    start_from: str | None = None,
    resources: Resources,
) -> Model | None:
    """Fine-tune one encoder on the train rows, unless the workspace holds it already.

    Args:
        workspace: whose catalog is learned.
        name: the encoder's name.
        modality: what it encodes.
        kind: key of `mmbatch.encoders.BUILDERS`.
        arguments: of that builder.
        training: the recipe.
        weights: folder of pretrained weights that is looked into first.
        start_from: file of weights (`load_foreign`) that replace the pretrained ones.
        resources: what training may use.

    Returns:
        The stored model; None when no train row has this modality.
    """
    labels = training_labels(Catalog(workspace=workspace))
    rows = labels.with_modality(modality)
    if not (rows["split"] == "train").any() or not (rows["split"] == "fusion").any():
        say(f"finetune   {name}: no labelled product has {modality}, skipped")
        return None
    _check(name, modality, training)
    settings = {"name": name, "kind": kind, "arguments": dict(arguments), "training": asdict(training)}
    if start_from:
        settings |= {"start_from": start_from, "start_from_sha256": file_digest(start_from)}
    recipe = digest_of([LOOP_VERSION, settings, workspace.settings.seed, labels.digest(modality)])
    if found := find_model(workspace, kind="encoder", name=name, recipe=recipe):
        say(f"finetune   {name}: found {found.id}")
        return found
    require_weights(kind, arguments, weights)
    run = Run(workspace=workspace, job="finetune_encoder", settings=settings)
    splits = {part: SplitRows.of(rows, part) for part in PARTS}
    _say_unscored(name, splits["train"], splits["fusion"])
    start_ray()
    folder = workspace.path("tmp", f"finetune-{name}-{recipe[:16]}")
    with lines_from_workers() as lines:
        task = Task(
            catalog=Catalog(workspace=workspace).pinned(),
            seed=workspace.settings.seed,
            name=name,
            kind=kind,
            arguments=_with_vocabulary(workspace, kind, arguments, rows),
            weights=weights,
            start_from=start_from,
            training=training,
            recipe=recipe,
            rows={part: ray.put(found) for part, found in splits.items()},
            classes=len(labels.categories),
            micro_batch=resources.micro_batch or training.batch_size,
            checkpoint_steps=resources.checkpoint_steps,
            lines=lines,
            refusals=Queue(actor_options={"num_cpus": 0}),
        )
        done = _fit(task, resources, storage=folder)
    with done.best.as_directory() as local:
        model = _publish(workspace, Path(local), labels, settings, task=task, history=done.history)
    remove_folder(folder)
    run.finish({"model": model.id, **model.card["metrics"]})
    say(f"finetune   {name}: stored {model.id}, macro-F1 {model.card['metrics']['macro_f1']:.4f} on the fusion rows")
    return model


def _check(name: str, modality: Modality, training: Training) -> None:
    """`InputError` where a recipe asks for what does not go together."""
    if training.mixup or training.cutmix:
        if modality != "image":
            raise InputError(f"{name}: mixup and cutmix mix photos, the encoder reads {modality}: set both to 0")
        if training.class_weights != "none":
            raise InputError(
                f"{name}: a mix of two photos has no one class to weigh: with mixup or cutmix, sampling=balanced takes"
                " the place of class_weights=balanced"
            )


def _with_vocabulary(
    workspace: Workspace, kind: str, arguments: Mapping[str, Any], rows: pd.DataFrame
) -> dict[str, Any]:
    """The builder's arguments; the recurrent kind's `most_words` become the most frequent words of the train rows."""
    if kind != "recurrent":
        return dict(arguments)
    given = dict(arguments)
    most, language = int(given.pop("most_words")), given.get("language", "en")
    words = most_frequent_words(Catalog(workspace=workspace), rows, language=language, most=most)
    say(f"finetune   {len(words):,} words make the vocabulary")
    return given | {"words": words}


def _say_unscored(name: str, train: SplitRows, fusion: SplitRows) -> None:
    classes = set(train.codes.tolist())
    if missing := classes - set(fusion.codes.tolist()):
        say(f"finetune   {name}: {len(missing)} of {len(classes)} classes have no fusion row, so none scores an epoch")


@dataclass(frozen=True)
class _Done:
    best: Checkpoint
    history: list[dict[str, float]]


def _fit(task: Task, resources: Resources, *, storage: str) -> _Done:
    """Train on as many workers as there are resources for; `InputError` says why training cannot go on."""
    logical, gpus = processors()
    least, most = resources.workers or (max(1, gpus), max(1, gpus))
    if most > max(gpus, logical - 1):
        raise InputError(f"--workers {most}: the cluster has {gpus} GPUs and {logical} logical CPUs")
    threads = max(1, torch.get_num_threads() // most)
    say(
        f"finetune   {task.name}: {least if least == most else f'{least} to {most}'} worker(s),"
        f" {'a GPU each' if gpus else f'{threads} CPU thread(s) each'}"
    )
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"task": task, "threads": threads},
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),  # type: ignore[arg-type]
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": 1} | ({"GPU": 1} if gpus else {}),
        ),
        run_config=RunConfig(
            name="run",
            storage_path=storage,
            failure_config=FailureConfig(max_failures=FAILURES - 1),
            checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score"),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.WorkerGroupError as error:
        raise InputError(_reason(task, error)) from error
    best, _ = max(result.best_checkpoints or [], key=lambda found: float(found[1]["score"]))
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as latest:
        history: list[dict[str, float]] = torch.load(Path(latest) / STATE, weights_only=True)["progress"]["history"]
    return _Done(best, history)


def _reason(task: Task, error: ray.train.WorkerGroupError) -> str:
    """What a worker said when it gave up, or how the workers died."""
    if not task.refusals.empty():
        return str(task.refusals.get())
    rank, cause = min(error.worker_failures.items())
    line = next((line for line in reversed(str(cause).strip().splitlines()) if line.strip()), type(cause).__name__)
    return (
        f"{task.name}: worker {rank} died {FAILURES} times, the last time of: {line.strip()}; if memory ran out, lower"
        " --micro-batch (the step stays as large)"
    )


def _publish(
    workspace: Workspace,
    folder: Path,
    labels: Labels,
    settings: Mapping[str, Any],
    *,
    task: Task,
    history: list[dict[str, float]],
) -> Model:
    """Store the best epoch's encoder, with the curves of all epochs, which are no part of its identity."""
    (folder / STATE).unlink()
    encoder = load_encoder(folder)
    identity = sorted(path.name for path in folder.iterdir())
    (folder / CURVES).write_bytes(training_curves(task.name, history))
    best = Progress(recipe=task.recipe, history=history).best
    assert best is not None
    card = {
        "modality": encoder.modality,
        "width": encoder.width,
        "categories": labels.categories,
        "metrics": {"split": "fusion", **{key: best[key] for key in ("epoch", "macro_f1", "micro_f1", "rows")}},
        "history": history,
        "training": settings,
        "versions": {"torch": torch.__version__, "ray": ray.__version__},
    }
    return publish_model(
        workspace, kind="encoder", name=task.name, folder=folder, identity=identity, recipe=task.recipe, card=card
    )
