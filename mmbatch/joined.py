"""Joined embeddings of a head over sequences, kept like features: by product, and its text and image together.

An embedding stands under the hash of the contents it was computed from (`contents.joint_hashes`).
"""

from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import HASH_COLUMNS
from mmbatch.contents import joint_hashes
from mmbatch.feature_store import FeatureStore
from mmbatch.models import Model
from mmbatch.predictor import Features
from mmbatch.schema import Modality
from mmbatch.workspace import Workspace


def joined_store(workspace: Workspace, head: Model) -> FeatureStore:
    """The table of a stored head's embeddings."""
    return FeatureStore(workspace=workspace, encoder=head.id, modality="both", width=head.card["width"])


def read_joined(
    store: FeatureStore,
    keys: pa.Table,
    features: Features,
    modalities: Mapping[str, Modality],
    *,
    buckets: Collection[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Joined embeddings of N products of some buckets, for the contents that encoders hold vectors of.

    Where the head could not read one of the two contents, the embedding of the other one stands for both.

    Args:
        store: of the head.
        keys: `text_hash` and `image_hash` of the products.
        features: encoder -> the products' vectors.
        modalities: of each encoder.
        buckets: of the products.

    Returns:
        float16 `[N, J]`, zeros where there is none, and bool `[N]`: whether there is one.
    """
    text, image = (_held(keys, features, modalities, name) for name in ("text", "image"))
    return read_pairs(store, text, image, buckets=buckets)


def read_pairs(
    store: FeatureStore, text: pa.Array, image: pa.Array, *, buckets: Collection[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The same for hashes `[N]` of texts and images; null: there is none."""
    vectors, present = store.read(joint_hashes(text, image), buckets=buckets)
    none, both = pa.nulls(len(text), pa.string()), np.asarray(pc.and_(pc.is_valid(text), pc.is_valid(image)))
    for rest in ((text, none), (none, image)):
        rows = np.flatnonzero(both & ~present)
        if len(rows):
            found, there = store.read(joint_hashes(*rest).take(pa.array(rows)), buckets=buckets)
            vectors[rows[there]], present[rows[there]] = found[there], True
    return vectors, present


def _held(keys: pa.Table, features: Features, modalities: Mapping[str, Modality], modality: Modality) -> pa.Array:
    """The products' hashes of one modality; null where no encoder of it holds a vector."""
    present = [features[name][1] for name, found in modalities.items() if found == modality]
    held = np.any(present, axis=0) if present else np.zeros(keys.num_rows, bool)
    hashes = keys[HASH_COLUMNS[modality]].combine_chunks()
    return pc.if_else(pa.array(held), hashes, pa.scalar(None, pa.string()))
