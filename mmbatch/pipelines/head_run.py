"""One run of training fusion heads: every kind on the same rows, in one process or on Ray Train, and the best of them.

A few products are learned in one process within seconds; many, or where workers are asked for, on Ray Train, whose
workers stream their share of the feature store. A run that was killed there goes on after its last epoch.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointConfig
from ray.util.queue import Queue

from mmbatch.errors import InputError
from mmbatch.fusion.head import FusionHead
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.selection import rank
from mmbatch.fusion.taxonomy_paths import Ints
from mmbatch.models import modalities_of
from mmbatch.pipelines.capacity import threads_here
from mmbatch.pipelines.dealing import Deal
from mmbatch.pipelines.feature_rows import FeatureRows
from mmbatch.pipelines.head_loop import HeadLoop, Trained
from mmbatch.pipelines.sequence_rows import SequenceRows
from mmbatch.pipelines.training_run import Crew, last_death, run_workers
from mmbatch.progress import say
from mmbatch.training import HeadKind, HeadRecipe

STATE = "heads.pt"
"""In a checkpoint: what is trained so far of every kind."""

OUTCOME = "outcome.json"
"""Beside the best head: how the kinds did."""

Keep = Callable[[Mapping[HeadKind, Trained]], None]


@dataclass(frozen=True)
class HeadTask:
    """What is trained on what: the same for every worker."""

    rows: FeatureRows | SequenceRows
    levels: Levels
    recipe: HeadRecipe
    digest: str
    """Of all of the above and of the rows' content."""
    lines: Queue | None = None
    """Lines for the person who waits; None: said here."""

    @property
    def inputs(self) -> dict[str, Any]:
        """Arguments of `build_head` that the encoders and the categories decide."""
        return {
            "widths": self.rows.widths,
            "modalities": modalities_of(self.rows.encoders),
            "classes": self.levels.classes,
        }

    def loop(self, *, worker: int = 0, workers: int = 1, device: str | torch.device = "cpu") -> HeadLoop:
        """A worker's part in it."""
        place, seed = torch.device(device), self.rows.workspace.settings.seed
        rows = Deal(replace(self.rows, workers=workers), place)
        tell = _silent if worker else say if self.lines is None else self.lines.put  # an empty queue is false
        return HeadLoop(rows, self.recipe, self.levels, self.inputs, seed, worker, place, tell)


def train_kinds(
    task: HeadTask, loop: HeadLoop, folder: Path, *, done: dict[HeadKind, Trained], keep: Keep = lambda _: None
) -> None:
    """Train every kind of the recipe, from `done` on, and write the best head and the kinds' standings to `folder`."""
    heads: dict[str, FusionHead] = {}
    said: dict[str, Ints] = {}
    gold = np.zeros(0, np.int64)
    for kind in task.recipe.kinds:
        trained = done.setdefault(kind, Trained(kind))
        heads[kind] = loop.run(trained, keep=lambda _: keep(done))
        gold, said[kind] = loop.fusion_scores(heads[kind])
    standings = rank(gold, said, classes=len(task.rows.categories), seed=loop.seed)
    best = next(kind for kind in task.recipe.kinds if kind == standings[0].name)
    heads[best].save(folder)
    metrics = {"log_loss": done[best].log_loss, "epoch": done[best].best_epoch, "macro_f1": standings[0].macro_f1}
    outcome = {"kind": best, "metrics": metrics, "standings": [asdict(standing) for standing in standings]}
    (folder / OUTCOME).write_text(json.dumps(outcome))


def train_on_workers(task: HeadTask, crew: Crew, *, storage: str) -> Checkpoint:
    """Train on Ray Train, from the last checkpoint below `storage` on; the last one holds what `train_kinds` writes.

    Raises:
        InputError: the workers died again and again, or training cannot go on.
    """
    try:
        result = run_workers(_worker, task, crew, storage=storage, kept=CheckpointConfig(num_to_keep=1))
    except ray.train.WorkerGroupError as error:
        raise InputError(f"head: {last_death(error)}") from error
    checkpoint: Checkpoint | None = result.checkpoint
    assert checkpoint is not None
    return checkpoint


def _worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs; the first one brings a checkpoint after every epoch, and the best head."""
    task: HeadTask = config["task"]
    context, checkpoint = ray.train.get_context(), ray.train.get_checkpoint()
    torch.set_num_threads(threads_here(config["threads"], context.get_local_world_size()))
    worker, workers = context.get_world_rank(), context.get_world_size()
    loop = task.loop(worker=worker, workers=workers, device=ray.train.torch.get_device())
    done = _read(checkpoint, device=loop.device) if checkpoint else {}
    with tempfile.TemporaryDirectory() as name:
        train_kinds(task, loop, Path(name), done=done, keep=_report if not worker else lambda _: ray.train.report({}))
        _save(done, Path(name))  # whoever is killed before the head is stored begins here again
        ray.train.report({}, checkpoint=None if worker else Checkpoint.from_directory(name))


def _report(done: Mapping[HeadKind, Trained]) -> None:
    with tempfile.TemporaryDirectory() as name:
        _save(done, Path(name))
        ray.train.report({}, checkpoint=Checkpoint.from_directory(name))


def _save(done: Mapping[HeadKind, Trained], folder: Path) -> None:
    torch.save({kind: vars(trained) for kind, trained in done.items()}, folder / STATE)


def _read(checkpoint: Checkpoint, *, device: torch.device) -> dict[HeadKind, Trained]:
    with checkpoint.as_directory() as folder:
        found = torch.load(Path(folder) / STATE, weights_only=True, map_location=device)
    return {kind: Trained(**values) for kind, values in found.items()}


def _silent(_: str) -> None:
    """The first worker speaks for all."""
