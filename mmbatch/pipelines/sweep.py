"""A sweep: trials of an encoder's recipe on Ray Tune, each a run of the one training loop; the best is stored.

A trial lies where `finetune` of its recipe would lie, under the same digest. The best is therefore handed to `finetune`
itself: it stores the checkpoint without training again, and trains on only where the scheduler had stopped it early.

A sweep has no state of its own. What ended trials scored stands in the table `trials`, and what an unfinished one has
scored in its last checkpoint; the same command tells the scheduler both again, in the order of the trials, so that it
decides as it did. (`Tuner.restore` would not: it brings back the trials, and a scheduler that knows none of them.)
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from mmbatch.errors import InputError
from mmbatch.models import Model
from mmbatch.pipelines.capacity import processors
from mmbatch.pipelines.cluster import lines_from_workers, remove_folder, start_ray
from mmbatch.pipelines.finetune import Resources, Subject, finetune
from mmbatch.pipelines.resources import TRIAL
from mmbatch.pipelines.training_run import FAILURES, Crew, crew_of
from mmbatch.pipelines.trial import Plan, try_recipe
from mmbatch.progress import say
from mmbatch.runs import Run
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

QUIET = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
"""Ray Tune writes no logs of its own, leaves Ctrl+C to the job, and prints nothing."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep ends with."""

    model: Model
    """Of the best trial."""
    changes: tuple[str, ...]
    """Its recipe, as `--training` takes it, against the one that was searched around."""


def sweep(
    subject: Subject, training: Training, resources: Resources, *, count: int, search: Search | None = None
) -> Swept | None:
    """Try `count` recipes around `training`, and fine-tune the encoder by the best.

    Args:
        subject: what is trained on what; its workspace's seed decides which recipes are tried.
        training: the recipe that is searched around, and the first that is tried.
        resources: what a trial may use. By default one worker, so that as many trials run at once as there are GPUs,
            and micro-batches of at most the recipe's own batch, so that no trial needs more memory than the recipe.
        count: number of trials.
        search: what is tried; None: `search_of` the encoder's kind.

    Returns:
        The model of the trial with the best macro-F1 on the fusion rows; None when no train row has this modality.

    Raises:
        InputError: every trial failed; the message is the first one's reason.
    """
    if not subject.learnable:
        say(f"finetune   {subject.name}: no labelled product has {subject.modality}, skipped")
        return None
    trials = trials_of(training, search or search_of(subject.kind), count=count, seed=subject.workspace.settings.seed)
    for trial in trials:
        subject.check(trial)
    resources = replace(resources, micro_batch=resources.micro_batch or training.batch_size)
    rows = _rows_of(subject, trials, resources)
    for line in table_of(rows, trials):
        say(f"sweep      {line}")
    best = trials[_best(rows)]
    model = finetune(subject, best, resources)
    assert model is not None
    for trial in trials:
        remove_folder(subject.folder(trial))
    return Swept(model=model, changes=tuple(changes(best, training)))


def _best(rows: Mapping[int, Mapping[str, Any]]) -> int:
    """The trial with the best score, the first of equals; `InputError` when all failed."""
    scored = [number for number in sorted(rows) if rows[number]["reason"] is None]
    if not scored:
        raise InputError(f"{rows[0]['encoder']}: all {len(rows)} trials failed, the first of: {rows[0]['reason']}")
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
    start_ray(subject.workspace)
    with lines_from_workers() as lines:
        crew = crew_of(resources.workers or (1, 1))
        task = subject.task(trials[0], resources=resources, lines=lines)
        plan = Plan(
            task=replace(task, at_once=_at_once(crew)),
            crew=crew,
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


def _tune(plan: Plan, record: "_Record", *, folder: str) -> None:
    """Run the trials; `record` follows them."""
    os.environ.update(QUIET)
    epochs = plan.task.training.epochs
    remove_folder(folder)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(try_recipe, plan=plan), TRIAL.resources),
        param_space={"trial": tune.grid_search(list(range(len(plan.trials))))},
        tune_config=tune.TuneConfig(
            metric="macro_f1",
            mode="max",
            scheduler=_scheduler(epochs) if epochs > 1 else None,
            max_concurrent_trials=plan.task.at_once,
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


def _at_once(crew: Crew) -> int:
    """Trials: as many as there are GPUs for; on CPUs one, as each uses all threads."""
    return max(1, processors()[1] // crew.most) if crew.gpus else 1


def _scheduler(epochs: int) -> ASHAScheduler:
    """ASHA; nobody is judged after the last epoch, when nothing is left to save."""
    return ASHAScheduler(
        time_attr="epochs", max_t=epochs - 1, grace_period=1, reduction_factor=REDUCTION, stop_last_trials=False
    )


@dataclass
class _Record(tune.Callback):
    """Follows the trials from the driver, and adds each to the table as it ends."""

    workspace: Workspace
    run_id: str
    plan: Plan
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Of the trials that ended, by number."""
    epochs: dict[int, dict[int, dict[str, Any]]] = field(default_factory=dict)
    """Of each trial, what it told of each finished epoch, from 1."""
    ends: dict[int, str | None] = field(default_factory=dict)
    """Why each trial that came to its end failed, None if it did not."""

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:  # noqa: ARG002
        """Called by Ray Tune for every report."""
        number = trial.config["trial"]
        if "reason" in result:
            self.ends[number] = result["reason"]
        else:
            self.epochs.setdefault(number, {})[int(result["epochs"])] = result

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        """Called by Ray Tune again and again; an error that is raised here reaches the caller as it is."""
        for trial in trials:
            number = trial.config["trial"]
            if trial.is_finished() and number not in self.rows and number not in self.plan.scores:
                self.rows[number] = self._row(trial, number)
                record_trial(self.workspace, self.rows[number])
                self._say(number)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
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
        say(f"sweep      {row['encoder']} trial {number}: {outcome}")


def _last_line(error: object) -> str:
    """What a process said last when it died."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "it died without a word"
