import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.errors import InputError
from mmbatch.models import (
    Kind,
    Model,
    fetch_model,
    find_model,
    list_models,
    newest_encoders,
    newest_head,
    newest_predictor,
    open_model,
    publish_model,
    published_predictor,
    standing_models,
)
from mmbatch.workspace import Settings, Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=4))


def publish(workspace: Workspace, folder: Path, *, weights: str = "w", head: str = "h", recipe: str = "r") -> Model:
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(weights)
    (folder / "head").write_text(head)
    return publish_model(
        workspace, kind="encoder", name="e", folder=folder, identity=["weights"], recipe=recipe, card={"width": 3}
    )


def test_a_model_is_found_by_its_recipe_and_opens_whole(workspace: Workspace, tmp_path: Path) -> None:
    model = publish(workspace, tmp_path / "m")
    assert find_model(workspace, kind="encoder", name="e", recipe="r") == model
    assert find_model(workspace, kind="encoder", name="e", recipe="other") is None
    assert open_model(workspace, kind="encoder", model_id=model.id).card["width"] == 3
    assert (fetch_model(model) / "weights").read_text() == "w"


def test_the_fingerprint_follows_the_files_that_decide_the_output_and_no_other(
    workspace: Workspace, tmp_path: Path
) -> None:
    first = publish(workspace, tmp_path / "m").id
    assert publish(workspace, tmp_path / "m", head="another head").id == first
    assert publish(workspace, tmp_path / "m", weights="other weights").id != first


def test_a_model_without_its_card_does_not_exist(workspace: Workspace, tmp_path: Path) -> None:
    model = publish(workspace, tmp_path / "m")
    (Path(model.uri) / "model.json").unlink()
    assert list_models(workspace, "encoder") == []
    with pytest.raises(InputError, match=f"no encoder {model.id} in this workspace"):
        open_model(workspace, kind="encoder", model_id=model.id)
    with pytest.raises(InputError, match="no encoder there"):
        newest_encoders(workspace)


@pytest.mark.parametrize("damage", ["changed", None])
def test_a_damaged_file_is_named(damage: str | None, workspace: Workspace, tmp_path: Path) -> None:
    model = publish(workspace, tmp_path / "m")
    file = Path(model.uri) / "weights"
    file.unlink() if damage is None else file.write_text(damage)
    with pytest.raises(InputError, match=r"weights: sha256 is .*, model.json says"):
        fetch_model(model)


def test_a_model_in_an_object_store_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = Settings(preset="sample", level=1, seed=0, buckets=4)
    model = publish(Workspace.create(f"memory://{tmp_path.name}", settings), tmp_path / "m")
    folder = fetch_model(model)
    assert folder == fetch_model(model)
    assert json.loads(json.dumps(model.card))["sha256"].keys() == {path.name for path in folder.iterdir()}


@pytest.fixture
def challenging(workspace: Workspace) -> Workspace:
    return replace(workspace, challenging=True)


def store(workspace: Workspace, kind: Kind, content: str, folder: Path, *encoders: Model, head: Model | None = None):
    """A model of its own fingerprint, whose recipe is its content."""
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text(content)
    card = {"encoders": [model.id for model in encoders], "head": head.id if head else None}
    return publish_model(
        workspace, kind=kind, name=kind, folder=folder, identity=["weights"], recipe=content, card=card
    )


def say_published(workspace: Workspace, *predictors: str, bucket: int = 2) -> None:
    """Make the published predictions of one bucket those of these predictors, a product each."""
    table = workspace.table("predictions", schema=schema.PREDICTIONS)
    columns = {field.name: pa.nulls(len(predictors), field.type) for field in table.schema}
    columns["product_id"] = pa.array([f"p{number}" for number in range(len(predictors))])
    columns["predictor"] = pa.array(predictors)
    rows = pa.table(columns, schema=table.schema)
    version = table.version()
    added, removed = [table.write_file(rows, bucket=bucket)], table.files([bucket])
    table.replace(added, removed, app_id=str(version), read_version=version)


def test_what_is_published_is_by_the_predictor_of_most_predictions(workspace: Workspace, tmp_path: Path) -> None:
    assert published_predictor(workspace) is None
    first, second = (store(workspace, "predictor", content, tmp_path / "m") for content in ("1", "2"))
    say_published(workspace, second.id, first.id, first.id)
    assert published_predictor(workspace) == first
    say_published(workspace, f"{second.id}+taxonomy-000002@0123456789ab")
    assert published_predictor(workspace) == second


def test_a_published_predictor_that_is_not_stored_any_more_is_missed(workspace: Workspace) -> None:
    say_published(workspace, "predictor@gone")
    with pytest.raises(InputError, match="no predictor predictor@gone in this workspace"):
        published_predictor(workspace)


def test_a_challenger_is_not_the_newest_until_it_is_published(
    workspace: Workspace, challenging: Workspace, tmp_path: Path
) -> None:
    champion_encoder = store(workspace, "encoder", "e1", tmp_path / "m")
    champion = store(workspace, "predictor", "p1", tmp_path / "m", champion_encoder)
    encoder = store(challenging, "encoder", "e2", tmp_path / "m")
    head = store(challenging, "head", "h2", tmp_path / "m", encoder)
    challenger = store(challenging, "predictor", "p2", tmp_path / "m", encoder, head=head)
    assert challenger in list_models(workspace, "predictor")
    assert newest_predictor(workspace) == champion
    assert newest_encoders(workspace) == [champion_encoder]
    assert newest_head(workspace, [encoder]) is None
    say_published(workspace, challenger.id)
    assert newest_predictor(workspace) == challenger
    assert newest_encoders(workspace) == [encoder]
    assert newest_head(workspace, [encoder]) == head
    say_published(workspace, champion.id)
    assert newest_predictor(workspace) == champion, "after a roll back"


def test_what_is_trained_by_hand_after_a_challenger_is_the_newest(
    workspace: Workspace, challenging: Workspace, tmp_path: Path
) -> None:
    challenger = store(challenging, "predictor", "p1", tmp_path / "m")
    say_published(workspace, challenger.id)
    by_hand = store(workspace, "predictor", "p2", tmp_path / "m")
    assert newest_predictor(workspace) == by_hand


def test_a_challenger_that_is_found_by_hand_is_one_no_longer(
    workspace: Workspace, challenging: Workspace, tmp_path: Path
) -> None:
    champion, challenger = (
        store(where, "predictor", content, tmp_path / "m") for where, content in ((workspace, "1"), (challenging, "2"))
    )
    assert find_model(challenging, kind="predictor", name="predictor", recipe="2") == challenger
    assert standing_models(workspace, "predictor") == [champion]
    found = find_model(workspace, kind="predictor", name="predictor", recipe="2")
    assert found is not None
    assert (found.id, "challenger" in found.card) == (challenger.id, False)
    assert newest_predictor(workspace) == found
    assert fetch_model(found).exists()


def test_a_model_that_is_no_challenger_does_not_become_one(
    workspace: Workspace, challenging: Workspace, tmp_path: Path
) -> None:
    champion = store(workspace, "predictor", "1", tmp_path / "m")
    assert store(challenging, "predictor", "1", tmp_path / "m").id == champion.id
    assert newest_predictor(workspace).id == champion.id
