"""Boosting on more fusion rows than are held to choose how: every row's candidates, in one process or on Ray Train.

Ray Train's LightGBM workers each read their part of the feature store; LightGBM joins their histograms, as its
data-parallel tree learner does. The model is written in the same text format either way.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import ray.train
from ray.train import Checkpoint, CheckpointConfig
from ray.train.lightgbm import LightGBMTrainer, get_network_params

from mmbatch.errors import InputError
from mmbatch.fusion.boosting import Rows, join_rows, train_booster
from mmbatch.fusion.late import BOOSTER_FILE, LateFusion
from mmbatch.fusion.taxonomy_paths import Ints
from mmbatch.pipelines.cluster import remove_folder
from mmbatch.pipelines.scored_rows import ScoredRows
from mmbatch.pipelines.training_run import Crew, last_death, run_workers


@dataclass(frozen=True)
class BoostTask:
    """What a worker needs to boost on its part of the fusion rows."""

    scored: ScoredRows
    late: LateFusion
    """With the recipe, the weighting that boosting starts from, and the number of rounds."""
    parameters: Mapping[str, object]


def boost_here(task: BoostTask) -> lightgbm.Booster:
    """Boost on all fusion rows in this process."""
    rows, codes = _read(task)
    return train_booster(rows, codes, task.parameters, rounds=task.late.report.rounds)


def boost_on_workers(task: BoostTask, crew: Crew, *, storage: str) -> lightgbm.Booster:
    """Boost on all fusion rows on Ray Train; `InputError` where workers have died again and again."""
    try:
        kept = CheckpointConfig(num_to_keep=1)
        result = run_workers(_worker, task, crew, storage=storage, kept=kept, trainer=LightGBMTrainer)
    except ray.train.WorkerGroupError as error:
        raise InputError(f"late fusion: {last_death(error)}") from error
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        booster = lightgbm.Booster(model_str=(Path(folder) / BOOSTER_FILE).read_text())
    remove_folder(storage)
    return booster


def _worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs; the first one brings the model."""
    task, context = config["task"], ray.train.get_context()
    rows, codes = _read(task, worker=context.get_world_rank(), workers=context.get_world_size())
    together = {"tree_learner": "data", "pre_partition": True, **get_network_params()}
    booster = train_booster(rows, codes, {**task.parameters, **together}, rounds=task.late.report.rounds)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / BOOSTER_FILE).write_text(booster.model_to_string())
        ray.train.report({}, checkpoint=None if context.get_world_rank() else Checkpoint.from_directory(folder))


def _read(task: BoostTask, *, worker: int = 0, workers: int = 1) -> tuple[Rows, Ints]:
    """LightGBM's rows of one worker's part, and the class codes of its products."""
    parts, codes = [], []
    for probabilities, said in task.scored.parts("fusion", worker=worker, workers=workers):
        parts.append(task.late.boosting_rows(probabilities))
        codes.append(said)
    return join_rows(parts, [len(said) for said in codes]), np.concatenate(codes)
