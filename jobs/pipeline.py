"""All of it in order: ingest, fine-tune, extract, head, late fusion, predict, evaluate."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jobs._cli import TrainingJob, plan, run_job, weights_folder
from jobs._recipe import kinds_of
from jobs._source import SourceJob, check_source, open_or_create
from mmbatch.errors import InputError
from mmbatch.models import Model, reads_sequences
from mmbatch.presets import Preset
from mmbatch.progress import say
from mmbatch.workspace import Workspace, normalise_uri


@dataclass(frozen=True, kw_only=True)
class Pipeline(SourceJob, TrainingJob):
    """Run the whole job; what is done already is found and kept. Without --source, on the built-in sample catalog."""

    rows: int = 4_000
    """Rows of the built-in sample catalog, when no --source is named."""
    heads: str | None = None
    """Kinds of fusion head to try, such as addition,concatenation,cross-attention; the best on the fusion rows is kept.
    Default: the preset's."""


def main(config: Pipeline) -> dict[str, Any]:
    """Run every stage."""
    kinds = kinds_of(config.heads)
    uri = config.source or _sample(config)
    source = check_source(config, uri, preset=config.preset, snapshot=config.snapshot)
    if config.dry_run:
        return plan(config, **source._asdict())
    workspace, preset = open_or_create(config, source)
    preset = replace(preset, head=replace(preset.head, kinds=kinds or preset.head.kinds))

    from mmbatch.pipelines.ingest import ingest

    with workspace.writing("pipeline", wait_s=config.wait) as workspace:
        done = ingest(
            workspace,
            source=source.uri,
            columns=source.columns,
            access=source.images_from,
            snapshot=config.snapshot,
            allow_removals=config.allow_removals,
            allow_older=config.allow_older,
        )
        stages = {"ingest": done}
        return stages | run_stages(workspace, preset, weights=weights_folder(config))


def _sample(config: Pipeline) -> str:
    from mmbatch.sample import write_sample

    if config.preset not in (None, "sample") or config.columns:
        raise InputError("--source is missing: --preset and --columns are for a catalog of your own")
    seed = config.seed or 0
    folder = f"{normalise_uri(config.workspace)}/sample/seed{seed}-rows{config.rows}"
    say(f"sample     {config.rows:,} products, drawn once with seed {seed}")
    write_sample(folder, rows=config.rows, seed=seed)
    return folder


def run_stages(workspace: Workspace, preset: Preset, *, weights: str | None) -> dict[str, Any]:
    """Everything after ingest, in order; each stage finds for itself what is done."""
    from mmbatch.pipelines.evaluate import evaluate
    from mmbatch.pipelines.extract import extract
    from mmbatch.pipelines.extract_joined import extract_joined
    from mmbatch.pipelines.predict import predict
    from mmbatch.pipelines.train_head import train_head
    from mmbatch.pipelines.train_late_fusion import Goal, train_late_fusion

    clock, timings = time.monotonic(), {}

    def lap(stage: str) -> None:
        nonlocal clock
        timings[stage], clock = time.monotonic() - clock, time.monotonic()

    encoders = _finetune_all(workspace, preset, weights=weights, lap=lap)
    if not encoders:
        raise InputError(f"--workspace {workspace.uri}: no labelled product has what preset {preset.name} can encode")
    stages: dict[str, Any] = {"encoders": [model.id for model in encoders], "extract": extract(workspace, encoders)}
    lap("extract")
    head = train_head(workspace, encoders, recipe=preset.head)
    lap("head")
    if head and reads_sequences(head):
        stages["joined"] = extract_joined(workspace, head)
        lap("join")
    goal = Goal(precision=preset.precision)
    predictor = train_late_fusion(workspace, encoders, head, recipe=preset.late_fusion, goal=goal)
    lap("late fusion")
    stages |= {"predictor": predictor.id, "predict": predict(workspace, predictor)}
    lap("predict")
    stages["evaluate"] = evaluate(workspace, predictor, timings=timings)
    _say_where(workspace, stages["evaluate"]["counts"]["report"])
    return stages


def _finetune_all(
    workspace: Workspace, preset: Preset, *, weights: str | None, lap: Callable[[str], None]
) -> list[Model]:
    """The preset's encoders that the catalog has something to learn for; what they share of it is held no longer."""
    from mmbatch.pipelines.finetune import Resources, finetune, subjects_of

    encoders = []
    subjects = subjects_of(workspace, preset.encoders, weights=weights)
    for subject, recipe in zip(subjects, preset.encoders, strict=True):
        model = finetune(subject, recipe.training, Resources())
        encoders += [model] if model else []
        lap(f"fine-tune {recipe.name}")
    return encoders


def _say_where(workspace: Workspace, report: str) -> None:
    folder = workspace.path("predictions")
    say(
        f"\npredictions  {folder}\nreport       {report}\n\n"
        "read the predictions:\n"
        f"  duckdb -c \"INSTALL delta; LOAD delta; SELECT category, count(*) FROM delta_scan('{folder}') GROUP BY 1\"\n"
        f"  python -c \"from deltalake import DeltaTable; print(DeltaTable('{folder}').to_pandas())\""
    )


if __name__ == "__main__":
    run_job(Pipeline, main)
