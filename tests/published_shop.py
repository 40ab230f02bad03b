"""A workspace whose predictions are published, with encoders and a predictor that were never trained: made in seconds.

Call `publish_shop` with the fixture `in_process`.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.ngram import NgramText
from mmbatch.encoders.precomputed import PrecomputedImage
from mmbatch.fusion.head import load_head
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.models import Model, fetch_model, publish_model
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.predict import predict
from mmbatch.predictor import HEAD_MODEL, EncoderPart, Scorer
from mmbatch.sources import Columns
from mmbatch.workspace import Settings, Workspace
from tests.made_predictor import card_of, predictor_of
from tests.pipelines.test_extract import publish
from tests.pipelines.test_join_units import join
from tests.stored_products import BUCKETS, Stored

CATEGORIES = (("even",), ("odd",))
FITTED_ROWS = 60
VECTOR_WIDTH = 12
PDF = b"%PDF-1.7\n1 0 obj\n"


def photo(seed: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


PRODUCTS: dict[str, dict[str, Any]] = {
    "both": {"title": "  Steel\x07 lamp ", "description": "for the\tdesk", "image": photo(0)},
    "text only": {"title": "oak bench"},
    "description only": {"description": "a mug, blue"},
    "image only": {"image": photo(1)},
    "cut image": {"title": "red shoe", "image": photo(2)[:-200]},
    "PDF": {"title": "paper lamp", "image": PDF},
    "blank title": {"title": " \n", "image": photo(3)},
}
"""By id, as a source holds them."""


def rows_of(products: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"product_id": name, **product} for name, product in products.items()]


def vectors() -> dict[str, dict[str, Any]]:
    """The same with vectors in place of the images."""
    rng = np.random.default_rng(0)
    found = {
        name: {key: value for key, value in product.items() if key != "image"} for name, product in PRODUCTS.items()
    }
    for name in ("both", "image only", "blank title"):
        found[name]["image_vector"] = rng.normal(size=VECTOR_WIDTH).astype(np.float32).tolist()
    found["cut image"]["image_vector"] = [1.0] * (VECTOR_WIDTH - 1)
    found["PDF"]["image_vector"] = [float("nan")] * VECTOR_WIDTH
    return found


def publish_shop(folder: Path, products: dict[str, dict[str, Any]] = PRODUCTS, *, sequences: bool = False) -> Workspace:
    """Ingest, encode, join and predict the products; `sequences`: with a head that reads them."""
    wide = any("image_vector" in product for product in products.values())
    kinds = {"title": pa.string(), "description": pa.string(), "image": pa.binary()}
    kinds |= {"image_vector": pa.list_(pa.float32())} if wide else {}
    names = pa.schema([("product_id", pa.string()), *kinds.items()])
    pq.write_table(pa.Table.from_pylist(rows_of(products), schema=names), folder / "source.parquet")
    workspace = Workspace.create(str(folder / "w"), Settings(preset="sample", level=1, seed=0, buckets=BUCKETS))
    image = {"image_vector": "image_vector"} if wide else {"image": "image"}
    columns = Columns(**dict[str, Any](id="product_id", title="title", description="description", **image))
    ingest(workspace, source=str(folder / "source.parquet"), columns=columns)
    text = NgramText.from_scratch(buckets=256, width=16, seed=0).eval()
    given = PrecomputedImage.from_scratch(input_width=VECTOR_WIDTH, hidden=16, width=8, seed=0)
    encoders = (
        publish(
            workspace, given if wide else TimmImage.from_scratch("test_resnet", size=64, seed=0), "image", folder / "i"
        ),
        publish(workspace, text, "ngram-text", folder / "t"),
    )
    stored = Stored(workspace, encoders, folder, len(products))
    stored.store_vectors()
    head = stored.head() if sequences else None
    if head:
        assert join(stored, head) == []
    predict(workspace, publish_predictor(workspace, encoders, head, folder / "predictor"))
    return workspace


def publish_predictor(
    workspace: Workspace, encoders: tuple[Model, ...], head: Model | None, folder: Path, *, seed: int = 0
) -> Model:
    rng = np.random.default_rng(seed)
    parts = tuple(
        EncoderPart(id=model.id, modality=model.card["modality"], width=model.card["width"]) for model in encoders
    )
    classifiers = {
        part.name: (rng.normal(size=(2, part.width)).astype(np.float32), np.zeros(2, np.float32)) for part in parts
    }
    network = load_head(fetch_model(head)) if head else None
    scorer = Scorer(
        encoders=parts,
        classifiers=classifiers,
        head=network,
        levels=Levels(Taxonomy(CATEGORIES)),
        joined=head.id if head else None,
    )
    widths = {part.name: part.width for part in parts} | ({HEAD_MODEL: scorer.joined_width} if head else {})
    features = {
        name: (rng.normal(size=(FITTED_ROWS, width)).astype(np.float16), np.ones(FITTED_ROWS, bool))
        for name, width in widths.items()
    }
    predictor = predictor_of(scorer, features, np.arange(FITTED_ROWS) % 2)
    folder.mkdir()
    predictor.save(folder)
    files = sorted(path.name for path in folder.iterdir())
    card = card_of(predictor) | {"head": head.id if head else None}
    return publish_model(
        workspace, kind="predictor", name="predictor", folder=folder, identity=files, recipe="", card=card
    )
