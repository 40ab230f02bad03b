"""Nights on a copy of a finished workspace; contents are exchanged between products, so that no encoder has to run."""

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mmbatch.changes import Changes
from mmbatch.errors import InputError, RefusedToPublishError
from mmbatch.gate import Gate
from mmbatch.golden import Difference
from mmbatch.models import Model, newest_predictor, open_model
from mmbatch.pipelines import challenge
from mmbatch.pipelines import publish as publishing
from mmbatch.pipelines.approve import approve
from mmbatch.pipelines.challenge import Retraining
from mmbatch.pipelines.night_plan import plan_night
from mmbatch.pipelines.nightly import Feed, nightly
from mmbatch.pipelines.rollback import rollback, target_of
from mmbatch.predictions import Predictions
from mmbatch.presets.sample import SAMPLE
from mmbatch.runs import finished_runs, publications
from mmbatch.tables import Table
from mmbatch.workspace import Workspace
from tests.test_whole_job import Finished

OPEN = Gate(smallest=1_000_000)
"""Judges nothing: the catalog is too small."""

SHUT = Gate(changed=0.0, smallest=1)

Snapshot = Callable[..., Feed]


@pytest.fixture
def workspace(finished: Finished, tmp_path: Path, in_process: None) -> Workspace:
    shutil.copytree(finished[0], tmp_path / "workspace")
    return Workspace.open(str(tmp_path / "workspace"))


@pytest.fixture
def snapshot(sample_file: Path, tmp_path: Path) -> Snapshot:
    """Writes a night's source: some products get the whole text of others, some are left out."""
    nights = iter(range(1, 100))

    def write(*, exchanged: int = 0, removed: int = 0, edit: Callable[[Any], None] | None = None) -> Feed:
        rows = pq.read_table(sample_file)
        frame = rows.to_pandas().drop_duplicates("product_id").dropna(subset=["product_id"]).reset_index(drop=True)
        texts = frame[["title", "description"]].to_numpy()
        frame.loc[: exchanged - 1, ["title", "description"]] = np.roll(texts[:exchanged], 1, axis=0)
        frame = frame.iloc[: len(frame) - removed].copy()
        if edit is not None:
            edit(frame)
        folder = tmp_path / f"night{next(nights)}"
        folder.mkdir()
        pq.write_table(
            pa.Table.from_pandas(frame, schema=rows.schema, preserve_index=False), folder / "catalog.parquet"
        )
        return Feed(source=str(folder), columns=SAMPLE.columns)

    return write


def published(workspace: Workspace) -> pa.Table:
    return Predictions(workspace=workspace).table.read().sort_by("product_id")


def changes(workspace: Workspace, run_id: str) -> list[dict[str, Any]]:
    rows = Changes(workspace=workspace).table.read(filters=pc.field("run_id") == run_id)
    found: list[dict[str, Any]] = rows.sort_by("product_id").to_pylist()
    return found


def test_a_night_publishes_what_changed_and_says_why(workspace: Workspace, snapshot: Snapshot) -> None:
    before = published(workspace).to_pandas().set_index("product_id")
    entry = nightly(workspace, snapshot(exchanged=40, removed=5), gate=OPEN)
    after = published(workspace).to_pandas().set_index("product_id")
    counts = entry["counts"]
    assert counts["state"] == "published"
    products = counts["products"]
    assert products["products"] == products["unchanged"] + products["predicted"] == len(after)
    assert len(after) == len(before) - products["removed"]
    assert counts["extract"]["computed"] == 0
    moved = [name for name in after.index if after.category[name] != before.category[name]]
    rows = changes(workspace, entry["run_id"])
    assert (
        sorted(
            row["product_id"]
            for row in rows
            if row["reason"] != "removed" and row["category_after"] != row["category_before"]
        )
        == moved
    )
    assert Counter(row["reason"] for row in rows) == counts["reasons"]
    assert counts["changed"] == len(moved) > 0
    assert {row["reason"] for row in rows} <= {"title", "description", "removed"}
    for row in rows:
        if row["reason"] != "removed":
            assert row["category_before"] == before.category[row["product_id"]]
            assert row["category_after"] == after.category[row["product_id"]]
            assert row["confidence_after"] == pytest.approx(after.confidence[row["product_id"]])
    assert (Path(workspace.uri) / "reports" / entry["run_id"] / "night.html").exists()
    assert (Path(workspace.uri) / "reports" / "index.html").exists()


def test_a_night_that_is_started_twice_does_nothing_the_second_time(workspace: Workspace, snapshot: Snapshot) -> None:
    feed = snapshot(exchanged=10)
    first = nightly(workspace, feed, gate=OPEN)
    version = Predictions(workspace=workspace).table.version()
    again = nightly(workspace, feed, gate=OPEN)
    assert (again["run_id"], again["seconds"]) == (first["run_id"], 0.0)
    assert Predictions(workspace=workspace).table.version() == version
    assert len(finished_runs(workspace, "nightly")) == 1


def test_a_breach_publishes_nothing_and_stays_refused_until_something_differs(
    workspace: Workspace, snapshot: Snapshot
) -> None:
    before, feed = published(workspace), snapshot(exchanged=40)
    with pytest.raises(
        RefusedToPublishError, match=r"nothing is published, \S+ is staged: .* change their category"
    ) as refused:
        nightly(workspace, feed, gate=SHUT)
    assert refused.value.entry is not None
    assert published(workspace).equals(before)
    assert (
        Changes(workspace=workspace).table.read(filters=pc.field("run_id") == refused.value.entry["run_id"]).num_rows
        == 0
    )
    with pytest.raises(RefusedToPublishError) as again:
        nightly(workspace, feed, gate=SHUT)
    assert again.value.entry is not None
    assert again.value.entry["run_id"] == refused.value.entry["run_id"]
    assert len(finished_runs(workspace, "nightly")) == 1
    opened = nightly(workspace, feed, gate=OPEN)
    assert opened["counts"]["state"] == "published"
    assert opened["counts"]["reasons"] == refused.value.entry["counts"]["reasons"]


def test_an_approved_night_is_published_as_it_was_staged(workspace: Workspace, snapshot: Snapshot) -> None:
    with pytest.raises(RefusedToPublishError) as refused:
        nightly(workspace, snapshot(exchanged=40), gate=SHUT)
    assert refused.value.entry is not None
    run_id = refused.value.entry["run_id"]
    staged = Predictions(workspace=workspace).staged(run_id).read().sort_by("product_id")
    entry = approve(workspace, run_id)
    assert entry["counts"]["state"] == "approved"
    rows = published(workspace).filter(pc.field("run_id") == run_id)
    assert rows.equals(staged)
    assert Counter(row["reason"] for row in changes(workspace, entry["run_id"])) == entry["counts"]["reasons"]
    version = Predictions(workspace=workspace).table.version()
    assert approve(workspace, run_id)["run_id"] == entry["run_id"]
    assert Predictions(workspace=workspace).table.version() == version
    assert not Predictions(workspace=workspace).runs_aside()


def test_only_a_night_that_waits_can_be_approved(workspace: Workspace, snapshot: Snapshot) -> None:
    with pytest.raises(RefusedToPublishError) as refused:
        nightly(workspace, snapshot(exchanged=40), gate=SHUT)
    assert refused.value.entry is not None
    run_id = refused.value.entry["run_id"]
    with pytest.raises(InputError, match=f"--approve nobody: no staged night .* waiting: {run_id}"):
        approve(workspace, "nobody")
    nightly(workspace, snapshot(exchanged=20), gate=OPEN)
    with pytest.raises(InputError, match=f"--approve {run_id}: no staged night .* waiting: none"):
        approve(workspace, run_id)


def test_files_that_maintenance_took_cannot_be_approved(workspace: Workspace, snapshot: Snapshot) -> None:
    with pytest.raises(RefusedToPublishError) as refused:
        nightly(workspace, snapshot(exchanged=40), gate=SHUT)
    assert refused.value.entry is not None
    aside = Predictions(workspace=workspace).aside(refused.value.entry["run_id"])
    assert aside is not None
    (Path(workspace.uri) / "predictions" / aside.added[0].path).unlink()
    with pytest.raises(InputError, match=r"1 of \d files are deleted"):
        approve(workspace, refused.value.entry["run_id"])


def test_a_night_killed_after_its_commit_is_finished_by_the_next(
    workspace: Workspace, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(point: str) -> None:
        if point == "publish.after":
            raise KeyboardInterrupt

    feed = snapshot(exchanged=20)
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "reach", die)
        with pytest.raises(KeyboardInterrupt):
            nightly(workspace, feed, gate=OPEN)
    assert finished_runs(workspace, "nightly") == []
    entry = nightly(workspace, feed, gate=OPEN)
    assert [night["run_id"] for night in finished_runs(workspace, "nightly")] == [entry["run_id"]]
    assert Counter(row["reason"] for row in changes(workspace, entry["run_id"])) == entry["counts"]["reasons"]
    assert (Path(workspace.uri) / "reports" / entry["run_id"] / "night.html").exists()
    assert not Predictions(workspace=workspace).runs_aside()


def test_a_full_disk_while_staging_publishes_nothing_and_the_next_start_goes_on(
    workspace: Workspace, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file = Table.write_file

    def full(table: Table, rows: pa.Table, *, bucket: int) -> Any:
        if "/staged/" in table.uri:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_file(table, rows, bucket=bucket)

    before, feed = published(workspace), snapshot(exchanged=20)
    with monkeypatch.context() as patched:
        patched.setattr(Table, "write_file", full)
        with pytest.raises(OSError, match="No space left"):
            nightly(workspace, feed, gate=OPEN)
    assert published(workspace).equals(before)
    assert nightly(workspace, feed, gate=OPEN)["counts"]["state"] == "published"


def test_a_rollback_restores_what_was_published_row_for_row(workspace: Workspace, snapshot: Snapshot) -> None:
    before = published(workspace)
    night = nightly(workspace, snapshot(exchanged=40, removed=3), gate=OPEN)
    entry = rollback(workspace)
    assert published(workspace).equals(before)
    assert entry["counts"]["taken_back"] == night["run_id"]
    taken, back = changes(workspace, night["run_id"]), changes(workspace, entry["run_id"])
    assert {row["reason"] for row in back} == {"rollback"}
    assert [(row["product_id"], row["category_after"], row["category_before"]) for row in back] == [
        (row["product_id"], row["category_before"], row["category_after"]) for row in taken
    ]
    with pytest.raises(InputError, match=r"is a rollback itself: name a run by --to: "):
        rollback(workspace)
    rollback(workspace, night["run_id"])
    assert set(published(workspace)["run_id"].to_pylist()) >= {night["run_id"]}


def test_a_refused_night_is_no_publication(workspace: Workspace, snapshot: Snapshot) -> None:
    """Neither is it rolled back or compared with, nor does it end what a rollback protects."""
    before = published(workspace)
    night = nightly(workspace, snapshot(exchanged=40), gate=OPEN)
    for exchanged in (60, 80):
        with pytest.raises(RefusedToPublishError):
            nightly(workspace, snapshot(exchanged=exchanged), gate=SHUT)
    assert publications(workspace)[0]["run_id"] == night["run_id"]
    assert rollback(workspace)["counts"]["taken_back"] == night["run_id"]
    assert published(workspace).equals(before)
    protected = Gate(changed=1.0, changed_per_category=1.0, golden=1.0, review=1.0, smallest=1)
    for removed in (0, 1):
        with pytest.raises(RefusedToPublishError, match="rollback"):
            nightly(workspace, snapshot(exchanged=40, removed=removed), gate=protected)


def test_a_bad_feed_that_comes_again_is_refused_again(workspace: Workspace, snapshot: Snapshot) -> None:
    """It is measured by what was in quarantine when something was published, not by what a refused night put there."""

    def repeated(frame: Any) -> None:
        frame.loc[len(frame) - 60 :, "product_id"] = frame.loc[0, "product_id"]

    others = {"changed": 1.0, "changed_per_category": 1.0, "removed": 1.0, "review": 1.0, "golden": 1.0, "drift": 1e3}
    gate = Gate(**others, smallest=1)
    for removed in (0, 1):
        with pytest.raises(RefusedToPublishError, match="entries in quarantine for 'duplicate_id' go from 0 % to"):
            nightly(workspace, snapshot(removed=removed, edit=repeated), gate=gate)


def test_what_cannot_be_rolled_back_to_is_refused(workspace: Workspace, snapshot: Snapshot) -> None:
    with pytest.raises(InputError, match="was the first to publish"):
        target_of(workspace)
    first = publications(workspace)[0]["run_id"]
    with pytest.raises(InputError, match="is what is published now"):
        target_of(workspace, first)
    with pytest.raises(InputError, match="--to nobody: this run published nothing; the last that did: "):
        target_of(workspace, "nobody")
    nightly(workspace, snapshot(exchanged=10), gate=OPEN)
    assert target_of(workspace).run_id == first


def test_what_a_rollback_took_back_does_not_come_back_by_itself(workspace: Workspace, snapshot: Snapshot) -> None:
    feed = snapshot(exchanged=40)
    nightly(workspace, feed, gate=OPEN)
    rollback(workspace)
    with pytest.raises(RefusedToPublishError, match="rollback"):
        nightly(workspace, feed, gate=Gate(changed=1.0, changed_per_category=1.0, golden=1.0, review=1.0, smallest=1))


@pytest.mark.parametrize(
    ("gone", "breach"), [(["title", "description"], "'missing title'"), (["image"], "'missing image'")]
)
def test_a_bad_snapshot_is_refused_and_the_next_good_one_repairs_everything(
    gone: list[str], breach: str, workspace: Workspace, snapshot: Snapshot
) -> None:
    before = published(workspace)

    def without(frame: Any) -> None:
        frame[gone] = None

    with pytest.raises(RefusedToPublishError, match=breach):
        nightly(workspace, snapshot(edit=without), gate=Gate())
    assert published(workspace).equals(before)
    good = nightly(workspace, snapshot(), gate=Gate())
    assert good["counts"]["extract"]["computed"] == 0
    assert published(workspace).equals(before)


def test_a_feed_names_what_changed_and_leaves_the_rest(
    workspace: Workspace, snapshot: Snapshot, tmp_path: Path
) -> None:
    rows = pq.read_table(Path(snapshot(exchanged=6).source) / "catalog.parquet").slice(0, 8)
    operations = pa.array(["update"] * 6 + ["delete"] * 2)
    (tmp_path / "feed").mkdir()
    pq.write_table(rows.append_column("op", operations), tmp_path / "feed" / "feed.parquet")
    feed = Feed(source=str(tmp_path / "feed"), columns=replace(SAMPLE.columns, operation="op"))
    before = published(workspace).num_rows
    entry = nightly(workspace, feed, gate=OPEN)
    assert published(workspace).num_rows == before - 2
    assert entry["counts"]["reasons"]["removed"] == 2
    assert entry["counts"]["products"]["predicted"] == 6


def test_a_plan_says_what_the_night_then_does_and_changes_nothing(workspace: Workspace, snapshot: Snapshot) -> None:
    feed = snapshot(exchanged=12, removed=4)
    files = sorted(path for path in Path(workspace.uri).rglob("*") if path.is_file())
    plan = plan_night(workspace, feed, price_per_hour=10.0)
    assert sorted(path for path in Path(workspace.uri).rglob("*") if path.is_file()) == files
    entry = nightly(workspace, feed, gate=OPEN)
    done = entry["counts"]
    assert plan["predict"]["predicted"] == done["products"]["predicted"] == 12
    assert plan["predict"]["removed"] == done["products"]["removed"]
    assert plan["catalog"]["edited"] == done["ingest"]["edited"] == 12
    assert plan["catalog"]["edited_fields"]["title"] > 0
    assert {name: found["compute"] for name, found in plan["encode"].items()} == dict.fromkeys(plan["encode"], 0)
    assert sum(found["reuse"] for found in plan["encode"].values()) == done["extract"]["reused"] == 12
    assert plan["estimate"]["seconds"] > 0
    assert plan["estimate"]["cost"] == pytest.approx(plan["estimate"]["seconds"] / 360, abs=0.01)


def test_nothing_to_do_is_a_night_too(workspace: Workspace, snapshot: Snapshot) -> None:
    entry = nightly(workspace, snapshot(), gate=Gate())
    assert entry["counts"]["state"] == "unchanged"
    assert (Path(workspace.uri) / "reports" / entry["run_id"] / "night.html").exists()


def test_a_predictor_that_is_not_there_or_lacks_its_encoder_is_refused(
    workspace: Workspace, snapshot: Snapshot
) -> None:
    feed = snapshot(exchanged=5)
    with pytest.raises(InputError, match="predictor@gone"):
        nightly(workspace, feed, gate=OPEN, predictor="predictor@gone")
    encoder = newest_predictor(workspace).card["encoders"][0]
    shutil.rmtree(Path(workspace.uri) / "models" / "encoder" / encoder)
    with pytest.raises(InputError, match=encoder):
        nightly(workspace, feed, gate=OPEN)


def twin_of(workspace: Workspace, predictor: Model) -> Model:
    """Another predictor, which decides as the first."""
    folder = Path(workspace.uri) / "models" / "predictor"
    shutil.copytree(folder / predictor.id, folder / "predictor@twin")
    card = folder / "predictor@twin" / "model.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"id": "predictor@twin"}))
    return open_model(workspace, kind="predictor", model_id="predictor@twin")


def test_a_night_stays_with_the_published_predictor_until_told_otherwise(
    workspace: Workspace, snapshot: Snapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    champion, feed = newest_predictor(workspace), snapshot(exchanged=5)
    twin_of(workspace, champion)
    nightly(workspace, feed, gate=OPEN)
    assert set(published(workspace)["predictor"].to_pylist()) == {champion.id}
    assert (
        "night      with the published predictor; predictor@twin is newer: --predictor takes it"
        in capsys.readouterr().err
    )
    entry = nightly(workspace, feed, gate=OPEN, predictor="predictor@twin")
    assert set(published(workspace)["predictor"].to_pylist()) == {"predictor@twin"}
    assert (entry["counts"]["changes"], entry["counts"]["products"]["unchanged"]) == (0, 0)
    assert entry["counts"]["predictor_before"] == champion.id


@pytest.mark.parametrize(
    ("low", "rows", "promoted", "why"),
    [
        (0.001, 500, True, "better beyond noise"),
        (0.0, 500, False, "not better beyond noise"),
        (0.2, 99, False, "too few rows to tell, expected 100"),
    ],
)
def test_a_challenger_predicts_tonight_only_where_it_is_proved_better(
    low: float, rows: int, promoted: bool, why: str,
    workspace: Workspace, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    champion = newest_predictor(workspace)
    challenger = twin_of(workspace, champion)
    found = Difference(rows=rows, before=0.8, after=0.85, low=low, high=0.3)
    monkeypatch.setattr(challenge, "train_challenger", lambda *_, **__: challenger)
    monkeypatch.setattr(challenge, "compare", lambda *_: found)
    retrain = Retraining(what="head", preset=SAMPLE, weights=None)
    entry = nightly(workspace, snapshot(exchanged=5), gate=Gate(changed=1.0, changed_per_category=1.0), retrain=retrain)
    trial = entry["counts"]["trial"]
    assert (trial["champion"], trial["challenger"], trial["promoted"]) == (champion.id, challenger.id, promoted)
    assert trial["why"].endswith(why)
    assert set(published(workspace)["predictor"].to_pylist()) == {(challenger if promoted else champion).id}


def test_a_challenger_that_is_the_champion_again_is_no_news(
    workspace: Workspace, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = newest_predictor(workspace)
    monkeypatch.setattr(challenge, "train_challenger", lambda *_, **__: champion)
    retrain = Retraining(what="late-fusion", preset=SAMPLE, weights=None)
    entry = nightly(workspace, snapshot(exchanged=5), gate=OPEN, retrain=retrain)
    assert entry["counts"]["trial"]["why"].startswith("nothing that it is trained on has changed")
