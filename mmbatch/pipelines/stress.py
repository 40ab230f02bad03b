"""The stress table: F1 of the published predictor on test products without their image, text or description.

A modality is removed by masking the presence of its stored vectors. The description is removed by encoding the titles
alone, with the predictor's own text encoders, in one task each. For a head over sequences, the products go through
encoders and head once more without what is removed. Every row of the table is of the same products.

Shapes: N products, P of them with a vector of the encoder, G texts that could be encoded.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.encoders import encode_prepared, engine_for, load_encoder
from mmbatch.encoders.product_text import product_texts
from mmbatch.fusion.taxonomy_version import REVIEW
from mmbatch.metrics import UNSCORED, f1_scores
from mmbatch.models import Model, fetch_model, modalities_of, open_model, reads_sequences
from mmbatch.pipelines.capacity import processors
from mmbatch.pipelines.cluster import run_task, start_ray, stream
from mmbatch.pipelines.extract import store_of
from mmbatch.pipelines.resources import STRESS, on_gpu
from mmbatch.pipelines.rows import by_bucket
from mmbatch.pipelines.stress_joined import Embeddings, joined_variants
from mmbatch.predictor import HEAD_MODEL, Features, Predictor, load_predictor
from mmbatch.progress import say
from mmbatch.reports.evaluation import StressRow
from mmbatch.schema import PATH_SEPARATOR, Modality
from mmbatch.taxonomy_history import TaxonomyHistory

LIMIT = 2_000
"""Test products in the table: the standard error of a share of them is at most 1.1 points."""

Removed = Literal["image", "text", "description"]

VARIANTS: Mapping[str, tuple[Removed, ...]] = {
    "all": (),
    "no image": ("image",),
    "no text": ("text",),
    "no description": ("description",),
    "title only": ("image", "description"),
}
"""Row of the table -> what is removed from every product."""

Encode = Callable[[pa.Table], tuple[np.ndarray, np.ndarray]]
"""`title` and `description` -> the rows that could be encoded, int64 `[G]`, and their vectors, float16 `[G, width]`."""


def stress(catalog: Catalog, predictor: Model, rows: pd.DataFrame) -> tuple[StressRow, ...]:
    """Score the predictor on a sample of the test products, as they are and with parts removed.

    A product of which nothing is left, or which has no stored vector at all, counts as wrong. A variant whose input is
    that of a row above it, for every product, is left out.

    Args:
        catalog: whose content is read, of the sample only.
        predictor: the stored predictor.
        rows: labelled products, at least one of them a test product: `product_id`, `bucket`, `split`, `text_hash`,
            `image_hash`, and `gold`, the category, as the taxonomy's newest version has it.
    """
    sample = draw(rows, seed=catalog.workspace.settings.seed, limit=LIMIT)
    say(f"stress     {len(sample):,} test products with parts removed")
    models = [
        open_model(catalog.workspace, kind="encoder", model_id=model_id) for model_id in predictor.card["encoders"]
    ]
    start_ray(catalog.workspace)
    work = partial(read_features, catalog=catalog.pinned(), models=models, sample=sample)
    found = stream([{"number": number} for number in range(len(models))], work, ask=on_gpu(STRESS, processors()[1]))
    arrays = {done["encoder"]: load_arrays(done["arrays"]) for done in found}
    joined: dict[str, Embeddings] = {}
    if head_id := predictor.card["head"]:
        head = open_model(catalog.workspace, kind="head", model_id=head_id)
        if reads_sequences(head):
            joined = joined_variants(catalog.pinned(), head, models, sample, VARIANTS)
    history, gold = TaxonomyHistory.read(catalog.workspace), sample["gold"].tolist()
    table: tuple[StressRow, ...] = run_task(_score, predictor, history, arrays, joined, modalities_of(models), gold)
    return table


def draw(rows: pd.DataFrame, *, seed: int, limit: int) -> pd.DataFrame:
    """At most `limit` test rows, by bucket: a bucket is a random part of the catalog, so as few as suffice are read.

    Of the last of them those are taken whose id has the smallest hash; `seed` decides the hash.
    """
    test = rows[rows["split"] == "test"]
    ids = test["product_id"].to_numpy(object)
    hashes = pd.util.hash_array(ids, hash_key=f"{seed:016d}"[-16:], categorize=False)
    return test.iloc[np.lexsort((hashes, test["bucket"].to_numpy()))[:limit]]


def without_descriptions(
    vectors: np.ndarray, present: np.ndarray, texts: pa.Table, encode: Encode
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and presence of the titles alone; a product that has no description keeps its vector, bit for bit.

    Args:
        vectors: float16 `[N, width]`, of title and description.
        present: bool `[N]`.
        texts: `title` and `description` of the P products that are present, in their order.
        encode: how titles become vectors; called only where a text changes.
    """
    nothing = pa.nulls(texts.num_rows, pa.string())
    titles = texts.set_column(texts.schema.get_field_index("description"), "description", nothing)
    changed_P = pc.fill_null(pc.not_equal(product_texts(texts), product_texts(titles)), True)
    places = np.flatnonzero(present)[np.asarray(changed_P)]
    vectors, present = vectors.copy(), present.copy()
    vectors[places], present[places] = 0, False
    if len(places):
        good, encoded = encode(titles.filter(changed_P))
        vectors[places[good]], present[places[good]] = encoded, True
    return vectors, present


def variants(stored: Features, titles: Features, modalities: Mapping[str, Modality]) -> dict[str, Features]:
    """The features of each of `VARIANTS` that differs, for at least one product, from all variants before it.

    Args:
        stored: encoder -> its features.
        titles: text encoder -> its features of titles alone.
        modalities: of each encoder.
    """
    found: dict[str, Features] = {}
    for name, removed in VARIANTS.items():
        given = {**stored, **titles} if "description" in removed else stored
        features = {
            encoder: (np.zeros_like(vectors), np.zeros_like(present))
            if modalities[encoder] in removed
            else (vectors, present)
            for encoder, (vectors, present) in given.items()
        }
        if not any(_equal(features, other) for other in found.values()):
            found[name] = features
    return found


def predicted(features: Features, predictor: Predictor) -> np.ndarray:
    """Class code of each product by late fusion, int64 `[N]`.

    `UNSCORED` where no encoder has a vector, and where the product stays in review.
    """
    usable = np.any([present for _, present in features.values()], axis=0)
    codes = np.full(len(usable), UNSCORED, np.int64)
    if usable.any():
        _, joined = predictor.predict({name: (v[usable], present[usable]) for name, (v, present) in features.items()})
        codes[usable] = joined.argmax(axis=1)
        if predictor.categories[0] == REVIEW:
            codes[codes == 0] = UNSCORED
    return codes


def score(found: Mapping[str, Features], predictor: Predictor, gold: Sequence[str]) -> tuple[StressRow, ...]:
    """A row of the table per variant; `gold` is the category of each product, also one that is never predicted."""
    known = [PATH_SEPARATOR.join(path) for path in predictor.categories]
    classes = pd.Index([*known, *sorted(set(gold) - set(known))])
    codes = np.asarray(classes.get_indexer(pd.Index(gold)), np.int64)
    rows = []
    for name, features in found.items():
        f1 = f1_scores(codes, predicted(features, predictor))
        rows.append(StressRow(input=name, rows=f1.rows, macro=f1.macro, micro=f1.micro))
    return tuple(rows)


def read_features(
    row: dict[str, Any], *, catalog: Catalog, models: Sequence[Model], sample: pd.DataFrame
) -> list[dict[str, Any]]:
    """Runs in a Ray task: one encoder's features of the sample, in its order, as one safetensors blob.

    `vectors` float16 `[N, width]` and `present` bool `[N]`; of a text encoder with any, also `title_vectors` and
    `title_present`, those of the titles alone.
    """
    model = models[row["number"]]
    vectors, present = _stored(catalog, model, sample)
    arrays = {"vectors": vectors, "present": present}
    if model.card["modality"] == "text" and present.any():
        texts = _texts(catalog, sample[present])
        arrays["title_vectors"], arrays["title_present"] = without_descriptions(
            vectors, present, texts, partial(_encode, model)
        )
    return [{"encoder": model.name, "arrays": save_arrays(arrays)}]


def _stored(catalog: Catalog, model: Model, sample: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    store = store_of(catalog.workspace, model)
    parts = [
        store.read(pa.array(rows[HASH_COLUMNS[model.card["modality"]]], pa.string()), buckets=[bucket])
        for bucket, rows in by_bucket(sample, "test")
    ]
    return np.concatenate([vectors for vectors, _ in parts]), np.concatenate([present for _, present in parts])


def _texts(catalog: Catalog, sample: pd.DataFrame) -> pa.Table:
    parts = [
        catalog.content("text", bucket, pa.array(rows["text_hash"], pa.string()))
        for bucket, rows in by_bucket(sample, "test")
    ]
    return pa.concat_tables(parts)


def _encode(model: Model, texts: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """As extraction does."""
    encoder = load_encoder(fetch_model(model))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engine = engine_for(encoder, device, threads=1, contents=texts.num_rows)
    prepared = encoder.prepare(texts)
    return prepared.good, encode_prepared(encoder, engine, prepared.inputs)


def _score(
    predictor: Model,
    history: TaxonomyHistory,
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    joined: Mapping[str, Embeddings],
    modalities: Mapping[str, Modality],
    gold: Sequence[str],
) -> tuple[StressRow, ...]:
    """Runs in a Ray task."""
    stored = {name: (found["vectors"], found["present"]) for name, found in arrays.items()}
    titles = {
        name: (found["title_vectors"], found["title_present"])
        for name, found in arrays.items()
        if "title_vectors" in found
    }
    found = variants(stored, titles, modalities)
    if joined:
        found = {name: {**features, HEAD_MODEL: joined[name]} for name, features in found.items()}
    return score(found, load_predictor(predictor, history), gold)


def _equal(one: Features, other: Features) -> bool:
    return all(
        np.array_equal(mine, theirs) for name in one for mine, theirs in zip(one[name], other[name], strict=True)
    )
