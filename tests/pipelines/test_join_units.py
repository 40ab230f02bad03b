"""Products through encoders and head in one pass: each as from stored sequences, and what cannot be read left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load

from mmbatch.catalog import Catalog
from mmbatch.contents import joint_hashes
from mmbatch.encoders import encode_sequences, load_encoder
from mmbatch.errors import InputError
from mmbatch.fusion.head import load_head
from mmbatch.fusion.padding import pad_sequences
from mmbatch.joined import joined_store, read_pairs
from mmbatch.models import Model, fetch_model
from mmbatch.pipelines.extract import together
from mmbatch.pipelines.feature_rows import FeatureRows, rows_per_bucket
from mmbatch.pipelines.join_units import Join, JoinStages, rows_of_units
from mmbatch.pipelines.rows import training_labels
from mmbatch.pipelines.stress_joined import Variants
from mmbatch.pipelines.train_late_fusion import Goal, train_late_fusion
from mmbatch.predictor import HEAD_MODEL
from mmbatch.stale import stale
from mmbatch.tables import FileEntry
from mmbatch.training import LateFusionRecipe
from tests.stored_products import BUCKETS, NO_IMAGE, NO_TEXT, TWIN, Stored, write_products

J = 24


@pytest.fixture
def stored(tmp_path: Path, in_process: None) -> Stored:
    return write_products(tmp_path)


def stages_of(stored: Stored, head: Model) -> JoinStages:
    catalog = Catalog(workspace=stored.workspace).pinned()
    encoders = {model.name: model for model in stored.encoders}
    store = joined_store(stored.workspace, head)
    return JoinStages(catalog, together(catalog, stored.encoders), head, encoders, store)


def join(stored: Stored, head: Model) -> list[dict[str, Any]]:
    """Join what is stale, without Ray; the failures."""
    stages = stages_of(stored, head)
    found = stale(stages.contents, [stages.store], buckets=BUCKETS)
    prepared = [done for row in rows_of_units(found.units) for done in stages.prepare(row)]
    if not prepared:
        return []
    done = Join(stages)(pa.Table.from_pylist(prepared)).to_pylist()
    entries = [FileEntry(**file["entry"]) for unit in done for file in unit["files"]]
    stages.store.table.commit(entries, app_id=f"join-{stages.store.table.version()}")
    return [failure for unit in done for failure in unit["failures"]]


def expected(stored: Stored, head: Model, number: int, parts: Sequence[str] = ("image", "text")) -> np.ndarray:
    """A product's embedding from its own sequences, padded."""
    row = stored.row(number)
    content = pa.table(
        {
            "title": pa.array([row["title"]], pa.string()),
            "description": pa.array([row["text"]], pa.string()),
            "image": pa.array([Path(row["image"]).read_bytes() if row["image"] else None], pa.binary()),
        }
    )
    features, filled = {}, {}
    for model in stored.encoders:
        encoder = load_encoder(fetch_model(model))
        given = content if model.name in parts else content.slice(0, 0)
        found = encode_sequences(encoder, encoder.prepare(given).inputs, "cpu")
        found = found if len(found) else type(found)(found.states, np.zeros(2, np.int64))
        features[model.name], filled[model.name] = pad_sequences(found, "cpu")
    with torch.inference_mode():
        joined: np.ndarray = load_head(fetch_model(head)).embed(features, filled)[0].numpy()
    return joined


def embeddings(stored: Stored, head: Model) -> dict[str, np.ndarray]:
    """By product, as a reader finds them."""
    catalog = Catalog(workspace=stored.workspace).pinned()
    contents = together(catalog, stored.encoders)
    found: dict[str, np.ndarray] = {}
    for bucket in range(BUCKETS):
        keys = contents.parts(bucket)
        text, image = (keys[name].combine_chunks() for name in ("text_hash", "image_hash"))
        vectors, present = read_pairs(joined_store(stored.workspace, head), text, image, buckets=[bucket])
        names = keys["product_id"].to_pylist()
        found |= {name: vectors[n] for n, name in enumerate(names) if present[n]}
    return found


def computed(stored: Stored, head: Model) -> int:
    return joined_store(stored.workspace, head).table.rows()


def test_every_product_has_the_embedding_of_its_own_sequences(stored: Stored) -> None:
    head = stored.head()
    assert join(stored, head) == []
    found = embeddings(stored, head)
    assert set(found) >= {f"p{n:02}" for n in range(stored.products) if n != TWIN}
    for number in (0, 1, NO_IMAGE, 3, NO_TEXT, 11):
        np.testing.assert_allclose(found[f"p{number:02}"], expected(stored, head, number), atol=4e-3)
    assert computed(stored, head) == stored.products - 1, "the twin's is copied, not computed"


def test_a_rerun_computes_nothing_and_an_edited_title_its_product_alone(stored: Stored) -> None:
    head = stored.head()
    join(stored, head)
    before, rows = embeddings(stored, head), computed(stored, head)
    join(stored, head)
    assert computed(stored, head) == rows
    stored.ingest(p03="steel lamp")
    stored.store_vectors()
    join(stored, head)
    assert computed(stored, head) == rows + 1
    after = embeddings(stored, head)
    assert [name for name in before if before[name].tobytes() != after[name].tobytes()] == ["p03"]


def test_a_photo_that_went_missing_leaves_the_text_until_it_is_back(stored: Stored) -> None:
    head, photo = stored.head(), stored.photos / "4.png"
    photo.rename(stored.photos / "away.png")
    (failure,) = join(stored, head)
    assert (failure["product_id"], failure["modality"], failure["reason"]) == ("p04", "image", "image_missing")
    (stored.photos / "away.png").rename(photo)
    np.testing.assert_allclose(embeddings(stored, head)["p04"], expected(stored, head, 4, ("text",)), atol=4e-3)
    photo.rename(stored.photos / "away.png")
    rows = computed(stored, head)
    assert len(join(stored, head)) == 1
    assert computed(stored, head) == rows, "what is left of it was stored already"
    (stored.photos / "away.png").rename(photo)
    assert join(stored, head) == []
    assert computed(stored, head) == rows + 1
    np.testing.assert_allclose(embeddings(stored, head)["p04"], expected(stored, head, 4), atol=4e-3)


def test_a_product_of_which_nothing_can_be_read_has_no_embedding(stored: Stored) -> None:
    head = stored.head()
    (stored.photos / f"{NO_TEXT}.png").unlink()
    assert [failure["product_id"] for failure in join(stored, head)] == [f"p{NO_TEXT:02}"]
    assert f"p{NO_TEXT:02}" not in embeddings(stored, head)


def test_the_stress_table_joins_anew_what_is_left(stored: Stored) -> None:
    head = stored.head()
    join(stored, head)
    catalog = Catalog(workspace=stored.workspace).pinned()
    sample = catalog.keys().to_pandas().assign(split="test").sort_values(["bucket", "product_id"])
    sample = sample[sample["product_id"] != f"p{TWIN:02}"]
    variants = Variants(catalog, head, stored.encoders, together(catalog, stored.encoders), sample)
    removed = {"all": (), "no image": ("image",), "no text": ("text",), "title only": ("image", "description")}
    found = {name: load(variants.read({"variant": name}, variants=removed)[0]["arrays"]) for name in removed}
    at = {name: place for place, name in enumerate(sample["product_id"])}
    stored_now = embeddings(stored, head)
    for name, place in at.items():
        assert found["all"]["vectors"][place].tobytes() == stored_now[name].tobytes()
    for variant, parts in (("no image", ("text",)), ("no text", ("image",))):
        got = found[variant]["vectors"][at["p04"]]
        np.testing.assert_allclose(got, expected(stored, head, 4, parts), atol=4e-3)
    assert not found["no image"]["present"][at[f"p{NO_TEXT:02}"]]
    assert found["no text"]["present"].sum() == stored.products - 2
    title, both = (found[name]["vectors"] for name in ("title only", "no image"))
    assert not np.allclose(title[at["p04"]], both[at["p04"]], atol=4e-3), "product 4 has a description"
    np.testing.assert_allclose(title[at["p03"]], both[at["p03"]], atol=4e-3)


def test_hashes_say_what_an_embedding_was_computed_from(stored: Stored) -> None:
    head = stored.head()
    join(stored, head)
    keys = Catalog(workspace=stored.workspace).keys()
    rows = joined_store(stored.workspace, head).table.read(["product_id", "content_hash"]).to_pylist()
    wanted = joint_hashes(keys["text_hash"], keys["image_hash"]).to_pylist()
    by_product = dict(zip(keys["product_id"].to_pylist(), wanted, strict=True))
    assert all(by_product[row["product_id"]] == row["content_hash"] for row in rows)


def test_the_late_fusion_reads_the_embeddings_and_refuses_to_run_without_any(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = stored.head()
    monkeypatch.setattr("mmbatch.pipelines.train_late_fusion.start_ray", pytest.fail)
    with pytest.raises(InputError, match=f"{head.id}: found no joined embeddings, expected some: run jobs.extract_f"):
        train_late_fusion(stored.workspace, stored.encoders, head, recipe=LateFusionRecipe(), goal=Goal(precision=0.9))
    join(stored, head)
    labels, known = training_labels(Catalog(workspace=stored.workspace)), embeddings(stored, head)
    read = (stored.workspace, stored.encoders, labels.categories, rows_per_bucket(labels))
    ((features, codes),) = FeatureRows(*read, joined=head).read("train")
    vectors, present = features[HEAD_MODEL]
    assert vectors.shape == (len(codes), J)
    wanted = {vector.tobytes() for vector in known.values()}
    assert all(vector.tobytes() in wanted for vector in vectors[present])
    assert present.sum() >= len(codes) - 1
    assert [HEAD_MODEL in features for features, _ in FeatureRows(*read).read("train")] == [False]
