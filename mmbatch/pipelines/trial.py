"""One trial of a sweep: a run of training in a process of its own, every epoch of which is told to Ray Tune."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any

from ray import tune
from ray.train import UserCallback
from ray.util.queue import Queue

from mmbatch.errors import InputError
from mmbatch.pipelines.cluster import beside_caller, quiet_streams
from mmbatch.pipelines.train_loop import Task
from mmbatch.pipelines.training_run import Crew, fit, history_at
from mmbatch.training import Training


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every trial of a sweep is given."""

    task: Task
    """Of the first trial."""
    crew: Crew
    trials: tuple[Training, ...]
    recipes: tuple[str, ...]
    folders: tuple[str, ...]
    """Where each has its checkpoints."""
    scores: Mapping[int, tuple[float, ...]]
    """macro-F1 after each epoch of those that ended before."""

    def task_of(self, number: int) -> Task:
        """One trial's; the queue of refusals is its own, and ends with it."""
        return replace(
            self.task,
            name=f"{self.task.name} trial {number}",
            training=self.trials[number],
            recipe=self.recipes[number],
            refusals=Queue(actor_options=beside_caller()),
        )


def try_recipe(config: dict[str, Any], *, plan: Plan) -> None:
    """One trial, in a process of its own: what it scored before is told again, then it goes on from its checkpoint."""
    quiet_streams()
    number = config["trial"]
    if number in plan.scores:
        for epoch, score in enumerate(plan.scores[number]):
            tune.report({"epochs": epoch + 1, "macro_f1": score, "seconds": 0.0})
        return
    for entry in history_at(plan.folders[number]):
        tune.report(_told(entry))
    task, reason = plan.task_of(number), None
    with _reporting() as callback:
        try:
            fit(task, plan.crew, storage=plan.folders[number], callbacks=[callback])
        except InputError as error:
            reason = str(error).removeprefix(f"{task.name}: ")
    tune.report({"macro_f1": float("nan"), "reason": reason})


def _told(entry: Mapping[str, float]) -> dict[str, float]:
    return {"epochs": entry["epoch"] + 1, "macro_f1": entry["macro_f1"], "seconds": entry["seconds"]}


@dataclass(frozen=True)
class _Epochs(UserCallback):
    """Tells a trial of each finished epoch of its workers."""

    queue: Queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        """Called by Ray Train once the checkpoint is kept; one within an epoch is passed over."""
        if "macro_f1" in metrics[0]:
            self.queue.put(_told(metrics[0]))


@contextmanager
def _reporting() -> Iterator[UserCallback]:
    """What a callback tells is reported to Ray Tune, all of it before the block is left.

    Ray's own `TuneReportCallback` puts an epoch where Tune fetches it from later, so that the end of the trial can come
    first.
    """
    queue = Queue(actor_options=beside_caller())
    reporter = Thread(target=_report, args=(queue,), daemon=True)
    reporter.start()
    try:
        yield _Epochs(queue)
    finally:
        queue.put(None)
        reporter.join()
        queue.shutdown()


def _report(queue: Queue) -> None:
    while (entry := queue.get()) is not None:
        tune.report(entry)
