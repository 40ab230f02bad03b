"""All of it in order: ingest, fine-tune, extract, head, late fusion, predict, evaluate."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from mmbatch.sources import estimate_rows, list_files, plan_units

from jobs._cli import TrainingJob, plan, run_job
from jobs._source import SourceJob, columns_of, open_or_create
from mmbatch.errors import InputError
from mmbatch.presets import Preset, preset_named
from mmbatch.progress import say
from mmbatch.workspace import Workspace, normalise_uri


@dataclass(frozen=True, kw_only=True)
class Pipeline(SourceJob, TrainingJob):
    """Run the whole job; what is done already is found and kept. Without --source, on the built-in sample catalog."""

    rows: int = 3_000
    """Rows of the built-in sample catalog, when no --source is named."""


def main(config: Pipeline) -> dict[str, Any]:
    """Run every stage."""
    source = config.source or _sample(config)
    files = list_files(source)
    columns = columns_of(config, preset_named(config.preset or "sample")) if config.columns else None
    if columns:
        plan_units(files, columns)  # a misspelt column must not leave an empty workspace behind
    if config.dry_run:
        return plan(config, source=source, files=len(files), rows_estimated=estimate_rows(files))
    workspace, preset = open_or_create(config, files)

    from mmbatch.pipelines.ingest import ingest

    stages = {"ingest": ingest(workspace, source=source, columns=columns or columns_of(config, preset))}
    return stages | run_stages(workspace, preset, weights=config.weights)


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
    from mmbatch.pipelines.finetune import finetune
    from mmbatch.pipelines.predict import predict
    from mmbatch.pipelines.train import train_head, train_late_fusion

    clock, timings = time.monotonic(), {}

    def lap(stage: str) -> None:
        nonlocal clock
        timings[stage], clock = time.monotonic() - clock, time.monotonic()

    encoders = []
    for recipe in preset.encoders:
        named = {"name": recipe.name, "modality": recipe.modality, "kind": recipe.kind}
        training = asdict(recipe.training)
        model = finetune(workspace, **named, arguments=recipe.arguments, training=training, weights=weights)
        encoders += [model] if model else []
        lap(f"fine-tune {recipe.name}")
    stages: dict[str, Any] = {"encoders": [model.id for model in encoders], "extract": extract(workspace, encoders)}
    lap("extract")
    head = train_head(workspace, encoders, recipe=asdict(preset.head))
    lap("head")
    predictor = train_late_fusion(workspace, encoders, head)
    lap("late fusion")
    stages |= {"predictor": predictor.id, "predict": predict(workspace, predictor)}
    lap("predict")
    stages["evaluate"] = evaluate(workspace, predictor, timings=timings)
    _say_where(workspace, stages["evaluate"]["counts"]["report"])
    return stages


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
