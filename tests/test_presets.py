"""The presets of the published systems, from their raw files to stored vectors, on small twins of their encoders."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from jobs import finetune_encoder, ingest, submission
from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.encoders import encode, load_encoder
from mmbatch.errors import InputError
from mmbatch.fusion.head import load_head
from mmbatch.models import Model, fetch_model, list_models
from mmbatch.pipelines.cluster import start_ray
from mmbatch.pipelines.evaluate import evaluate
from mmbatch.pipelines.extract import extract, store_of
from mmbatch.pipelines.finetune import subjects_of
from mmbatch.pipelines.predict import predict
from mmbatch.pipelines.train_head import train_head
from mmbatch.pipelines.train_late_fusion import Goal, train_late_fusion
from mmbatch.presets import PRESETS
from mmbatch.quarantine import quarantine_table
from mmbatch.training import EncoderRecipe, Training
from mmbatch.workspace import Workspace
from tests.preset_sources import (
    CLASSES,
    PER_CLASS,
    RARE,
    Product,
    small_catalog,
    write_flipkart,
    write_kakao,
    write_rakuten,
)
from tests.preset_twins import write_weights
from tests.rakuten_files import CODES, make_items, read_rows, write_challenge

pytestmark = pytest.mark.filterwarnings("ignore::Warning:ray")
"""Ray warns of its own settings while it makes its context."""

WIDTHS = {
    "rakuten2020": {"camembert": 32, "flaubert": 768, "se-resnext50": 2048},
    "kakao": {"bert-kor": 768, "image-mlp": 512},
    "flipkart": {"bilstm": 256, "mobilenet": 1024},
}
"""Numbers in a vector of each encoder; of CamemBERT's, those of its twin."""


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    start_ray()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Product]:
    return small_catalog(tmp_path_factory.mktemp("catalog"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, products: list[Product]) -> str:
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder, [f"{product.title} {product.description or ''}" for product in products])
    return str(folder)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, products: list[Product]) -> Iterator[dict[str, dict[str, Any]]]:
    """Flags of each preset's source; Flipkart's images come from a web server."""
    root = tmp_path_factory.mktemp("sources")
    handler = partial(Quiet, directory=str(root / "flipkart"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}"
        yield {
            "rakuten2020": {"source": str(write_rakuten(root / "rakuten", products))},
            "kakao": {"source": str(write_kakao(root / "kakao", products))},
            "flipkart": {"source": str(write_flipkart(root / "flipkart", products, site)), "images_from": (site,)},
        }
        server.shutdown()


@pytest.fixture(scope="module")
def workspace_of(
    tmp_path_factory: pytest.TempPathFactory, sources: dict[str, dict[str, Any]]
) -> Callable[[str], Workspace]:
    """The workspace of a preset after the ingest of its source."""
    root = tmp_path_factory.mktemp("workspaces")

    @cache
    def made(preset: str) -> Workspace:
        ingest.main(ingest.Ingest(workspace=str(root / preset), preset=preset, **sources[preset]))
        return Workspace.open(str(root / preset))

    return made


def finetune(workspace: Workspace, recipe: EncoderRecipe, weights: str | None, *fields: str) -> Model:
    job = finetune_encoder.FinetuneEncoder(
        workspace=workspace.uri, weights=weights, encoder=recipe.name, training=("epochs=1", "batch_size=8", *fields)
    )
    finetune_encoder.main(job)
    return next(model for model in list_models(workspace, "encoder") if model.name == recipe.name)


def frozen(recipe: EncoderRecipe) -> tuple[str, ...]:
    """Flags that keep networks of full size as they are, so that a step takes a second."""
    return ("frozen=backbone",) if recipe.kind == "timm" else ()


def some_vectors(workspace: Workspace, model: Model) -> np.ndarray:
    """Of the first bucket's products, computed here."""
    catalog, column = Catalog(workspace=workspace), HASH_COLUMNS[model.card["modality"]]
    hashes = catalog.labels([0])[column].drop_null().combine_chunks()
    encoder = load_encoder(Path(model.uri))
    prepared = encoder.prepare(catalog.content(encoder.modality, 0, hashes))
    assert not prepared.failures
    with torch.inference_mode():
        return encode(encoder, prepared.inputs, "cpu")


def assert_vectors(found: np.ndarray, *, width: int) -> None:
    """They are of that width, finite, and tell most products apart."""
    assert found.shape[1] == width
    assert np.isfinite(found).all()
    assert len(np.unique(found, axis=0)) > len(found) / 2


def stored_vectors(workspace: Workspace, model: Model) -> np.ndarray:
    """Of the catalog's products that have the encoder's modality, `[N, width]`."""
    buckets = range(workspace.settings.buckets)
    column = HASH_COLUMNS[model.card["modality"]]
    hashes = Catalog(workspace=workspace).labels()[column].drop_null()
    found, present = store_of(workspace, model).read(hashes, buckets=buckets)
    assert present.all()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(WIDTHS))
def test_a_preset_trains_and_encodes_its_own_catalog(
    preset: str,
    workspace_of: Callable[[str], Workspace],
    products: list[Product],
    weights: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workspace = workspace_of(preset)
    assert not quarantine_table(workspace).read().num_rows
    labels = Catalog(workspace=workspace).labels()
    assert labels.num_rows == len(products)
    assert len(set(labels["category"].to_pylist())) == CLASSES + 1

    models = []
    for recipe in PRESETS[preset].encoders:
        model = finetune(workspace, recipe, weights, *frozen(recipe))
        models.append(model)
        asked: Training = replace(recipe.training, epochs=1, batch_size=8)
        asked = replace(asked, frozen=("backbone",)) if frozen(recipe) else asked
        trained = model.card["training"]
        assert (trained["kind"], trained["arguments"]) == (recipe.kind, recipe.arguments)
        assert trained["training"] == json.loads(json.dumps(asdict(asked)))
        assert [np.isfinite(entry["loss"]) for entry in model.card["history"]] == [True]
        assert model.card["metrics"]["rows"] == CLASSES
        said = f"{recipe.name}: 1 of {CLASSES + 1} classes have no fusion row, so none scores an epoch"
        assert said in capsys.readouterr().err
    assert {model.name: model.card["width"] for model in models} == WIDTHS[preset]

    for model in models:
        assert_vectors(some_vectors(workspace, model), width=WIDTHS[preset][model.name])


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(WIDTHS))
def test_a_preset_extracts_its_own_catalog(
    preset: str, workspace_of: Callable[[str], Workspace], products: list[Product], weights: str
) -> None:
    workspace = workspace_of(preset)
    models = [finetune(workspace, recipe, weights, *frozen(recipe)) for recipe in PRESETS[preset].encoders]
    extract(workspace, models)
    for model in models:
        found = stored_vectors(workspace, model)
        assert len(found) == len(products)
        assert_vectors(found, width=WIDTHS[preset][model.name])
    recipe = replace(PRESETS[preset].head, epochs=1, blocks=1)
    head = train_head(workspace, models, recipe=recipe)
    assert head is not None
    assert head.card["kind_of_head"] == recipe.kinds[0]
    levels = (CLASSES + 1, CLASSES + 1, CLASSES - CLASSES // 2)  # every other class ends at the second level
    assert load_head(fetch_model(head)).classes == (levels if recipe.level_weights else (CLASSES + 1,))


def test_kakao_codes_of_no_level_end_the_path(workspace_of: Callable[[str], Workspace]) -> None:
    paths = Catalog(workspace=workspace_of("kakao")).table.read(["label"])["label"].to_pylist()
    assert Counter(map(len, paths)).keys() == {2, 3}
    assert ["2", "20"] in paths


def test_flipkart_without_its_images_is_text_to_train(
    tmp_path: Path,
    sources: dict[str, dict[str, Any]],
    products: list[Product],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = sources["flipkart"]["source"]
    ingest.main(ingest.Ingest(workspace=str(tmp_path / "w"), preset="flipkart", source=source))
    workspace = Workspace.open(str(tmp_path / "w"))
    assert quarantine_table(workspace).read(["reason"])["reason"].to_pylist() == ["image_forbidden"] * len(products)
    assert len(Catalog(workspace=workspace).labels()["text_hash"].drop_null()) == len(products)
    job = finetune_encoder.FinetuneEncoder(workspace=workspace.uri, encoder="mobilenet")
    assert finetune_encoder.main(job) == {"encoders": {}}
    assert "mobilenet: no labelled product has image, skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("preset", "name", "folder"),
    [
        ("rakuten2020", "flaubert", "flaubert--flaubert_base_cased"),
        ("rakuten2020", "se-resnext50", "timm--legacy_seresnext50_32x4d"),
        ("flipkart", "bilstm", "glove.6B.100d"),
    ],
)
def test_a_model_that_the_weights_folder_lacks_is_named_before_any_worker_starts(
    preset: str,
    name: str,
    folder: str,
    workspace_of: Callable[[str], Workspace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "camembert-base").mkdir()
    monkeypatch.setattr("mmbatch.pipelines.finetune.start_ray", lambda *_: pytest.fail("Ray was started"))
    recipe = next(recipe for recipe in PRESETS[preset].encoders if recipe.name == name)
    with pytest.raises(InputError, match=rf"^--weights {tmp_path}: .*expected folder {folder}, found camembert-base$"):
        finetune(workspace_of(preset), recipe, str(tmp_path), "learning_rate=1")


def test_weights_of_a_later_encoder_are_missed_before_the_first_is_trained(
    workspace_of: Callable[[str], Workspace], tmp_path: Path
) -> None:
    (tmp_path / "camembert-base").mkdir()
    with pytest.raises(InputError, match="expected folder flaubert--flaubert_base_cased"):
        subjects_of(workspace_of("rakuten2020"), PRESETS["rakuten2020"].encoders, weights=str(tmp_path))


@pytest.mark.slow
def test_se_resnext_trains_whole(workspace_of: Callable[[str], Workspace], weights: str) -> None:
    recipe = next(recipe for recipe in PRESETS["rakuten2020"].encoders if recipe.name == "se-resnext50")
    model = finetune(workspace_of("rakuten2020"), recipe, weights)
    assert np.isfinite(model.card["history"][0]["loss"])


def test_published_sources_are_small(products: list[Product]) -> None:
    assert Counter(Counter(product.code for product in products).values()) == {PER_CLASS: CLASSES, RARE: 1}


@pytest.mark.slow
def test_the_rakuten_challenge_from_its_files_to_a_submission(tmp_path: Path) -> None:
    train, test = make_items(train=4 * len(CODES), test=9)
    folder = write_challenge(tmp_path / "challenge", train, test, form="tsv")
    write_weights(tmp_path / "weights", [f"{item.title} {item.description}" for item in train])
    uri, preset = str(tmp_path / "workspace"), PRESETS["rakuten2020"]
    ingest.main(ingest.Ingest(workspace=uri, preset=preset.name, source=str(folder)))
    workspace = Workspace.open(uri)
    encoders = [finetune(workspace, one, str(tmp_path / "weights"), *frozen(one)) for one in preset.encoders]
    extract(workspace, encoders)
    head = train_head(workspace, encoders, recipe=replace(preset.head, epochs=1))
    predictor = train_late_fusion(
        workspace, encoders, head, recipe=preset.late_fusion, goal=Goal(precision=preset.precision)
    )
    assert predictor.card["late_fusion"]["rows"] == len(CODES)
    assert predict(workspace, predictor)["counts"]["predicted"] == len(train) + len(test)
    paper = Path(evaluate(workspace, predictor, paper=True)["counts"]["paper"])
    assert "## What fusion corrects" in paper.read_text()  # top level categories are known
    out = tmp_path / "submission.tsv"
    submission.main(submission.Submission(workspace=uri, source=str(folder), out=str(out)))
    header, *rows = read_rows(out)
    assert header[-1] == "Prdtypecode"
    assert [int(row[0]) for row in rows] == [item.number for item in test]
    assert {row[-1] for row in rows} <= set(CODES)
