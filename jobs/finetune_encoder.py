"""Catalog, labels -> encoders."""

from dataclasses import asdict, dataclass
from typing import Any

from jobs._cli import TrainingJob, plan, run_job, weights_folder
from mmbatch.errors import InputError
from mmbatch.models import Model
from mmbatch.presets import EncoderRecipe, preset_named
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class FinetuneEncoder(TrainingJob):
    """Fine-tune the encoders of the workspace's preset on its train rows; one that is stored already is kept."""

    encoder: str | None = None
    """Name of one encoder of the preset; all of them by default."""
    workers: int | None = None
    """Training processes; default: one per GPU, or one where there is none."""


def main(config: FinetuneEncoder) -> dict[str, Any]:
    """Fine-tune one encoder or all."""
    workspace = Workspace.open(config.workspace)
    recipes = chosen(workspace, config.encoder)
    if config.workers is not None and config.workers < 1:
        raise InputError(f"--workers {config.workers}: expected 1 or more")
    if config.dry_run:
        return plan(config, encoders=[asdict(recipe) for recipe in recipes])

    weights = weights_folder(config)
    with workspace.writing("finetune_encoder", wait_s=config.wait) as workspace:
        models = [finetune_recipe(workspace, recipe, weights=weights, workers=config.workers) for recipe in recipes]
    return {"encoders": {model.id: model.card["metrics"] for model in models if model}}


def finetune_recipe(
    workspace: Workspace, recipe: EncoderRecipe, *, weights: str | None, workers: int | None = None
) -> Model | None:
    """Fine-tune one encoder of a preset; None when the catalog has nothing that it could learn from."""
    from mmbatch.pipelines.finetune import finetune

    return finetune(
        workspace,
        name=recipe.name,
        modality=recipe.modality,
        kind=recipe.kind,
        arguments=recipe.arguments,
        training=asdict(recipe.training),
        weights=weights,
        workers=workers,
    )


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
