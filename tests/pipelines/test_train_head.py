"""Heads on Ray: any number of workers learns the same, a killed run goes on, and what does not fit is refused."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from mmbatch.errors import InputError
from mmbatch.failpoints import VARIABLE
from mmbatch.fusion.head import load_head
from mmbatch.models import fetch_model
from mmbatch.pipelines.cluster import start_ray
from mmbatch.pipelines.train_head import train_head
from mmbatch.training import HeadRecipe
from mmbatch.workspace import Workspace
from tests.stored_features import encoders, write_workspace

pytestmark = pytest.mark.filterwarnings("ignore::Warning:ray")
"""Ray warns of its own settings while it makes its context."""

RECIPE = HeadRecipe(
    kinds=("concatenation", "gated"),
    hidden=16,
    dropout=0.0,
    modality_dropout=0.0,
    level_weights=(1.0, 1.2, 1.3),
    epochs=6,
    batch_size=16,
    learning_rate=0.02,
    weight_decay=0.0,
)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    start_ray()
    yield
    ray.shutdown()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return write_workspace(tmp_path / "workspace", products=400)


@pytest.mark.slow
def test_workers_of_ray_train_learn_what_one_process_learns(workspace: Workspace, local_ray: None) -> None:
    folder = Path(workspace.path("features"))
    before = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    alone = train_head(workspace, encoders(workspace), recipe=RECIPE)
    assert alone is not None
    assert alone.card["kind_of_head"] in RECIPE.kinds
    assert alone.card["standings"][0]["name"] == alone.card["kind_of_head"]
    assert load_head(fetch_model(alone)).classes == (2, 3)
    assert train_head(workspace, encoders(workspace), recipe=RECIPE).id == alone.id  # type: ignore[union-attr]
    more = replace(RECIPE, epochs=7)
    shared = train_head(workspace, encoders(workspace), recipe=more, workers=(2, 2))
    assert shared is not None
    assert shared.card["metrics"]["macro_f1"] == pytest.approx(alone.card["metrics"]["macro_f1"], abs=0.1)
    assert shared.card["metrics"]["macro_f1"] > 0.75
    assert {path: path.read_bytes() for path in folder.rglob("*.parquet")} == before  # frozen is frozen
    assert not Path(workspace.path("tmp")).exists() or not list(Path(workspace.path("tmp")).iterdir())


def test_what_does_not_fit_is_refused_before_ray_starts(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmbatch.pipelines.train_head.start_ray", pytest.fail)
    image, text = encoders(workspace)
    uneven = replace(RECIPE, kinds=("cross-attention",), attention_heads=3)
    with pytest.raises(InputError, match="found 3 attention heads and a text width of 8"):
        train_head(workspace, (image, text), recipe=uneven)
    with pytest.raises(InputError, match=r"level_weights \[1.0\]: expected 2 numbers above 0, one for each level"):
        train_head(workspace, (image, text), recipe=replace(RECIPE, level_weights=(1.0,)))
    sequences = replace(RECIPE, kinds=("concatenation", "cross-attention"), sequences=True)
    with pytest.raises(InputError, match="sequences=True: found heads concatenation, expected cross-attention only"):
        train_head(workspace, (image, text), recipe=sequences)
    with pytest.raises(InputError, match="sequence_rows=1: expected 2 or more labelled products"):
        train_head(workspace, (image, text), recipe=replace(sequences, kinds=("cross-attention",), sequence_rows=1))
    assert train_head(workspace, (image,), recipe=replace(RECIPE, level_weights=())) is None


RUN = """
import json, sys
from mmbatch.pipelines.train_head import train_head
from mmbatch.workspace import Workspace
from tests.pipelines.test_train_head import RECIPE
from tests.stored_features import encoders
workspace = Workspace.open(sys.argv[1])
model = train_head(workspace, encoders(workspace), recipe=RECIPE, workers=(1, 1))
import ray
ray.shutdown()
print("OUTCOME", json.dumps([model.id, model.card["metrics"]]))
"""


@pytest.mark.slow
def test_a_run_whose_worker_dies_again_and_again_says_so_and_goes_on_when_started_again(tmp_path: Path) -> None:
    def run(folder: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", RUN, str(tmp_path / folder)]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)

    for folder in ("whole", "killed"):
        write_workspace(tmp_path / folder, products=200)
    whole = run("whole")
    killed = run("killed", **{VARIABLE: "head.epoch:3"})  # of twelve epochs: two deaths are made good
    assert "head: worker 0 died 3 times" in killed.stderr
    assert killed.returncode != 0
    assert list((tmp_path / "killed" / "tmp").glob("head-*/run/checkpoint_*"))
    trained = run("killed", **{VARIABLE: "head.trained"})
    assert trained.returncode == -signal.SIGKILL, trained.stderr
    again = run("killed")
    outcomes = [
        json.loads(line.removeprefix("OUTCOME "))
        for done in (whole, again)
        for line in done.stdout.splitlines()
        if line.startswith("OUTCOME")
    ]
    assert outcomes[0] == outcomes[1], again.stderr
