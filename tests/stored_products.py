"""A workspace of small real products whose vectors are stored, with a text encoder, an image encoder and a head."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.encoders import encode, load_encoder
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.recurrent import RecurrentText
from mmbatch.fusion.base import FusionHead
from mmbatch.fusion.head import build_head
from mmbatch.models import Model, fetch_model, publish_model
from mmbatch.pipelines.extract import store_of
from mmbatch.pipelines.ingest import ingest
from mmbatch.schema import Modality
from mmbatch.sources import Columns
from mmbatch.workspace import Settings, Workspace
from tests.encoders.conftest import WORDS
from tests.pipelines.test_extract import publish

BUCKETS = 2
COLUMNS = Columns(id="id", title="title", description="text", image="image", label=("label",))
NO_IMAGE, NO_TEXT, TWIN = 2, 5, 7
"""Numbers of the products without an image, without a text, and with the title and the photo of product 0."""


@dataclass(frozen=True)
class Stored:
    workspace: Workspace
    encoders: tuple[Model, Model]
    """By name: image, text."""
    photos: Path
    """One PNG a product, which the catalog names."""
    products: int

    def ingest(self, **titles: str) -> None:
        """Make the catalog the products, some with another title."""
        rows = [self.row(number) for number in range(self.products)]
        rows = [row | {"title": titles.get(str(row["id"]), row["title"])} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows), self.photos / "source.parquet")
        ingest(self.workspace, source=str(self.photos / "source.parquet"), columns=COLUMNS)

    def row(self, number: int) -> dict[str, str | None]:
        alike = 0 if number == TWIN else number
        words = np.random.default_rng(alike).choice(WORDS[2:8], 2 + alike % 4)
        return {
            "id": f"p{number:02}",
            "title": None if number == NO_TEXT else f"{' '.join(words)} {WORDS[alike % 2]}",
            "text": None if alike % 3 == 0 or number == NO_TEXT else " ".join(words[::-1]),
            "image": None if number == NO_IMAGE else str(self.photos / f"{alike}.png"),
            "label": "even" if number % 2 == 0 else "odd",
        }

    def store_vectors(self) -> None:
        """Encode what the feature stores lack, one file a bucket and encoder."""
        catalog = Catalog(workspace=self.workspace)
        for model in self.encoders:
            encoder, store, column = load_encoder(fetch_model(model)), store_of(self.workspace, model), ""
            column = HASH_COLUMNS[model.card["modality"]]
            for bucket in range(BUCKETS):
                hashes = catalog.keys([bucket])[column].drop_null().unique()
                stored = store.table.read(["content_hash"], buckets=[bucket])["content_hash"].to_pylist()
                wanted = pa.array(sorted(set(hashes.to_pylist()) - set(stored)), pa.string())
                if len(wanted):
                    content = catalog.content(model.card["modality"], bucket, wanted)
                    prepared = encoder.prepare(content)
                    good = content.take(pa.array(prepared.good))
                    entry = store.write(
                        good["product_id"].combine_chunks(),
                        good["content_hash"].combine_chunks(),
                        encode(encoder, prepared.inputs, "cpu"),
                        bucket=bucket,
                    )
                    store.table.commit([entry], app_id=f"{bucket}-{store.table.version()}")

    def head(self) -> Model:
        """An untrained head over sequences, stored."""
        networks = {model.name: load_encoder(fetch_model(model)) for model in self.encoders}
        folder = self.photos / "head"
        widths = {name: encoder.sequence_width for name, encoder in networks.items()}
        made = network(widths, {name: encoder.modality for name, encoder in networks.items()})
        made.save(folder)
        width = made.classifier.in_features
        card = {"encoders": [model.id for model in self.encoders], "sequences": True, "width": width}
        card |= {"training": {"level_weights": []}, "categories": ["even", "odd"]}
        files = sorted(path.name for path in folder.iterdir())
        return publish_model(
            self.workspace, kind="head", name="fusion-head", folder=folder, identity=files, recipe="r", card=card
        )


def network(widths: dict[str, int], modalities: dict[str, Modality]) -> FusionHead:
    torch.manual_seed(0)
    return build_head(
        kind="cross-attention",
        widths=widths,
        modalities=modalities,
        classes=[2],
        blocks=1,
        heads=2,
        dropout=0.0,
    ).eval()


def write_products(folder: Path, *, products: int = 12) -> Stored:
    """Call it with the fixture `in_process`."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(products):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(file, "PNG")
        (photos / f"{number}.png").write_bytes(file.getvalue())
    workspace = Workspace.create(str(folder / "w"), Settings(preset="sample", level=1, seed=0, buckets=BUCKETS))
    text = RecurrentText.from_words(
        words=WORDS[:8], vectors=None, word_width=6, hidden=6, width=8, weights=None, seed=0
    )
    image = TimmImage.from_scratch("test_resnet", size=64, seed=0)
    made = (publish(workspace, image, "image", folder / "image"), publish(workspace, text, "text", folder / "text"))
    stored = Stored(workspace, made, photos, products)
    stored.ingest()
    stored.store_vectors()
    return stored
