"""A new snapshot, or a feed of operations -> catalog, features, predictions: checked, then published or refused."""

from dataclasses import dataclass
from typing import Any, Literal

from jobs._cli import TrainingJob, plan, run_job, weights_folder
from jobs._source import RawJob, check_source
from mmbatch.errors import InputError
from mmbatch.gate import Gate
from mmbatch.presets import preset_named
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Nightly(RawJob, TrainingJob):
    """Bring catalog, features and predictions up to date with tonight's source, and publish what passes the gate.

    The source names the whole catalog, unless --columns names an operation column. The same command goes on after a
    kill, and does nothing where everything is done. With a breach of the gate it exits with 3: everything is staged.
    """

    gate: tuple[str, ...] = ()
    """Limits that differ from the defaults, such as changed=0.2 removed=0.1 (docs/gate.md)."""
    predictor: str | None = None
    """name@fingerprint of the predictor; default: the published one, before anything is published the newest."""
    retrain: Literal["head", "late-fusion", "encoder"] | None = None
    """Train a challenger on tonight's labels: this, and everything above it. It predicts tonight if the golden rows
    prove it better."""
    approve: str | None = None
    """Publish what this refused run has staged, as it is; nothing else is done, and no --source is needed."""
    price_per_hour: float | None = None
    """With --dry-run: what an hour of the cluster costs, for an estimate of the night's cost."""


def main(config: Nightly) -> dict[str, Any]:
    """Run, plan or approve one night."""
    workspace, gate = Workspace.open(config.workspace), Gate.of(config.gate)
    if config.approve is not None:
        return _approve(config, workspace)
    if config.price_per_hour is not None and not config.dry_run:
        raise InputError(f"--price-per-hour {config.price_per_hour:g}: expected --dry-run with it")
    if config.source is None:
        raise InputError("--source is missing: tonight's snapshot or feed; or name a refused run by --approve")
    source = check_source(config, config.source)

    from mmbatch.pipelines.challenge import Retraining
    from mmbatch.pipelines.night_plan import plan_night
    from mmbatch.pipelines.nightly import Feed, nightly

    feed = Feed(
        source=source.uri,
        columns=source.columns,
        access=source.images_from,
        allow_removals=config.allow_removals,
        allow_older=config.allow_older,
    )
    if config.dry_run:
        planned = plan_night(workspace, feed, predictor=config.predictor, price_per_hour=config.price_per_hour)
        return plan(config, **planned)
    retrain = None
    if config.retrain is not None:
        preset = preset_named(workspace.settings.preset)
        retrain = Retraining(what=config.retrain, preset=preset, weights=weights_folder(config))
    with workspace.writing("nightly", wait_s=config.wait) as workspace:
        return nightly(workspace, feed, gate=gate, predictor=config.predictor, retrain=retrain)


def _approve(config: Nightly, workspace: Workspace) -> dict[str, Any]:
    for flag in ("source", "predictor", "retrain"):
        if (value := getattr(config, flag)) is not None:
            raise InputError(f"--approve {config.approve} --{flag} {value}: expected one of them")

    from mmbatch.pipelines.approve import approve

    assert config.approve is not None
    if config.dry_run:
        return plan(config)
    with workspace.writing("nightly", wait_s=config.wait) as workspace:
        return approve(workspace, config.approve)


if __name__ == "__main__":
    run_job(Nightly, main)
