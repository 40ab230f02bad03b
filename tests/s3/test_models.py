"""Models on S3: whole or not at all."""

from pathlib import Path

import pytest

from mmbatch.errors import InputError
from mmbatch.models import Model, fetch_model, find_model, list_models, publish_model
from mmbatch.storage import S3_OPTIONS, StorageError, filesystem_of, storage_errors
from mmbatch.workspace import Settings, Workspace
from tests.s3.proxy import FaultProxy, fault_at

WEIGHTS = bytes(range(256)) * 4_000


@pytest.fixture
def workspace(bucket: str) -> Workspace:
    return Workspace.create(f"{bucket}/w", Settings(preset="sample", level=1, seed=0, buckets=4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(WEIGHTS)
    return tmp_path / "model"


def publish(workspace: Workspace, folder: Path) -> Model:
    return publish_model(
        workspace, kind="encoder", name="e", folder=folder, identity=["weights"], recipe="r", card={"width": 3}
    )


def test_a_model_comes_back_whole(workspace: Workspace, folder: Path) -> None:
    model = publish(workspace, folder)
    assert find_model(workspace, kind="encoder", name="e", recipe="r") == model
    assert (fetch_model(model) / "weights").read_bytes() == WEIGHTS


def test_a_model_whose_files_are_cut_on_the_way_comes_back_whole(
    workspace: Workspace, folder: Path, faulty: FaultProxy
) -> None:
    model = publish(workspace, folder)
    faulty.plan = fault_at("weights", "cut", method="GET", times=2)
    assert (fetch_model(model) / "weights").read_bytes() == WEIGHTS
    assert faulty.injected == {"cut": 2}


def test_a_file_that_was_changed_is_named(workspace: Workspace, folder: Path) -> None:
    model = publish(workspace, folder)
    filesystem, path = filesystem_of(f"{model.uri}/weights")
    filesystem.pipe_file(path, WEIGHTS[:-1])
    with pytest.raises(InputError, match=r"weights: sha256 is .*, model.json says"):
        fetch_model(model)


@pytest.mark.parametrize("file", ["weights", "model.json"])
def test_a_torn_upload_does_not_exist(
    file: str, workspace: Workspace, folder: Path, faulty: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = S3_OPTIONS | {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
    monkeypatch.setattr("mmbatch.storage.S3_OPTIONS", once)
    faulty.plan = fault_at(file, "reset", method="PUT", times=100)
    with pytest.raises(StorageError, match="no usable answer"), storage_errors():
        publish(workspace, folder)
    assert list_models(workspace, "encoder") == []
