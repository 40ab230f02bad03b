"""One run of training on Ray Train: its workers, its checkpoints, and why it cannot go on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.lightgbm import LightGBMTrainer
from ray.train.torch import TorchTrainer

from mmbatch.errors import InputError
from mmbatch.pipelines.capacity import machines, processors, require, say_plan
from mmbatch.pipelines.resources import TRAIN, TRAIN_PREPARE, Ask, joined, on_gpu, room
from mmbatch.pipelines.train_loop import Task, train_loop
from mmbatch.pipelines.training_state import STATE

FAILURES = 3
"""Deaths of workers after which training gives up."""

RUN = "run"
"""Ray Train's name for a run within its folder."""


@dataclass(frozen=True)
class Crew:
    """The workers of one run."""

    least: int
    most: int
    gpus: bool
    """A GPU for each."""
    threads: int | None
    """Of torch on a machine, shared by its workers; None: as many as Ray knows processors of it (`threads_here`)."""

    @property
    def ask(self) -> Ask:
        """What each worker asks for."""
        return on_gpu(TRAIN, self.gpus)

    def scaling(self) -> ScalingConfig:
        """What Ray Train is asked for."""
        return ScalingConfig(
            num_workers=self.least if self.least == self.most else (self.least, self.most),  # type: ignore[arg-type]
            use_gpu=self.gpus,
            resources_per_worker=self.ask.resources,
        )

    def describe(self) -> str:
        """`2 to 4 worker(s), a GPU each`."""
        number = self.least if self.least == self.most else f"{self.least} to {self.most}"
        threads = f"{self.threads} CPU thread(s)" if self.threads else "every machine's processors"
        return f"{number} worker(s), {'a GPU each' if self.gpus else threads}"


def crew_of(workers: tuple[int, int] | None) -> Crew:
    """Fewest and most workers, or as many as there are GPUs; one worker where there are none.

    `InputError` where fewer than the fewest fit on this machine, or on the cluster and nothing is joining it
    (`capacity.require`).
    """
    logical, gpus = processors()
    least, most = workers or (max(1, gpus), max(1, gpus))
    if not joined() and least > (gpus or logical - 1):
        raise InputError(f"--workers {least}: this machine has {gpus} GPUs and room for {logical - 1} workers on CPUs")
    crew = Crew(least, most, gpus=bool(gpus), threads=None if joined() else torch.get_num_threads())
    require((crew.ask, least), (TRAIN_PREPARE, 1))
    if joined():
        say_plan(crew.ask.stage, (crew.ask, min(most, room(machines(), crew.ask))))
    return crew


@dataclass(frozen=True)
class Done:
    """What a run of training leaves."""

    best: Checkpoint
    history: list[dict[str, float]]
    """One entry per epoch (`Progress.history`)."""


def fit(task: Task, crew: Crew, *, storage: str, callbacks: Sequence[UserCallback] = ()) -> Done:
    """Train, from the last checkpoint below `storage` on; `InputError` says why training cannot go on."""
    kept = CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score")
    try:
        result = run_workers(train_loop, task, crew, storage=storage, kept=kept, callbacks=callbacks)
    except ray.train.WorkerGroupError as error:
        raise InputError(_reason(task, error)) from error
    if not task.refusals.empty():
        raise InputError(str(task.refusals.get()))
    best, _ = max(result.best_checkpoints or [], key=lambda found: float(found[1]["score"]))
    return Done(best, _history(result))


def run_workers(
    loop: Callable[[dict[str, Any]], None],
    task: object,
    crew: Crew,
    *,
    storage: str,
    kept: CheckpointConfig,
    callbacks: Sequence[UserCallback] = (),
    trainer: type[TorchTrainer] | type[LightGBMTrainer] = TorchTrainer,
) -> ray.train.Result:
    """Run `loop` in every worker, with `task` and `threads`, from the last checkpoint below `storage` on.

    `WorkerGroupError` where workers have died `FAILURES` times.
    """
    run = trainer(
        loop,
        train_loop_config={"task": task, "threads": crew.threads},
        scaling_config=crew.scaling(),
        run_config=RunConfig(
            name=RUN,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=FAILURES - 1),
            checkpoint_config=kept,
            callbacks=list(callbacks),  # type: ignore[arg-type]
        ),
    )
    return run.fit()


def last_death(error: ray.train.WorkerGroupError) -> str:
    """How the workers died, in one line."""
    rank, cause = min(error.worker_failures.items())
    line = next((line for line in reversed(str(cause).strip().splitlines()) if line.strip()), type(cause).__name__)
    return f"worker {rank} died {FAILURES} times, the last time of: {line.strip()}"


def history_at(storage: str) -> list[dict[str, float]]:
    """The epochs that a run below `storage`, ended or not, has finished; none where there is no checkpoint."""
    try:
        return _history(ray.train.Result.from_path(f"{storage}/{RUN}"))
    except RuntimeError:  # Ray's word for a folder that is not there
        return []


def _history(result: ray.train.Result) -> list[dict[str, float]]:
    if result.checkpoint is None:
        return []
    with result.checkpoint.as_directory() as latest:
        state = torch.load(Path(latest) / STATE, weights_only=True, map_location="cpu")
    history: list[dict[str, float]] = state["progress"]["history"]
    return history


def _reason(task: Task, error: ray.train.WorkerGroupError) -> str:
    """What a worker said when it gave up, or how the workers died."""
    if not task.refusals.empty():
        return str(task.refusals.get())
    return f"{task.name}: {last_death(error)}; if memory ran out, lower --micro-batch (the step stays as large)"
