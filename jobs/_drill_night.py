"""The night of the crash drill: everything that a night runs, in order, in one process, that may be killed anywhere.

`python -m jobs._drill_night --workspace W --source S` is what the drill starts; it can be started by hand to repeat
what the drill has found, with MMBATCH_FAILPOINT set to the failpoint that it names.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs._cli import Job, run_job
from mmbatch import stale
from mmbatch.encoders import build_encoder
from mmbatch.gate import Gate
from mmbatch.models import Model, publish_model
from mmbatch.pipelines import delivery
from mmbatch.pipelines import maintain as maintenance
from mmbatch.pipelines.extract import extract
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.maintain import maintain, plan_maintenance
from mmbatch.pipelines.nightly import Feed, nightly
from mmbatch.pipelines.train_head import train_head
from mmbatch.pipelines.train_late_fusion import Goal, train_late_fusion
from mmbatch.presets.sample import SAMPLE
from mmbatch.progress import say
from mmbatch.training import EncoderRecipe
from mmbatch.workspace import Settings, Workspace

BUCKETS = 4

OPEN = Gate(smallest=1_000_000)
"""Judges nothing: the catalog is too small."""

KEPT = timedelta(0)
"""Of old versions and files: nobody reads them, and files that nobody deletes cannot be deleted wrongly."""


@dataclass(frozen=True, kw_only=True)
class Night(Job):
    """Ingest a source's snapshot, extract and predict what is stale, and clean up."""

    source: str
    """Folder of the snapshot."""
    first: bool = False
    """Make the workspace, with encoders from scratch and a predictor, instead of finding it."""


def main(config: Night) -> dict[str, Any]:
    """Run the night; every step finds for itself what is done."""
    say("night      begins")
    commit_often()
    if config.first and not Workspace.exists(config.workspace):
        Workspace.create(config.workspace, Settings(preset=SAMPLE.name, level=1, seed=0, buckets=BUCKETS))
    with Workspace.open(config.workspace).writing("night", wait_s=config.wait) as workspace:
        feed = Feed(source=config.source, columns=SAMPLE.columns, allow_older=True)
        if config.first:
            _make_predictor(workspace, feed)
        done = {"night": nightly(workspace, feed, gate=OPEN)}
        if not config.first and not plan_maintenance(workspace, keep=KEPT).nothing:
            done["maintain"] = maintain(workspace, keep=KEPT)
    return done


def commit_often() -> None:
    """Make units and commits so small that a few hundred products give several of each: more places to die in.

    Maintenance drops every row that nothing needs, so that what it leaves does not depend on how files are cut.
    """
    delivery.COMMIT_FILES = 2
    stale.UNIT_CONTENTS = dict.fromkeys(stale.UNIT_CONTENTS, 24)
    maintenance.COMMIT_UNITS = 2
    maintenance.SHARE_WORTH_DROPPING = 0.0


def _make_predictor(workspace: Workspace, feed: Feed) -> None:
    """Everything that a night needs."""
    ingest(workspace, **feed.arguments())
    encoders = [_publish(workspace, recipe) for recipe in SAMPLE.encoders]
    extract(workspace, encoders)
    head = train_head(workspace, encoders, recipe=replace(SAMPLE.head, epochs=3))
    train_late_fusion(workspace, encoders, head, recipe=SAMPLE.late_fusion, goal=Goal(precision=SAMPLE.precision))


def _publish(workspace: Workspace, recipe: EncoderRecipe) -> Model:
    """Store an encoder as drawn from its seed: training would make the drill's preparation ten times as long."""
    encoder = build_encoder(recipe.kind, weights=None, seed=0, **recipe.arguments).eval()
    card: Mapping[str, Any] = {"modality": encoder.modality, "width": encoder.width}
    with tempfile.TemporaryDirectory() as folder:
        encoder.save(Path(folder))
        files = [path.name for path in Path(folder).iterdir()]
        return publish_model(
            workspace,
            kind="encoder",
            name=recipe.name,
            folder=Path(folder),
            identity=files,
            recipe="from scratch",
            card=card,
        )


def command() -> None:
    """The command line: parses the flags and ends the process."""
    run_job(Night, main)


if __name__ == "__main__":
    command()
