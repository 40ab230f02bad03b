"""Speed of fine-tuning on a catalog with photos.

    python -m benchmarks.training steps   --source FILE --weights DIR --folder DIR --encoder NAME [--epochs 4]
    python -m benchmarks.training workers --source FILE --weights DIR --folder DIR --encoder NAME [--epochs 4]
    python -m benchmarks.training resume  --source FILE --weights DIR --folder DIR --encoder NAME

steps    steps per second of `jobs.finetune_encoder` with one worker of one thread, all decoding included, beside a
         plain PyTorch loop of one thread over the same batches, decoded and tokenised beforehand, run before and after
workers  two workers of one thread each beside one worker of one thread, bound to one processor with its decoding
resume   seconds from the start of a job whose run was killed to its first step

`NAME` is an encoder of the preset flipkart-small; `--folder` is new. The first epoch is left out: it holds the start.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from benchmarks.running import new_workspace, report, run_job
from mmbatch.catalog import Catalog
from mmbatch.encoders import build_encoder, collate_all, row_sizes, to_tensors
from mmbatch.models import list_models
from mmbatch.pipelines.classifier import Classifier
from mmbatch.pipelines.cluster import ALLOCATOR
from mmbatch.pipelines.optimisation import optimizer_of, rates_of
from mmbatch.pipelines.rows import training_labels
from mmbatch.pipelines.training_plan import SplitRows, TrainingPlan
from mmbatch.presets import preset_named
from mmbatch.training import EncoderRecipe, Training
from mmbatch.workspace import Workspace

PRESET = "flipkart-small"


def recipe_of(name: str) -> EncoderRecipe:
    """An encoder's recipe."""
    return next(recipe for recipe in preset_named(PRESET).encoders if recipe.name == name)


def plain(flags: argparse.Namespace) -> dict[str, Any]:
    """The loop that anybody would write, over batches that lie in memory."""
    torch.set_num_threads(1)
    recipe, workspace = recipe_of(flags.encoder), Workspace.open(workspace_of(flags))
    training, labels = recipe.training, training_labels(Catalog(workspace=workspace))
    rows = labels.with_modality(recipe.modality)
    rows = rows[rows["split"] == "train"].sort_values(["bucket", "product_id"])
    source = pq.read_table(flags.source)
    table = source.take(pc.index_in(pa.array(rows["product_id"]), value_set=source["product_id"].combine_chunks()))
    encoder = build_encoder(recipe.kind, weights=flags.weights, seed=0, **recipe.arguments)
    split = SplitRows.of(rows, "train")
    plan = TrainingPlan(split, row_sizes(encoder, table), training.batch_size, 0, shuffled=True)
    batches = [
        (to_tensors(collate_all(encoder, encoder.prepare(table.take(pa.array(chosen))).inputs), "cpu"), codes)
        for unit in plan.order(0)
        for chosen in plan.batches(0, unit)
        for codes in [torch.from_numpy(split.codes[chosen]).long()]
    ]
    module = Classifier(encoder, len(labels.categories), dropout=training.dropout, activation=training.activation)
    module.freeze(prefixes=training.frozen, batch_norm=training.frozen_batch_norm)
    module.train()
    optimizer = optimizer_of(module, training, rates_of(module, training))
    seconds = [_epoch(module, optimizer, batches, training) for _ in range(flags.epochs)]
    return {"steps_per_s": len(batches) * (flags.epochs - 1) / sum(seconds[1:]), "padding": plan.padding()}


def _epoch(
    module: Classifier,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[tuple[dict[str, torch.Tensor], torch.Tensor]],
    training: Training,
) -> float:
    """Seconds of one pass."""
    clock = time.monotonic()
    for inputs, codes in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(module(inputs), codes, label_smoothing=training.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), training.clip)
        optimizer.step()
    return time.monotonic() - clock


def workspace_of(flags: argparse.Namespace) -> str:
    """Where the job's workspace lies."""
    return str(Path(flags.folder) / "workspace")


def job_of(flags: argparse.Namespace, *more: str) -> list[str]:
    """The command that fine-tunes the encoder."""
    return [
        *(sys.executable, "-m", "jobs.finetune_encoder", "--workspace", workspace_of(flags)),
        *("--encoder", flags.encoder, "--weights", flags.weights, *more),
    ]


def trained(flags: argparse.Namespace, *more: str, prefix: Sequence[str] = ()) -> dict[str, Any]:
    """Run the job, its torch at one thread a worker; steps per second after the first epoch."""
    before = {model.id for model in list_models(Workspace.open(workspace_of(flags)), "encoder")}
    command = [*prefix, *job_of(flags, "--training", f"epochs={flags.epochs}", *more)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"})
    models = list_models(Workspace.open(workspace_of(flags)), "encoder")
    history = next(model for model in models if model.id not in before).card["history"][1:]
    seconds = sum(epoch["seconds"] for epoch in history)
    return {
        "steps_per_s": sum(epoch["steps"] for epoch in history) / seconds,
        "waited_share": sum(epoch["waited_s"] for epoch in history) / seconds,
    }


def steps(flags: argparse.Namespace) -> dict[str, Any]:
    """Our loop between two runs of the plain one."""
    before = _plain_apart()
    ours = trained(flags, "weight_decay=0.011", "--workers", "1")
    after = _plain_apart()
    limit = (before["steps_per_s"] + after["steps_per_s"]) / 2
    return {"ours": ours, "plain": [before, after], "ratio": ours["steps_per_s"] / limit}


def _plain_apart() -> dict[str, Any]:
    """`plain` in a process of its own that has the job's allocator settings."""
    command = [sys.executable, "-m", "benchmarks.training", "plain", *sys.argv[2:]]
    done = subprocess.run(command, check=True, env=os.environ | ALLOCATOR, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def workers(flags: argparse.Namespace) -> dict[str, Any]:
    """One worker on one processor, two on two, one again; a recipe apart each, or the job would find its model."""
    one = trained(flags, "weight_decay=0.012", "--workers", "1", prefix=("taskset", "-c", "0"))
    two = trained(flags, "weight_decay=0.013", "--workers", "2")
    again = trained(flags, "weight_decay=0.014", "--workers", "1", prefix=("taskset", "-c", "0"))
    return {
        "one": [one, again],
        "two": two,
        "ratio": two["steps_per_s"] / ((one["steps_per_s"] + again["steps_per_s"]) / 2),
    }


def resume(flags: argparse.Namespace) -> dict[str, Any]:
    """Kill the job in its second epoch, start it again, and wait for its first step."""
    _until(flags, "epoch 1 /")
    return {"seconds_to_first_step": _until(flags, "goes on at")}


def _until(flags: argparse.Namespace, text: str) -> float:
    """Seconds from a job's start to a line with this text, at which all its processes are killed."""
    clock = time.monotonic()
    job = subprocess.Popen(job_of(flags), stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert job.stderr is not None
    with job.stderr:
        found = any(text in line for line in job.stderr)
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    if not found:
        raise RuntimeError(f"the job ended without a line with {text!r}")
    return time.monotonic() - clock


def main() -> None:
    """Run one measurement; makes the workspace where it is not there."""
    modes = {"steps": steps, "workers": workers, "resume": resume, "plain": plain}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=modes)
    for flag in ("--source", "--weights", "--folder"):
        parser.add_argument(flag, required=True, type=os.path.abspath)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--epochs", type=int, default=4)
    flags = parser.parse_args()
    if not Workspace.exists(workspace_of(flags)):
        workspace = new_workspace(
            Path(workspace_of(flags)), preset=PRESET, rows=pq.read_metadata(flags.source).num_rows
        )
        run_job("ingest", workspace.uri, "--source", flags.source)
    figures = modes[flags.mode](flags)
    report(f"{flags.mode} {flags.encoder}: {figures}", figures)


if __name__ == "__main__":
    main()
