"""Online prediction: a few products in, and out the rows that the batch jobs would publish of them.

The texts and images pass the checks of an ingest, and the encoders, the head and the predictor those of a batch: by the
same code, with every model loaded once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmbatch import schema
from mmbatch.catalog import HASH_COLUMNS, stage
from mmbatch.encoders import Encoder, Engine, encode_prepared, engine_for, load_encoder
from mmbatch.encoders.precomputed import PrecomputedImage
from mmbatch.errors import InputError
from mmbatch.fusion.base import FusionHead
from mmbatch.fusion.fused import joined_embeddings
from mmbatch.fusion.head import load_head
from mmbatch.image_access import ImageAccess
from mmbatch.image_web import WebLimits
from mmbatch.models import Model, fetch_model, open_model, reads_sequences
from mmbatch.prediction_rows import prediction_table
from mmbatch.predictions import marks
from mmbatch.predictor import HEAD_MODEL, Features, Predictor, load_predictor
from mmbatch.product_inputs import ProductContents, ProductInputs
from mmbatch.schema import MODALITIES
from mmbatch.source_checks import check_rows
from mmbatch.source_images import ImageReader
from mmbatch.source_types import Checked, Columns, RawBatch, Reject, rejects_table
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

PRODUCTS = pa.schema(
    [
        ("product_id", pa.string()),  # null: its row number
        ("title", pa.string()),
        ("description", pa.string()),
        ("image", pa.binary()),  # encoded file (JPEG, PNG, WebP, GIF, BMP)
        ("image_uri", pa.string()),  # where it is read from, in place of `image`
        ("image_vector", pa.list_(pa.float32())),  # in place of both, for a predictor that was trained on vectors
    ]
)
"""What may be said of a product; every column may be left out or null."""

Products: TypeAlias = pa.Table | Sequence[Mapping[str, Any]]
"""`PRODUCTS`, as a table or as one mapping each."""


class Answers(NamedTuple):
    """What is predicted of products, and what of them could not be used."""

    predictions: pa.Table
    """`schema.PREDICTIONS` of the products that have a usable text or image, in order; all of them are explained, and
    `run_id` is null."""
    positions: np.ndarray
    """int64: which product each prediction is of."""
    rejects: pa.Table
    """`source_types.REJECTS`: what the batch jobs would put in quarantine, by `position` of the product."""

    def of(self, position: int) -> "Answers":
        """What is said of one product."""
        own = self.positions == position
        rejects = self.rejects.filter(pc.equal(self.rejects["position"], position))
        return Answers(self.predictions.filter(pa.array(own)), self.positions[own], rejects)


class Stored(NamedTuple):
    """The models that stand before a stored predictor."""

    encoders: tuple[Model, ...]
    head: Model | None
    """One that reads sequences; any other is a part of the predictor."""

    @classmethod
    def of(cls, workspace: Workspace, predictor: Model) -> Self:
        """`InputError` where one is not stored any more."""
        encoders = [open_model(workspace, kind="encoder", model_id=model_id) for model_id in predictor.card["encoders"]]
        head_id = predictor.card["head"]
        head = open_model(workspace, kind="head", model_id=head_id) if head_id else None
        return cls(tuple(encoders), head if head and reads_sequences(head) else None)


@dataclass(frozen=True, kw_only=True, eq=False)
class OnlinePredictor:
    """A predictor with everything in front of it, loaded. One thread at a time predicts; any number may check."""

    id: str
    """As in the column `predictor`: what decides."""
    predictor: Predictor
    encoders: Mapping[str, Encoder]
    engines: Mapping[str, Engine]
    head: FusionHead | None
    """One that reads sequences."""
    device: torch.device
    buckets: int
    """Of the workspace."""
    access: ImageAccess
    """Where `image_uri` may lead."""
    web: WebLimits

    @classmethod
    def load(
        cls,
        workspace: Workspace,
        model: Model,
        *,
        history: TaxonomyHistory,
        threads: int,
        access: ImageAccess | None = None,
        web: WebLimits | None = None,
    ) -> Self:
        """Load a stored predictor, deciding in `history`, on a GPU if there is one, or `threads` processors.

        `InputError` where a model is not stored any more, or a file of it differs.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        stored = Stored.of(workspace, model)
        encoders = {part.name: load_encoder(fetch_model(part)) for part in stored.encoders}
        return cls(
            id=history.identity(model.id),
            predictor=load_predictor(model, history),
            encoders=encoders,
            engines={name: engine_for(one, device, threads=threads, contents=0) for name, one in encoders.items()},
            head=load_head(fetch_model(stored.head)).to(device) if stored.head else None,
            device=device,
            buckets=workspace.settings.buckets,
            access=access or ImageAccess(),
            web=web or WebLimits(),
        )

    @property
    def vector_width(self) -> int | None:
        """Numbers in the image vectors that the predictor takes; None: it takes photos."""
        widths = [one.input_width for one in self.encoders.values() if isinstance(one, PrecomputedImage)]
        return widths[0] if widths else None

    def predict(self, products: Products) -> Answers:
        """What the batch jobs would publish of these products; `InputError` where they are not `PRODUCTS`."""
        return self.predict_checked(self.check(products))

    def check(self, products: Products, *, first: int = 0) -> Checked:
        """Clean texts, fetch and check images as an ingest does; positions count from `first`."""
        rows = _table(products)
        wide = self.vector_width is not None
        for name in ("image", "image_uri") if wide else ("image_vector",):
            if rows[name].null_count < len(rows):
                expected = "image_vector" if wide else "image or image_uri"
                raise InputError(f"products: found {name}, expected {expected}: what this predictor was trained on")
        raw = RawBatch(_raw(rows, first), pa.array(range(first, first + len(rows)), pa.int64()), [])
        columns = Columns(id="product_id", title="title", description="description")
        columns = replace(columns, image_vector="image_vector") if wide else replace(columns, image="image")
        with ImageReader(self.access, folder="", web=self.web) as reader:
            parts = list(check_rows(raw, columns, reader=reader, vector_width=self.vector_width))
        return together(parts)

    def predict_checked(self, checked: Checked) -> Answers:
        """Encode, join and predict what `check` found usable; its positions are all different."""
        rows, contents = checked.rows, _contents(checked.rows)
        prepared = contents.prepare(self.encoders)
        rejects = [checked.rejects, _failures(rows, prepared)]
        usable = np.any([*prepared.present.values(), np.zeros(len(rows), bool)], axis=0)
        if not usable.all():
            rows, prepared = rows.filter(pa.array(usable)), contents.filter(usable).prepare(self.encoders)
        rejected = pa.concat_tables(rejects).sort_by("position")
        if not len(rows):
            return Answers(schema.PREDICTIONS.empty_table(), np.empty(0, np.int64), rejected)
        keys = stage(rows, source="", unit=0, buckets=self.buckets)
        predictions = prediction_table(keys, self._features(prepared), self.predictor)
        named = {
            "predictor": pa.repeat(self.id, len(rows)),
            "title_hash": keys["title_hash"],
            "description_hash": keys["description_hash"],
            "quarantined": _quarantined(predictions, rows["position"], rejected),
        }
        columns = {name: named.get(name, predictions[name]) for name in schema.PREDICTIONS.names}
        return Answers(pa.table(columns, schema=schema.PREDICTIONS), rows["position"].to_numpy(), rejected)

    def features(self, rows: pa.Table) -> Features:
        """Vectors of checked products (`Checked.rows`); where nothing of one is usable, none is present."""
        return self._features(_contents(rows).prepare(self.encoders))

    def _features(self, prepared: ProductInputs) -> Features:
        features = {}
        for name, encoder in self.encoders.items():
            present = prepared.present[name]
            vectors = np.zeros((len(present), encoder.width), np.float16)
            vectors[present] = encode_prepared(encoder, self.engines[name], prepared.inputs[name])
            features[name] = vectors, present
        if self.head is None:
            return features
        joined = joined_embeddings(
            self.encoders, self.head, inputs=prepared.inputs, present=prepared.present, device=self.device
        )
        return features | {HEAD_MODEL: (joined, np.ones(len(joined), bool))}


def together(parts: Sequence[Checked]) -> Checked:
    """Checked products, at least one part, as one."""
    return Checked(pa.concat_tables([part.rows for part in parts]), pa.concat_tables([part.rejects for part in parts]))


def _table(products: Products) -> pa.Table:
    rows = products.to_pylist() if isinstance(products, pa.Table) else list(products)
    if unknown := sorted({str(name) for row in rows for name in row} - set(PRODUCTS.names)):
        raise InputError(f"products: found {', '.join(unknown)}, expected some of {', '.join(PRODUCTS.names)}")
    try:
        return pa.Table.from_pylist(rows, schema=PRODUCTS)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError) as error:
        raise InputError(
            f"products: not of the types {dict(zip(PRODUCTS.names, PRODUCTS.types, strict=True))}: {error}"
        ) from None


def _raw(rows: pa.Table, first: int) -> pa.Table:
    """As a source would hold them."""
    numbers = pa.array([str(first + row) for row in range(len(rows))], pa.string())
    ids = [found or number for found, number in zip(rows["product_id"].to_pylist(), numbers.to_pylist(), strict=True)]
    image, uri = (rows[name].combine_chunks() for name in ("image", "image_uri"))
    columns = {name: rows[name] for name in ("title", "description", "image_vector")}
    return pa.table(
        {
            "product_id": pa.array(ids, pa.string()),
            "image": pa.StructArray.from_arrays([image, uri], names=["bytes", "path"]),
            **columns,
        }
    )


def _contents(rows: pa.Table) -> ProductContents:
    """Texts and images of checked products (`schema.SOURCE`)."""
    has = {
        "image": rows["image"].is_valid().to_numpy(),
        "text": np.logical_or(rows["title"].is_valid().to_numpy(), rows["description"].is_valid().to_numpy()),
    }
    return ProductContents(
        len(rows),
        {name: (rows.filter(pa.array(has[name])), np.flatnonzero(has[name])) for name in MODALITIES if has[name].any()},
    )


def _failures(rows: pa.Table, prepared: ProductInputs) -> pa.Table:
    """`REJECTS` of what no encoder could take."""
    positions, ids = rows["position"].to_pylist(), rows["product_id"].to_pylist()
    return rejects_table(
        Reject(positions[at], ids[at], *failure) for at, failures in prepared.failures.items() for failure in failures
    )


def _quarantined(predictions: pa.Table, positions: pa.ChunkedArray, rejects: pa.Table) -> pa.Array:
    """As in `schema.PREDICTIONS`; products go by their positions, as two may have one id."""
    of = {name: rejects.filter(pc.equal(rejects["modality"], name))["position"] for name in MODALITIES}
    rejected = {name: found.combine_chunks().cast(pa.string()) for name, found in of.items()}
    rows = predictions.select(list(HASH_COLUMNS.values())).append_column("product_id", positions.cast(pa.string()))
    return marks(rows, rejected)
