"""Fine-tuning: catalog and labels -> encoder, by one Ray Train loop for all encoders.

Each worker streams its shard of the train rows in every epoch, so that the training set never has to fit in memory. The
epoch with the best macro-F1 on the fusion rows is kept. Checkpoints lie under a name that follows from what is trained
on what: the same command, given again after any kind of death, goes on from the last one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import ray
import torch
from ray.util.queue import Queue

from mmbatch.catalog import Catalog
from mmbatch.encoders import load_encoder, require_weights
from mmbatch.errors import InputError
from mmbatch.fusion.levels import Levels
from mmbatch.models import Model, digest_of, file_digest, find_model, publish_model
from mmbatch.pipelines.cluster import beside_caller, lines_from_workers, remove_folder, start_ray
from mmbatch.pipelines.rows import Labels, training_labels
from mmbatch.pipelines.train_loop import Task
from mmbatch.pipelines.training_plan import SplitRows
from mmbatch.pipelines.training_rows import PARTS
from mmbatch.pipelines.training_run import crew_of, fit
from mmbatch.pipelines.training_state import STATE, Progress
from mmbatch.pipelines.word_counts import most_frequent_words
from mmbatch.progress import say
from mmbatch.reports.curves import training_curves
from mmbatch.runs import Run
from mmbatch.schema import Modality
from mmbatch.training import EncoderRecipe, Training
from mmbatch.workspace import Workspace

LOOP_VERSION = 2
"""Raised when the loop changes what it makes of the same recipe."""

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


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is fine-tuned on what: all but how (`Training`)."""

    workspace: Workspace
    name: str
    modality: Modality
    kind: str
    """Key of `mmbatch.encoders.BUILDERS`."""
    arguments: Mapping[str, Any]
    """Of that builder."""
    labels: Labels
    weights: str | None = None
    """Folder of pretrained weights that is looked into first."""
    start_from: str | None = None
    """File of weights (`load_foreign`) that replace the pretrained ones."""

    @property
    def rows(self) -> pd.DataFrame:
        """The labelled products that have the modality (`Labels.with_modality`): a new copy, as large as the labels."""
        return self.labels.with_modality(self.modality)

    @cached_property
    def learnable(self) -> bool:
        """Whether there are rows to learn from and rows to choose by."""
        return set(self.rows["split"]) >= {"train", "fusion"}

    def stored(self, training: Training) -> Model | None:
        """The model, where the workspace holds it already."""
        return find_model(self.workspace, kind="encoder", name=self.name, recipe=self.recipe(training))

    def check(self, training: Training) -> None:
        """`InputError` where training would fail from the start: a recipe that contradicts itself, missing weights."""
        if self.learnable:
            _check_recipe(self.name, self.modality, training)
            Levels.of(self.labels.taxonomy, training.level_weights)
            if not self.stored(training):
                require_weights(self.kind, self.arguments, self.weights)

    def settings(self, training: Training) -> dict[str, Any]:
        """What decides the outcome besides the catalog, for the ledger and the card."""
        arguments = dict(self.arguments)
        settings = {"name": self.name, "kind": self.kind, "arguments": arguments, "training": asdict(training)}
        return settings | self._start

    def recipe(self, training: Training) -> str:
        """Digest of everything that decides the outcome."""
        return digest_of([LOOP_VERSION, self.settings(training), self.workspace.settings.seed, self._rows_digest])

    def folder(self, training: Training) -> str:
        """Where its checkpoints lie until the model is stored."""
        return self.workspace.path("tmp", f"finetune-{self.name}-{self.recipe(training)[:16]}")

    def task(self, training: Training, *, resources: Resources, lines: Queue) -> Task:
        """What the workers are given; says which classes no epoch is scored on."""
        rows = self.rows
        splits = {part: SplitRows.of(rows, part) for part in PARTS}
        _say_unscored(self.name, splits["train"], splits["fusion"])
        return Task(
            catalog=Catalog(workspace=self.workspace).pinned(),
            seed=self.workspace.settings.seed,
            name=self.name,
            kind=self.kind,
            arguments=_with_vocabulary(self.workspace, self.kind, self.arguments, rows),
            weights=self.weights,
            start_from=self.start_from,
            training=training,
            recipe=self.recipe(training),
            rows={part: ray.put(found) for part, found in splits.items()},
            levels=Levels.of(self.labels.taxonomy, training.level_weights),
            micro_batch=resources.micro_batch or training.batch_size,
            checkpoint_steps=resources.checkpoint_steps,
            lines=lines,
            refusals=Queue(actor_options=beside_caller()),
        )

    @cached_property
    def _start(self) -> dict[str, str]:
        if not self.start_from:
            return {}
        return {"start_from": self.start_from, "start_from_sha256": file_digest(self.start_from)}

    @cached_property
    def _rows_digest(self) -> str:
        return self.labels.digest(self.modality)


def subjects_of(
    workspace: Workspace, recipes: Sequence[EncoderRecipe], *, weights: str | None, start_from: str | None = None
) -> list[Subject]:
    """What each encoder is trained on; `InputError` where one could not be, before the first is."""
    labels = training_labels(Catalog(workspace=workspace))
    subjects = [
        Subject(
            workspace=workspace,
            name=recipe.name,
            modality=recipe.modality,
            kind=recipe.kind,
            arguments=recipe.arguments,
            labels=labels,
            weights=weights,
            start_from=start_from,
        )
        for recipe in recipes
    ]
    for subject, recipe in zip(subjects, recipes, strict=True):
        subject.check(recipe.training)
    return subjects


def finetune(subject: Subject, training: Training, resources: Resources) -> Model | None:
    """Fine-tune one encoder on the train rows, unless the workspace holds it already.

    Returns:
        The stored model; None when no train row has this modality.

    Raises:
        InputError: training cannot start, or cannot go on whoever tries.
    """
    workspace, name = subject.workspace, subject.name
    if not subject.learnable:
        say(f"finetune   {name}: no labelled product has {subject.modality}, skipped")
        return None
    subject.check(training)
    if found := subject.stored(training):
        say(f"finetune   {name}: found {found.id}")
        return found
    settings = subject.settings(training)
    run = Run(workspace=workspace, job="finetune_encoder", settings=settings)
    start_ray(workspace)
    with lines_from_workers() as lines:
        task = subject.task(training, resources=resources, lines=lines)
        crew = crew_of(resources.workers)
        say(f"finetune   {name}: {crew.describe()}")
        done = fit(task, crew, storage=subject.folder(training))
    with done.best.as_directory() as local:
        model = _publish(workspace, Path(local), subject.labels, settings, task=task, history=done.history)
    remove_folder(subject.folder(training))
    run.finish({"model": model.id, **model.card["metrics"]})
    say(f"finetune   {name}: stored {model.id}, macro-F1 {model.card['metrics']['macro_f1']:.4f} on the fusion rows")
    return model


def _check_recipe(name: str, modality: Modality, training: Training) -> None:
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
