import json
from pathlib import Path

import pytest

from mmbatch.errors import InputError, LostRaceError
from mmbatch.workspace import PRODUCTS_PER_BUCKET, Settings, Workspace, buckets_for, normalise_uri

SETTINGS = Settings(preset="sample", level=2, seed=0, buckets=4)


def test_a_workspace_opens_with_the_settings_it_was_made_with(tmp_path: Path) -> None:
    made = Workspace.create(str(tmp_path / "w"), SETTINGS)
    assert Workspace.open(f"{tmp_path}/w/") == made
    assert made.path("a", "b") == f"{tmp_path}/w/a/b"


def test_a_workspace_in_an_object_store_keeps_its_scheme() -> None:
    made = Workspace.create("memory://bucket/w", SETTINGS)
    assert made.uri == "memory://bucket/w"
    assert Workspace.exists("memory://bucket/w")
    assert Workspace.open("memory://bucket/w/").settings == SETTINGS


def test_two_runs_cannot_make_the_same_workspace(tmp_path: Path) -> None:
    Workspace.create(str(tmp_path), SETTINGS)
    with pytest.raises(LostRaceError, match="another run has made this workspace"):
        Workspace.create(str(tmp_path), SETTINGS)


def test_other_settings_are_refused_one_by_one(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path), SETTINGS)
    workspace.require(preset="sample", level=2, seed=0, top_classes=0)
    with pytest.raises(InputError, match=r"preset is 'sample', asked for 'other'; level is 2, asked for 1\)"):
        workspace.require(preset="other", level=1, seed=0, top_classes=0)
    with pytest.raises(InputError, match=r"\(top_classes is 0, asked for 10\)"):
        workspace.require(preset="sample", level=2, seed=0, top_classes=10)


@pytest.mark.parametrize(("products", "buckets"), [(1, 4), (80_000, 4), (80_001, 8), (10_000_000, 512)])
def test_buckets_grow_with_the_catalog(products: int, buckets: int) -> None:
    assert buckets_for(products) == buckets
    assert products / buckets <= PRODUCTS_PER_BUCKET


def test_settings_that_came_later_may_be_missing_and_no_others(tmp_path: Path) -> None:
    Workspace.create(str(tmp_path), SETTINGS)
    file = tmp_path / "workspace.json"
    kept = {key: value for key, value in json.loads(file.read_text()).items() if key != "top_classes"}
    file.write_text(json.dumps(kept))
    assert Workspace.open(str(tmp_path)).settings == SETTINGS
    for wrong in (kept | {"other": 1}, {key: kept[key] for key in kept if key != "seed"}):
        file.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=r"workspace\.json has not the keys"):
            Workspace.open(str(tmp_path))


def test_a_local_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert normalise_uri("w/") == normalise_uri(f"file://{tmp_path}/w") == f"{tmp_path}/w"
