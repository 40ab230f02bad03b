"""A sweep: trials of an encoder's recipe on Ray Tune, each a run of the one training loop; the best one's model is stored.

A trial lies where `finetune` of its recipe would lie, under the same digest. The best is therefore handed to `finetune`,
which stores its best checkpoint without training it again, and trains on only where the scheduler had stopped it early.

A sweep has no state of its own. What ended trials scored stands in the table `trials`, and what an unfinished one has
scored in its last checkpoint; the same command tells the scheduler both again, in the order of the trials, so that it
decides as it did. (`Tuner.restore` would not: it brings back the trials, and a scheduler that knows none of them.)
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from threading import Thread
from typing import Any

from ray import tune
from ray.train import UserCallback
from ray.tune.schedulers import ASHAScheduler
from ray.util.queue import Queue

from mmbatch.catalog import Catalog
from mmbatch.encoders import require_weights
from mmbatch.errors import InputError
from mmbatch.models import Model
from mmbatch.pipelines.cluster import lines_from_workers, processors, quiet_streams, remove_folder, start_ray
from mmbatch.pipelines.finetune import Resources, Subject, check_recipe, finetune
from mmbatch.pipelines.rows import training_labels
from mmbatch.pipelines.train_loop import Task
from mmbatch.pipelines.training_run import FAILURES, Crew, crew_of, fit, history_at
from mmbatch.progress import say
from mmbatch.runs import Run
from mmbatch.schema import Modality
from mmbatch.sweep import (
    TRIED,
    Search,
    changes,
    found_trials,
    record_trial,
    search_of,
    table_of,
    trials_of,
    trials_table,
)
from mmbatch.training import Training
from mmbatch.workspace import Workspace

REDUCTION = 3
"""At 1, 3, 9, ... epochs a trial goes on if it is in the best third of those that came so far: the eta of Hyperband (Li
et al. 2018: 3 or 4; e is the optimum) in its asynchronous form (ASHA, Li et al. 2020)."""

TRIAL_CPUS = 0.01
"""Reserved by the process that waits for a trial's workers."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep ends with."""

    model: Model
    """Of the best trial."""
    changes: tuple[str, ...]
    """Its recipe, as `--training` takes it, against the one that was searched around."""


def sweep(
    workspace: Workspace,
    *,
    name: str,
    modality: Modality,
    kind: str,
    arguments: Mapping[str, Any],
    training: Training,
    weights: str | None,
    start_from: str | None = None,
    resources: Resources,
    count: int,
    search: Search | None = None,
) -> Swept | None:
    """Try `count` recipes around `training`, and fine-tune the encoder by the best; the other arguments as `finetune`'s.

    Args:
        workspace: whose catalog is learned; its seed decides which recipes are tried.
        name: the encoder's name.
        modality: what it encodes.
        kind: key of `mmbatch.encoders.BUILDERS`.
        arguments: of that builder.
        training: the recipe that is searched around, and the first that is tried.
        weights: folder of pretrained weights that is looked into first.
        start_from: file of weights that replace the pretrained ones.
        resources: what a trial may use: one worker by default, so that as many trials run at once as there are GPUs, and
            micro-batches of at most the recipe's own batch, so that no trial needs more memory than the recipe.
        count: number of trials.
        search: what is tried; None: `search_of(kind)`.

    Returns:
        The model of the trial with the best macro-F1 on the fusion rows; None when no train row has this modality.

    Raises:
        InputError: every trial failed; the message is the first one's reason.
    """
    subject = Subject(
        workspace=workspace,
        name=name,
        modality=modality,
        kind=kind,
        arguments=arguments,
        weights=weights,
        start_from=start_from,
        labels=training_labels(Catalog(workspace=workspace)),
    )
    if not subject.learnable:
        return None
    trials = trials_of(training, search or search_of(kind), count=count, seed=workspace.settings.seed)
    for trial in trials:
        check_recipe(name, modality, trial)
    require_weights(kind, arguments, weights)
    resources = replace(resources, micro_batch=resources.micro_batch or training.batch_size)
    rows = _rows_of(subject, trials, resources)
    for line in table_of(rows, trials):
        say(f"sweep      {line}")
    best = _best(rows)
    model = finetune(
        workspace,
        name=name,
        modality=modality,
        kind=kind,
        arguments=arguments,
        training=trials[best],
        weights=weights,
        start_from=start_from,
        resources=resources,
    )
    assert model is not None
    for trial in trials:
        remove_folder(subject.folder(trial))
    return Swept(model=model, changes=tuple(changes(trials[best], training)))


def _best(rows: Mapping[int, Mapping[str, Any]]) -> int:
    """The trial with the best score, the first of equals; `InputError` when all failed."""
    scored = [number for number in sorted(rows) if rows[number]["reason"] is None]
    if not scored:
        raise InputError(f"all {len(rows)} trials failed, the first of: {rows[0]['reason']}")
    return max(scored, key=lambda number: float(rows[number]["macro_f1"]))


def _rows_of(subject: Subject, trials: Sequence[Training], resources: Resources) -> dict[int, dict[str, Any]]:
    """Every trial's row of `schema.TRIALS`, by its number; those that are not in the table yet are tried now."""
    ended = found_trials(subject.workspace, subject.name)
    recipes = [subject.recipe(trial) for trial in trials]
    found = {number: ended[recipe] for number, recipe in enumerate(recipes) if recipe in ended}
    say(f"sweep      {subject.name}: {len(trials)} trials, {len(found)} of them tried before")
    if len(found) == len(trials):
        return found
    settings = subject.settings(trials[0]) | {"trials": len(trials)}
    run = Run(workspace=subject.workspace, job="sweep", settings=settings)
    start_ray()
    with lines_from_workers() as lines:
        plan = _Plan(
            task=subject.task(trials[0], resources=resources, lines=lines),
            crew=crew_of(resources.workers or (1, 1)),
            trials=tuple(trials),
            recipes=tuple(recipes),
            folders=tuple(subject.folder(trial) for trial in trials),
            scores={number: tuple(row["scores"]) for number, row in found.items()},
        )
        record = _Record(subject.workspace, run.run_id, plan)
        _tune(plan, record, folder=subject.workspace.path("tmp", f"sweep-{subject.name}-{recipes[0][:16]}"))
    failed = sum(row["reason"] is not None for row in record.rows.values())
    counts = {"trials": len(trials), "found": len(found), "tried": len(record.rows), "failed": failed}
    run.finish(counts, {"trials": trials_table(subject.workspace).version()})
    return found | record.rows


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What every trial is given."""

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
            refusals=Queue(actor_options={"num_cpus": 0}),
        )


def _tune(plan: _Plan, record: "_Record", *, folder: str) -> None:
    """Run the trials, as many at once as there are GPUs for; on CPUs one by one, as each uses all threads."""
    for variable in ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "TUNE_DISABLE_SIGINT_HANDLER"):
        os.environ.setdefault(variable, "1")
    epochs, gpus = plan.task.training.epochs, processors()[1]
    remove_folder(folder)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_try, plan=plan), {"CPU": TRIAL_CPUS}),
        param_space={"trial": tune.grid_search(list(range(len(plan.trials))))},
        tune_config=tune.TuneConfig(
            metric="macro_f1",
            mode="max",
            scheduler=_scheduler(epochs) if epochs > 1 else None,
            max_concurrent_trials=max(1, gpus // plan.crew.most) if plan.crew.gpus else 1,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=folder,
            callbacks=[record],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=FAILURES - 1),
        ),
    )
    tuner.fit()
    remove_folder(folder)


def _scheduler(epochs: int) -> ASHAScheduler:
    """ASHA; nobody is judged after the last epoch, when nothing is left to save."""
    return ASHAScheduler(
        time_attr="epochs", max_t=epochs - 1, grace_period=1, reduction_factor=REDUCTION, stop_last_trials=False
    )


def _try(config: dict[str, Any], *, plan: _Plan) -> None:
    """One trial, in a process of its own: what it scored before is told again, then it goes on from its checkpoint."""
    quiet_streams()
    number = config["trial"]
    if number in plan.scores:
        for epoch, score in enumerate(plan.scores[number]):
            tune.report({"epochs": epoch + 1, "macro_f1": score, "seconds": 0.0})
        return
    for entry in history_at(plan.folders[number]):
        tune.report(_told(entry))
    reason = None
    with _reporting() as callback:
        try:
            fit(plan.task_of(number), plan.crew, storage=plan.folders[number], callbacks=[callback])
        except InputError as error:
            reason = str(error)
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
    queue = Queue(actor_options={"num_cpus": 0})
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


@dataclass
class _Record(tune.Callback):
    """Follows the trials from the driver, and adds each to the table as it ends."""

    workspace: Workspace
    run_id: str
    plan: _Plan
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Of the trials that ended, by number."""
    epochs: dict[int, dict[int, dict[str, Any]]] = field(default_factory=dict)
    """Of each trial, what it told of each finished epoch, from 1."""
    ends: dict[int, str | None] = field(default_factory=dict)
    """Why each trial that came to its end failed, None if it did not."""

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Called by Ray Tune for every report."""
        number = trial.config["trial"]
        if "reason" in result:
            self.ends[number] = result["reason"]
        else:
            self.epochs.setdefault(number, {})[int(result["epochs"])] = result

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune again and again; an error that is raised here reaches the caller as it is."""
        for trial in trials:
            number = trial.config["trial"]
            if trial.is_finished() and number not in self.rows and number not in self.plan.scores:
                self.rows[number] = self._row(trial, number)
                record_trial(self.workspace, self.rows[number])
                self._say(number)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune last."""
        self.on_step_end(0, trials)

    def _row(self, trial: Any, number: int) -> dict[str, Any]:
        told = self.epochs.get(number, {})
        scores = [told[epoch]["macro_f1"] for epoch in sorted(told)]
        died = _last_line(trial.get_error()) if trial.status == "ERROR" else None
        training = asdict(self.plan.trials[number])
        return {
            "run_id": self.run_id,
            "encoder": self.plan.task.name,
            "trial": number,
            "recipe": self.plan.recipes[number],
            **{name: training[name] for name in TRIED},
            "epochs": len(scores),
            "macro_f1": max(scores, default=None),
            "scores": scores,
            "seconds": sum(entry["seconds"] for entry in told.values()),
            "stopped": died is None and number not in self.ends,
            "reason": self.ends.get(number) or died,
            "bucket": 0,
        }

    def _say(self, number: int) -> None:
        row, epochs = self.rows[number], self.plan.trials[number].epochs
        outcome = (
            f"failed: {row['reason']}"
            if row["reason"]
            else f"macro-F1 {row['macro_f1']:.4f} in {row['epochs']} of {epochs} epochs"
            + (", stopped as others were better" if row["stopped"] else "")
        )
        say(f"sweep      {self.plan.task.name} trial {number}: {outcome}")


def _last_line(error: object) -> str:
    """What a process said last when it died."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "it died without a word"
