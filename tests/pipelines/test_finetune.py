"""Fine-tuning on Ray Train: the best epoch is kept, and neither workers nor deaths change the result."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image
from safetensors.torch import load_file

from mmbatch.catalog import Catalog
from mmbatch.encoders import build_encoder, load_encoder
from mmbatch.errors import InputError
from mmbatch.failpoints import VARIABLE
from mmbatch.image_access import ImageAccess
from mmbatch.models import Model, fetch_model, list_models
from mmbatch.pipelines.cluster import start_ray
from mmbatch.pipelines.finetune import CURVES, Resources, Subject, finetune
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.rows import training_labels
from mmbatch.sources import Columns
from mmbatch.training import Augmentation, Lora, Training
from mmbatch.workspace import Settings, Workspace
from tests.conftest import ROOT, run_job
from tests.preset_twins import write_bert

pytestmark = pytest.mark.filterwarnings("ignore::Warning:ray")
"""Ray warns of its own settings while it makes its context."""

CLASSES = ("mug", "shirt", "lamp")
PRODUCTS = 93
"""Train rows that no batch size here divides."""

TRAINING = Training(
    epochs=3, batch_size=16, learning_rate=0.05, classifier_learning_rate=0.05, dropout=0.0, label_smoothing=0.1
)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    start_ray()
    yield
    ray.shutdown()


def photo(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of three classes whose titles mix a word of their class with a noisy one; images as files."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(PRODUCTS):
        label = CLASSES[number % 3]
        words = [label if rng.random() < 0.6 else str(rng.choice(CLASSES)), *(f"w{w}" for w in rng.integers(0, 40, 4))]
        (folder / f"{number}.png").write_bytes(photo(number))
        rows.append({"id": f"p{number:03d}", "title": " ".join(words), "image": f"{number}.png", "label": [label]})
    pq.write_table(pa.Table.from_pylist(rows), folder / "source.parquet")
    return folder


COLUMNS = Columns(id="id", title="title", image="image", label=("label",))


def store(source: Path, folder: Path) -> Workspace:
    workspace = Workspace.create(str(folder), Settings(preset="sample", level=1, seed=0, buckets=4))
    ingest(workspace, source=str(source), columns=COLUMNS, access=ImageAccess.of([str(source)]))
    return workspace


@pytest.fixture(scope="module")
def workspace(source: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Workspace:
    return store(source, tmp_path_factory.mktemp("finetune") / "w")


def fit(workspace: Workspace, name: str, training: Training = TRAINING, width: int = 16, **resources: Any) -> Model:
    subject = Subject(
        workspace=workspace,
        name=name,
        modality="text",
        kind="ngram",
        arguments={"buckets": 512, "width": width},
        labels=training_labels(Catalog(workspace=workspace)),
    )
    model = finetune(subject, training, Resources(**resources))
    assert model is not None
    return model


@pytest.fixture(scope="module")
def model(workspace: Workspace) -> Model:
    return fit(workspace, "one")


def curve(model: Model, field: str = "loss") -> list[float]:
    return [entry[field] for entry in model.card["history"]]


def fingerprint(model: Model) -> str:
    return model.id.split("@")[1]


def test_a_model_holds_its_history_its_curves_and_nothing_of_the_run(workspace: Workspace, model: Model) -> None:
    files = {path.name for path in Path(model.uri).iterdir()}
    assert files == {"model.json", CURVES, "encoder.json", "encoder.safetensors"}
    assert [entry["epoch"] for entry in model.card["history"]] == [0, 1, 2]
    assert curve(model)[-1] < curve(model)[0]
    assert not list(Path(workspace.path("tmp")).glob("finetune-*"))


@pytest.mark.slow
def test_two_workers_make_the_same_steps(workspace: Workspace, model: Model) -> None:
    two = fit(workspace, "two", workers=(2, 2))
    np.testing.assert_allclose(curve(two), curve(model), rtol=1e-4)
    assert curve(two, "macro_f1") == pytest.approx(curve(model, "macro_f1"))
    assert curve(two, "rows") == curve(model, "rows")


@pytest.mark.slow
def test_as_many_workers_as_there_are_make_the_same_steps(workspace: Workspace, model: Model) -> None:
    np.testing.assert_allclose(curve(fit(workspace, "elastic", workers=(1, 2))), curve(model), rtol=1e-4)


@pytest.mark.slow
def test_micro_batches_make_the_same_steps(workspace: Workspace, model: Model) -> None:
    np.testing.assert_allclose(curve(fit(workspace, "micro", micro_batch=3)), curve(model), rtol=1e-4)


@pytest.mark.slow
def test_a_later_epoch_that_is_worse_is_not_kept(workspace: Workspace) -> None:
    wild = replace(
        TRAINING,
        epochs=6,
        learning_rate=0.2,
        classifier_learning_rate=0.5,
        schedule="constant",
        warmup_share=0.0,
        patience=2,
    )
    found = fit(workspace, "wild", wild)
    scores = curve(found, "macro_f1")
    best = int(np.argmax(scores))
    assert scores[-1] < scores[best]
    assert (found.card["metrics"]["epoch"], found.card["metrics"]["macro_f1"]) == (best, scores[best])
    assert len(scores) == best + 3  # as patient as asked
    shorter = fit(workspace, "shorter", replace(wild, epochs=best + 1))
    assert fingerprint(shorter) == fingerprint(found)


@pytest.mark.slow
def test_a_loss_that_is_no_number_names_step_and_products(workspace: Workspace) -> None:
    with pytest.raises(InputError, match=r"loss is nan in epoch 1, step \d+, products p\d+.*lower learning_rate"):
        fit(workspace, "nan", replace(TRAINING, learning_rate=1e30, classifier_learning_rate=1e30))


@pytest.mark.slow
def test_too_little_memory_names_the_flag_that_needs_less(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="huge: too little memory for 16 products at once: lower --micro-batch"):
        fit(workspace, "huge", width=2**40)


@pytest.mark.slow
def test_a_photo_that_is_gone_is_left_out_and_counted(source: Path, tmp_path: Path, local_ray: None) -> None:
    workspace = store(source, tmp_path / "w")
    labels = Catalog(workspace=workspace).labels().to_pylist()
    gone = next(row["product_id"] for row in labels if row["split"] == "train")
    file = source / f"{int(gone[1:])}.png"
    file.rename(file.with_suffix(".away"))
    recipe = replace(TRAINING, epochs=1, augmentation=Augmentation(), mixup=0.2, cutmix=1.0, frozen=("backbone.conv1",))
    try:
        subject = Subject(
            workspace=workspace,
            name="photo",
            modality="image",
            kind="timm-from-scratch",
            arguments={"model": "test_resnet", "size": 32},
            labels=training_labels(Catalog(workspace=workspace)),
        )
        model = finetune(subject, recipe, Resources())
    finally:
        file.with_suffix(".away").rename(file)
    assert model is not None
    assert curve(model, "unusable") == [1]


@pytest.mark.slow
def test_adapters_are_trained_on_the_weights_that_were_given_and_merged_into_them(
    workspace: Workspace, tmp_path: Path
) -> None:
    arguments = {"model": "org/tiny", "max_length": 8}
    for number, folder in enumerate(("org--tiny", "given")):
        write_bert(tmp_path / folder, [*CLASSES, *(f"w{word}" for word in range(40))], width=64, seed=number)
    given = load_file(tmp_path / "given" / "model.safetensors")
    subject = Subject(
        workspace=workspace,
        name="adapted",
        modality="text",
        kind="transformers",
        arguments=arguments,
        labels=training_labels(Catalog(workspace=workspace)),
        weights=str(tmp_path),
        start_from=str(tmp_path / "given" / "model.safetensors"),
    )
    model = finetune(subject, replace(TRAINING, lora=Lora(rank=2, targets=("query", "value"))), Resources())
    assert model is not None
    plain = build_encoder("transformers", weights=str(tmp_path), seed=0, **arguments).state_dict()
    stored = load_encoder(fetch_model(model)).state_dict()
    assert stored.keys() == plain.keys()
    changed = {name for name in stored if not torch.equal(stored[name], given[name.removeprefix("backbone.")])}
    assert changed
    assert all("query.weight" in name or "value.weight" in name for name in changed)


def run_until(line: str, *flags: object) -> None:
    """Start a job of its own and kill all its processes when it prints a line with this text."""
    command = [sys.executable, "-m", "jobs.finetune_encoder", *map(str, flags)]
    job = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert job.stderr is not None
    with job.stderr:
        assert any(line in found for found in job.stderr), f"the job never printed {line!r}"
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()


FLAGS = ("--encoder", "ngram-text", "--training", "epochs=4", "dropout=0.2", "--checkpoint-steps", 1)


@pytest.fixture(scope="module")
def uninterrupted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return trained_by_job(store(source, tmp_path_factory.mktemp("whole") / "w"))


def trained_by_job(workspace: Workspace, **environment: str) -> Model:
    done = run_job("finetune_encoder", "--workspace", workspace.uri, *FLAGS, "--json", **environment)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["encoders"]) == 1
    return list_models(workspace, "encoder")[0]


@pytest.mark.slow
def test_a_killed_worker_goes_on_where_it_was(
    source: Path, tmp_path: Path, uninterrupted: Model, local_ray: None
) -> None:
    found = trained_by_job(store(source, tmp_path / "w"), **{VARIABLE: "step:6"})
    assert curve(found) == curve(uninterrupted)
    assert found.id == uninterrupted.id


@pytest.mark.slow
def test_a_killed_job_goes_on_where_it_was(source: Path, tmp_path: Path, uninterrupted: Model, local_ray: None) -> None:
    workspace = store(source, tmp_path / "w")
    run_until("epoch 2 / 4", "--workspace", workspace.uri, *FLAGS)
    found = trained_by_job(workspace)
    assert curve(found) == curve(uninterrupted)
    assert found.id == uninterrupted.id


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_ends_the_run(source: Path, tmp_path: Path, local_ray: None) -> None:
    workspace = store(source, tmp_path / "w")
    done = run_job("finetune_encoder", "--workspace", workspace.uri, *FLAGS, **{VARIABLE: "step:1"})
    assert done.returncode == 2
    assert "ngram-text: worker 0 died 3 times" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--workers", "0"), "--workers 0: expected a number from 1 up, or FEWEST:MOST"),
        (("--workers", "3:2"), "--workers 3:2: expected a number from 1 up, or FEWEST:MOST"),
        (("--micro-batch", 0), "--micro-batch 0: expected 1 or more"),
        (("--training", "epochs"), "--training epochs: expected field=value"),
        (("--encoder", "nobody"), "--encoder nobody: preset sample has none of that name"),
    ],
)
def test_flags_that_mean_nothing_are_named(tmp_path: Path, flags: tuple[object, ...], message: str) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=1))
    done = run_job("finetune_encoder", "--workspace", workspace.uri, *flags)
    assert done.returncode == 2
    assert message in done.stderr
