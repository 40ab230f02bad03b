"""Catalog, labels -> encoders."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jobs._cli import TrainingJob, plan, run_job, weights_folder
from jobs._recipe import changed, workers_of
from mmbatch.errors import InputError
from mmbatch.models import Model
from mmbatch.presets import preset_named
from mmbatch.progress import say
from mmbatch.training import EncoderRecipe, Training
from mmbatch.workspace import Workspace, normalise_uri

if TYPE_CHECKING:
    from mmbatch.pipelines.finetune import Resources, Subject


@dataclass(frozen=True, kw_only=True)
class FinetuneEncoder(TrainingJob):
    """Fine-tune the encoders of the workspace's preset on its train rows; one that is stored already is kept.

    A run that was killed goes on from its last checkpoint when the same command is given again.
    """

    encoder: str | None = None
    """Name of one encoder of the preset; all of them by default."""
    training: tuple[str, ...] = ()
    """Fields of the recipe to change, such as epochs=5 learning_rate=2e-5 mixup=0.2 patience=2 lora.rank=16."""
    start_from: str | None = None
    """File of weights that replace the pretrained ones before training: a plain state dict, .safetensors or .pth. With
    --encoder only."""
    sweep: int | None = None
    """Try this many recipes around the encoder's own with Ray Tune, keep a table of them, and store the best one's
    model. With --encoder only."""
    workers: str | None = None
    """Training processes: a number, or FEWEST:MOST to go on with as many as there are. Default: one per GPU, or one
    where there is none."""
    micro_batch: int | None = None
    """Products that go through the network at once in a worker: lower it when memory runs out, the result is the same.
    """
    checkpoint_steps: int = 500
    """Steps between two checkpoints within an epoch; there is one at the end of each epoch anyway."""


def main(config: FinetuneEncoder) -> dict[str, Any]:
    """Fine-tune one encoder or all."""
    workspace = Workspace.open(config.workspace)
    recipes = [
        replace(recipe, training=changed(recipe.training, config.training))
        for recipe in chosen(workspace, config.encoder)
    ]
    workers = workers_of(config.workers)
    for flag in ("sweep", "micro_batch", "checkpoint_steps"):
        value = getattr(config, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag.replace('_', '-')} {value}: expected 1 or more")
    if config.start_from and config.encoder is None:
        raise InputError(f"--start-from {config.start_from}: name the encoder that it is for with --encoder")
    if config.sweep is not None and config.encoder is None:
        raise InputError(f"--sweep {config.sweep}: name the encoder that it is for with --encoder")
    if config.dry_run:
        return plan(config, encoders=[asdict(recipe) for recipe in recipes], **_search(config, recipes))

    from mmbatch.pipelines.finetune import Resources, finetune, subjects_of

    resources = Resources(workers=workers, micro_batch=config.micro_batch, checkpoint_steps=config.checkpoint_steps)
    weights = weights_folder(config)
    start_from = normalise_uri(config.start_from) if config.start_from else None
    with workspace.writing("finetune_encoder", wait_s=config.wait) as workspace:
        subjects = subjects_of(workspace, recipes, weights=weights, start_from=start_from)
        train = finetune if config.sweep is None else partial(_swept, config)
        models = [train(subject, recipe.training, resources) for subject, recipe in zip(subjects, recipes, strict=True)]
    return {"encoders": {model.id: model.card["metrics"] for model in models if model}}


def _swept(config: FinetuneEncoder, subject: "Subject", training: Training, resources: "Resources") -> Model | None:
    """The model of the best recipe around the encoder's own, and the flags that make it again."""
    from mmbatch.pipelines.sweep import sweep

    assert config.sweep is not None
    found = sweep(subject, training, resources, count=config.sweep)
    if found is None:
        return None
    flags = " ".join([*config.training, *found.changes])
    say(f"sweep      the same without a sweep: --encoder {subject.name}" + (f" --training {flags}" if flags else ""))
    return found.model


def _search(config: FinetuneEncoder, recipes: Sequence[EncoderRecipe]) -> dict[str, Any]:
    """What a sweep would try, for the dry run."""
    if config.sweep is None:
        return {}
    from mmbatch.sweep import search_of

    return {"search": {recipe.name: {"trials": config.sweep, **asdict(search_of(recipe.kind))} for recipe in recipes}}


def chosen(workspace: Workspace, name: str | None) -> list[EncoderRecipe]:
    """The preset's encoder of that name, or all."""
    preset = preset_named(workspace.settings.preset)
    recipes = [recipe for recipe in preset.encoders if name in (None, recipe.name)]
    if not recipes:
        there = ", ".join(recipe.name for recipe in preset.encoders)
        raise InputError(f"--encoder {name}: preset {preset.name} has none of that name, only {there}")
    return recipes


if __name__ == "__main__":
    run_job(FinetuneEncoder, main)
