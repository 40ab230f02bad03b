"""A workspace as it is handled in a notebook: what is published, features, and predictions of a few products."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.errors import InputError
from mmbatch.feature_store import FeatureStore
from mmbatch.models import Model, newest_predictor, open_model, published_predictor
from mmbatch.predictions import Predictions
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

if TYPE_CHECKING:
    from mmbatch.online import Answers, OnlinePredictor, Products


@dataclass(frozen=True)
class Notebook:
    """Reads a workspace and leaves it as it is. Whole columns are held in memory."""

    workspace: Workspace

    @cached_property
    def predictor(self) -> Model:
        """The published predictor, or, before anything is published, the one stored last."""
        return published_predictor(self.workspace) or newest_predictor(self.workspace)

    @cached_property
    def online(self) -> "OnlinePredictor":
        """That predictor and everything in front of it, loaded."""
        from mmbatch.online import OnlinePredictor

        history = TaxonomyHistory.read(self.workspace)
        return OnlinePredictor.load(self.workspace, self.predictor, history=history, threads=os.cpu_count() or 1)

    def predictions(self, columns: Sequence[str] | None = None) -> pa.Table:
        """What is published now: `schema.PREDICTIONS`, or some columns of it."""
        return Predictions(workspace=self.workspace).table.read(columns)

    def features(self, encoder: str) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of the catalog's products by one of the predictor's encoders, by its name.

        Returns:
            Ids of the products that have one, str `[N]`, and float16 `[N, width]`, row by row.
        """
        card = self._encoder(encoder).card
        column, width = HASH_COLUMNS[card["modality"]], card["width"]
        store = FeatureStore(workspace=self.workspace, encoder=card["id"], modality=card["modality"], width=width)
        ids, found = [], []
        for bucket in range(self.workspace.settings.buckets):
            keys = Catalog(workspace=self.workspace).keys([bucket])
            vectors, present = store.read(keys[column], buckets=[bucket])
            ids.append(keys["product_id"].to_numpy()[present])
            found.append(vectors[present])
        return np.concatenate(ids), np.concatenate(found)

    def predict(self, products: "Products") -> "Answers":
        """What the batch jobs would publish of a few products (`mmbatch.online.PRODUCTS`); loads the models once."""
        return self.online.predict(products)

    def _encoder(self, name: str) -> Model:
        ids = {model_id.split("@")[0]: model_id for model_id in self.predictor.card["encoders"]}
        if name not in ids:
            raise InputError(f"features of {name!r}: found encoders {', '.join(sorted(ids))}, expected one of them")
        return open_model(self.workspace, kind="encoder", model_id=ids[name])
