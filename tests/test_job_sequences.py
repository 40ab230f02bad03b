"""A head over sequences as a user has one: trained, extracted, fused, predicted, and one title edited."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from jobs.evaluate import Evaluate
from jobs.evaluate import main as evaluate
from jobs.extract_features import ExtractFeatures
from jobs.extract_features import main as extract
from jobs.ingest import Ingest
from jobs.ingest import main as ingest
from jobs.predict import Predict
from jobs.predict import main as predict
from jobs.train_head import TrainHead
from jobs.train_head import main as train_head
from jobs.train_late_fusion import TrainLateFusion
from jobs.train_late_fusion import main as train_late_fusion
from mmbatch.catalog import Catalog, category_of
from mmbatch.encoders import build_encoder
from mmbatch.errors import InputError
from mmbatch.joined import joined_store
from mmbatch.models import newest_encoders, newest_head, open_model, publish_model
from mmbatch.pipelines.cluster import start_ray
from mmbatch.predictions import Predictions
from mmbatch.predictor import HEAD_MODEL
from mmbatch.presets.sample import SAMPLE
from mmbatch.sample import write_sample
from mmbatch.sequence_store import sequences_table
from mmbatch.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:ray")]
"""Ray warns of its own settings while it makes its context."""

ROWS, DRAWN = 200, 80


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    start_ray()
    yield
    ray.shutdown()


def publish_encoders(workspace: Workspace, folder: Path) -> None:
    """The preset's, as drawn from their seed."""
    labels = category_of(Catalog(workspace=workspace).table.read(["label"])["label"], SAMPLE.level).unique().drop_null()
    for recipe in SAMPLE.encoders:
        encoder = build_encoder(recipe.kind, weights=None, seed=0, **recipe.arguments).eval()
        (folder / recipe.name).mkdir()
        encoder.save(folder / recipe.name)
        card = {"modality": encoder.modality, "width": encoder.width, "categories": sorted(labels.to_pylist())}
        publish_model(
            workspace,
            kind="encoder",
            name=recipe.name,
            folder=folder / recipe.name,
            identity=[file.name for file in (folder / recipe.name).iterdir()],
            recipe="from scratch",
            card=card,
        )


def vectors(workspace: Workspace) -> dict[tuple[str, str], bytes]:
    """By product and content: the joined embeddings."""
    head = newest_head(workspace, newest_encoders(workspace))
    assert head is not None
    rows = joined_store(workspace, head).table.read(["product_id", "content_hash", "vector"]).to_pylist()
    return {(row["product_id"], row["content_hash"]): row["vector"] for row in rows}


def published(workspace: Workspace) -> dict[str, dict[str, Any]]:
    return {row["product_id"]: row for row in Predictions(workspace=workspace).table.read().to_pylist()}


@pytest.mark.usefixtures("local_ray")
def test_an_edit_of_one_title_joins_and_predicts_that_product_alone(tmp_path: Path) -> None:
    (source,) = write_sample(str(tmp_path / "source"), rows=ROWS, seed=3)
    uri = str(tmp_path / "w")
    ingest(Ingest(workspace=uri, source=source, preset="sample"))
    workspace = Workspace.open(uri)
    publish_encoders(workspace, tmp_path)
    extract(ExtractFeatures(workspace=uri))
    fields = ("sequences=True", "blocks=1", "attention_heads=4", "epochs=2", f"sequence_rows={DRAWN}")
    flags = TrainHead(workspace=uri, heads="cross-attention", training=fields)
    made = train_head(flags)
    head = open_model(workspace, kind="head", model_id=made["head"])
    assert (head.card["sequences"], head.card["sequence_widths"]["ngram-text"], head.card["width"]) == (True, 128, 256)
    tables = [sequences_table(workspace, model.id) for model in newest_encoders(workspace)]
    assert all(DRAWN // 2 < table.rows() <= DRAWN for table in tables)
    versions = [table.version() for table in tables]
    assert train_head(flags)["head"] == made["head"]
    with pytest.raises(InputError, match=f"{head.id}: found no joined embeddings, expected some: run jobs.extract"):
        train_late_fusion(TrainLateFusion(workspace=uri))

    (joined,) = extract(ExtractFeatures(workspace=uri))["joined"]
    counts = joined["counts"]
    keys = Catalog(workspace=workspace).keys()
    assert counts["products"] == counts["computed"] + counts["reused"] == keys.num_rows
    before = vectors(workspace)
    assert len(before) == keys.num_rows
    assert {len(vector) for vector in before.values()} == {2 * 256}
    train_late_fusion(TrainLateFusion(workspace=uri))
    assert predict(Predict(workspace=uri))["counts"]["predicted"] == keys.num_rows
    earlier = published(workspace)
    assert all(HEAD_MODEL in dict(row["model_categories"]) for row in earlier.values())
    stress = {row["input"]: row for row in evaluate(Evaluate(workspace=uri))["counts"]["stress"]}
    assert {"all", "no image", "no text"} <= set(stress)

    assert extract(ExtractFeatures(workspace=uri))["joined"][0]["counts"]["computed"] == 0
    rows = pq.read_table(source).to_pylist()
    edited = next(row for row in rows if row["product_id"] in earlier and row["title"] and not row["category_path"])
    edited["title"] = "an entirely new title"
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(source)), tmp_path / "next.parquet")
    ingest(Ingest(workspace=uri, source=str(tmp_path / "next.parquet")))
    done = extract(ExtractFeatures(workspace=uri))
    assert (done["counts"]["computed"], done["joined"][0]["counts"]["computed"]) == (1, 1)
    after = vectors(workspace)
    assert before.items() < after.items()
    assert [product for product, _ in after.keys() - before.keys()] == [edited["product_id"]]
    assert predict(Predict(workspace=uri))["counts"]["predicted"] == 1
    later = published(workspace)
    assert [name for name in later if later[name] != earlier[name]] == [edited["product_id"]]
    assert [table.version() for table in tables] == versions, "nothing of this stores a sequence"
