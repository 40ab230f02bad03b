"""Training of fusion heads: stored features, or sequences, of the train rows -> the best kind of head.

An encoder runs here only where a head over sequences is asked for, and then on the products that it is trained on.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.failpoints import reach
from mmbatch.feature_store import require_features
from mmbatch.fusion.head import HEADS, build_head, load_head
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.selection import Standing
from mmbatch.models import Model, digest_of, find_model, publish_model
from mmbatch.pipelines.cluster import lines_from_workers, remove_folder, run_task, start_ray
from mmbatch.pipelines.feature_rows import FeatureRows, rows_per_bucket
from mmbatch.pipelines.head_run import OUTCOME, STATE, HeadTask, train_kinds, train_on_workers
from mmbatch.pipelines.keep_sequences import Shape, keep_sequences, shape_of
from mmbatch.pipelines.rows import Labels, training_labels
from mmbatch.pipelines.sequence_rows import SequenceRows, draw
from mmbatch.pipelines.training_run import crew_of
from mmbatch.predictor import HEAD_MODEL
from mmbatch.progress import say
from mmbatch.runs import Run
from mmbatch.training import HeadRecipe
from mmbatch.workspace import Workspace

FEW_ROWS = 200_000
"""Train rows that one process learns from, where no number of workers is asked for."""


def train_head(
    workspace: Workspace, encoders: Sequence[Model], *, recipe: HeadRecipe, workers: tuple[int, int] | None = None
) -> Model | None:
    """Train every kind of head that the recipe names and store the best, unless the workspace holds it already.

    Args:
        workspace: whose features and labels are learned.
        encoders: the encoders whose features are joined.
        recipe: the kinds, and how each is trained.
        workers: fewest and most training processes; None: one for few products, else as many as there are GPUs.

    Returns:
        The stored head; None where there is one encoder and one level only, and so nothing to join.

    Raises:
        InputError: an encoder's features are not stored, a kind does not suit the encoders, the recipe not the
            categories, or training cannot go on.
    """
    labels = training_labels(Catalog(workspace=workspace))
    levels = Levels.of(labels.taxonomy, recipe.level_weights)
    if len(encoders) < 2:
        if len(levels.classes) < 2:
            say("head       one encoder only: nothing to join, skipped")
            return None
        recipe = replace(recipe, kinds=("concatenation",), sequences=False)
    _check_sequences(recipe)
    digest = digest_of([workspace.settings.seed, asdict(recipe), identity_of(encoders, labels)])
    if found := find_model(workspace, kind="head", name=HEAD_MODEL, recipe=digest):
        say(f"head       found {found.id}")
        return found
    require_features(workspace, [model.id for model in encoders])
    shapes = {model.name: shape_of(model) for model in encoders} if recipe.sequences else {}
    task = HeadTask(_rows(workspace, encoders, labels, recipe, shapes), levels, recipe, digest)
    _check_kinds(task)
    run = Run(workspace=workspace, job="train_head", settings={"recipe": asdict(recipe)})
    start_ray(workspace)
    kept: dict[str, Any] = {}
    if isinstance(task.rows, SequenceRows):
        longest = {name: shape.longest for name, shape in shapes.items()}
        kept["sequences"] = keep_sequences(task.rows, longest=longest, run_id=run.run_id)
        task = replace(task, rows=task.rows.stored())
    few = workers is None and not recipe.sequences and sum(task.rows.sizes("train")) <= FEW_ROWS
    with lines_from_workers() as lines:
        task = replace(task, lines=lines)
        model: Model = run_task(_train_here, task) if few else _train_on_workers(task, workers)
    run.finish(kept | {"model": model.id, "standings": model.card["standings"], **model.card["metrics"]})
    kinds = "; ".join(Standing(**standing).describe() for standing in model.card["standings"])
    say(f"head       macro-F1 on the fusion rows: {kinds}")
    say(f"head       stored {model.id}, log-loss {model.card['metrics']['log_loss']:.4f} on the fusion rows")
    return model


def identity_of(encoders: Sequence[Model], labels: Labels) -> list[Any]:
    """What decides the rows that models over stored features learn from."""
    modalities = sorted({model.card["modality"] for model in encoders})
    return [sorted(model.id for model in encoders), labels.digest(*modalities), labels.categories]


def _check_sequences(recipe: HeadRecipe) -> None:
    """`InputError` where a kind of head takes no sequences, or there would be none to learn from."""
    able = [kind for kind, head in HEADS.items() if 3 in head.ranks]
    if recipe.sequences and (unable := [kind for kind in recipe.kinds if kind not in able]):
        raise InputError(f"--training sequences=True: found heads {', '.join(unable)}, expected {', '.join(able)} only")
    if recipe.sequences and recipe.sequence_rows < 2:
        raise InputError(f"--training sequence_rows={recipe.sequence_rows}: expected 2 or more labelled products")


def _rows(
    workspace: Workspace, encoders: Sequence[Model], labels: Labels, recipe: HeadRecipe, shapes: Mapping[str, Shape]
) -> FeatureRows | SequenceRows:
    ordered = tuple(sorted(encoders, key=lambda model: model.name))
    if not recipe.sequences:
        return FeatureRows(workspace, ordered, labels.categories, rows_per_bucket(labels))
    drawn = draw(labels, limit=recipe.sequence_rows, seed=workspace.settings.seed)
    return SequenceRows(
        workspace, ordered, labels.categories, drawn, {name: shape.width for name, shape in shapes.items()}
    )


def _check_kinds(task: HeadTask) -> None:
    """Of a kind that does not suit, the constructor says why."""
    with torch.device("meta"):
        for kind in task.recipe.kinds:
            build_head(**task.inputs, **task.recipe.arguments(kind))


def _train_here(task: HeadTask) -> Model:
    """Runs in a Ray task."""
    with tempfile.TemporaryDirectory() as name:
        train_kinds(task, task.loop(), Path(name), done={})
        return _publish(task, Path(name))


def _train_on_workers(task: HeadTask, workers: tuple[int, int] | None) -> Model:
    crew, storage = crew_of(workers), task.rows.workspace.path("tmp", f"head-{task.digest[:16]}")
    say(f"head       {crew.describe()}")
    checkpoint = train_on_workers(task, crew, storage=storage)
    reach("head.trained")
    with checkpoint.as_directory() as folder:
        model = _publish(task, Path(folder))
    remove_folder(storage)
    return model


def _publish(task: HeadTask, folder: Path) -> Model:
    """Store the best head; all but its standing among the others decides its output."""
    outcome = json.loads((folder / OUTCOME).read_text())
    (folder / OUTCOME).unlink()
    (folder / STATE).unlink(missing_ok=True)  # of a run on Ray Train
    of_sequences = {"width": load_head(folder).classifier.in_features, "sequence_widths": task.rows.widths}
    return publish_model(
        task.rows.workspace,
        kind="head",
        name=HEAD_MODEL,
        folder=folder,
        identity=sorted(path.name for path in folder.iterdir()),
        recipe=task.digest,
        card={
            "encoders": [model.id for model in task.rows.encoders],
            "categories": task.rows.categories,
            "kind_of_head": outcome["kind"],
            "sequences": task.recipe.sequences,
            **(of_sequences if task.recipe.sequences else {}),
            "metrics": {"split": "fusion", **outcome["metrics"]},
            "standings": outcome["standings"],
            "training": asdict(task.recipe),
        },
    )
