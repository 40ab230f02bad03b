import json
from pathlib import Path

import pytest

from mmbatch.errors import InputError
from mmbatch.models import Model, fetch_model, find_model, list_models, newest_encoders, open_model, publish_model
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
