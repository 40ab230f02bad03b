"""Catalog, labels -> encoders."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import tyro

from jobs._cli import TrainingJob, plan, run_job, weights_folder
from mmbatch.errors import InputError
from mmbatch.models import Model
from mmbatch.presets import EncoderRecipe, preset_named
from mmbatch.training import Training
from mmbatch.workspace import Workspace, normalise_uri

if TYPE_CHECKING:
    from mmbatch.pipelines.finetune import Resources


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
    recipes = [changed(recipe, config.training) for recipe in chosen(workspace, config.encoder)]
    workers = _workers(config.workers)
    for flag, value in (("--micro-batch", config.micro_batch), ("--checkpoint-steps", config.checkpoint_steps)):
        if value is not None and value < 1:
            raise InputError(f"{flag} {value}: expected 1 or more")
    if config.start_from and config.encoder is None:
        raise InputError(f"--start-from {config.start_from}: name the encoder that it is for with --encoder")
    if config.dry_run:
        return plan(config, encoders=[asdict(recipe) for recipe in recipes])

    from mmbatch.pipelines.finetune import Resources

    resources = Resources(workers=workers, micro_batch=config.micro_batch, checkpoint_steps=config.checkpoint_steps)
    weights = weights_folder(config)
    start_from = normalise_uri(config.start_from) if config.start_from else None
    with workspace.writing("finetune_encoder", wait_s=config.wait) as workspace:
        models = [
            finetune_recipe(workspace, recipe, weights=weights, start_from=start_from, resources=resources)
            for recipe in recipes
        ]
    return {"encoders": {model.id: model.card["metrics"] for model in models if model}}


def finetune_recipe(
    workspace: Workspace,
    recipe: EncoderRecipe,
    *,
    weights: str | None,
    start_from: str | None = None,
    resources: "Resources | None" = None,
) -> Model | None:
    """Fine-tune one encoder of a preset; None when the catalog has nothing that it could learn from."""
    from mmbatch.pipelines.finetune import Resources, finetune

    return finetune(
        workspace,
        name=recipe.name,
        modality=recipe.modality,
        kind=recipe.kind,
        arguments=recipe.arguments,
        training=recipe.training,
        weights=weights,
        start_from=start_from,
        resources=resources or Resources(),
    )


def _workers(flag: str | None) -> tuple[int, int] | None:
    if flag is None:
        return None
    least, _, most = flag.partition(":")
    if not (least.isdecimal() and (most or least).isdecimal() and 1 <= int(least) <= int(most or least)):
        raise InputError(f"--workers {flag}: expected a number from 1 up, or FEWEST:MOST")
    return int(least), int(most or least)


def changed(recipe: EncoderRecipe, fields: Sequence[str]) -> EncoderRecipe:
    """The recipe with some fields of its training set anew; the process ends with a usage line where one is unknown."""
    flags: list[str] = []
    for pair in fields:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--training {pair}: expected field=value")
        flags += [f"--{name.replace('_', '-')}", *value.split(",")]
    if not flags:
        return recipe
    training = tyro.cli(Training, args=flags, default=recipe.training, prog="--training")
    return replace(recipe, training=training)


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
