"""Fine-tuning: catalog and labels -> encoder, by one Ray Train loop for all encoders.

Each worker reads its share of the train rows bucket by bucket in every epoch, so that the training set never has to
fit in memory. The epoch with the best macro-F1 on the fusion rows is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from mmbatch.catalog import Catalog
from mmbatch.encoders import load_encoder, require_weights
from mmbatch.errors import MmbatchError
from mmbatch.models import Model, digest_of, find_model, publish_model
from mmbatch.pipelines.cluster import lines_from_workers, processors, remove_folder, start_ray
from mmbatch.pipelines.rows import Labels, training_labels
from mmbatch.pipelines.train_loop import CLASSIFIER, TRAINING_STATE, train_loop
from mmbatch.progress import say
from mmbatch.runs import Run
from mmbatch.schema import Modality
from mmbatch.workspace import Workspace

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
        training: fields of `mmbatch.training.Training`.
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
    scaling = ScalingConfig(
        num_workers=workers, use_gpu=bool(gpus), resources_per_worker={"CPU": 1} | ({"GPU": 1} if gpus else {})
    )
    storage = RunConfig(
        name="finetune",
        storage_path=config["workspace"].path("tmp", run.run_id),
        failure_config=FailureConfig(max_failures=2),
        checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="macro_f1"),
    )
    with lines_from_workers() as lines:
        trainer = TorchTrainer(
            train_loop,
            train_loop_config=config | {"threads": threads, "lines": lines},
            scaling_config=scaling,
            run_config=storage,
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
    for file in (TRAINING_STATE, CLASSIFIER):
        (folder / file).unlink()
    encoder = load_encoder(folder)
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
        identity=sorted(path.name for path in folder.iterdir()),
        recipe=recipe,
        card=card,
    )
