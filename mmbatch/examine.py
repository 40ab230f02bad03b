"""A close look at one product: what every model says of it, why, what of it mattered, and which products are like it.

Shape letters: M models, C categories, P parts of a product, V variants of it without some of its parts.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from mmbatch.catalog import Catalog
from mmbatch.fusion.ablation import ablate
from mmbatch.fusion.taxonomy_edits import shown
from mmbatch.image_vectors import NPY_MAGIC
from mmbatch.images import open_rgb
from mmbatch.online import OnlinePredictor
from mmbatch.predictor import HEAD_MODEL, Features
from mmbatch.schema import Modality, bucket_of

TOP = 5
"""Categories that are named of each model."""

GRID = 6
"""Image regions a side."""

MOST_WORDS = 80
"""Words that are left out one by one; those after them stay."""

_SIDE = 320  # pixels of the image whose regions are left out: what encoders look at is no larger

_LEAST = 1e-6  # of a probability, so that its log-odds are finite

JOINED = "late fusion"
"""Name of what joins all models, among them."""

Product = Mapping[str, Any]
"""`mmbatch.online.PRODUCTS`."""


class Said(NamedTuple):
    """What one model says."""

    model: str
    reads: str
    """`text`, `image`, or `text and image`."""
    top: list[tuple[str, float]]
    """Categories and calibrated probabilities, best first; empty: it has nothing to say of this product."""
    contribution: float | None
    """To the score of the category that all together take for the best, in nats; None: of that itself."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What is found of one product."""

    product: Product
    rejects: list[dict[str, Any]]
    """Parts that could not be used: `modality` (None: all of it), `reason`, `message`."""
    row: dict[str, Any] | None
    """`schema.PREDICTIONS`; None: nothing of the product could be used."""
    said: list[Said]
    """The late fusion first."""
    path: list[tuple[str, float]]
    """Each level of the best category, and the probability of everything below it, root first."""
    features: Features
    """Of the product, one row each."""


def product_of(catalog: Catalog, product_id: str) -> dict[str, Any] | None:
    """A product as the catalog has it; None: it has not."""
    bucket = int(bucket_of([product_id], catalog.workspace.settings.buckets)[0])
    chosen, columns = pc.field("product_id") == product_id, ["title", "description", "image_hash"]
    rows = catalog.products().read(columns, buckets=[bucket], filters=chosen).to_pylist()
    if not rows:
        return None
    product: dict[str, Any] = rows[0]
    image_hash = product.pop("image_hash")
    image = image_hash and catalog.content("image", bucket, pa.array([image_hash]))["image"][0].as_py()
    if image and image.startswith(NPY_MAGIC):
        return product | {"image_vector": np.load(io.BytesIO(image), allow_pickle=False).tolist()}
    return product | {"image": image}


def examine(online: OnlinePredictor, product: Product) -> Examined:
    """Look at one product; `InputError` where it is none (`OnlinePredictor.predict`)."""
    checked = online.check([product])
    answers = online.predict_checked(checked)
    rejects = [{name: row[name] for name in ("modality", "reason", "message")} for row in answers.rejects.to_pylist()]
    if not answers.predictions.num_rows:
        return Examined(product=product, rejects=rejects, row=None, said=[], path=[], features={})
    features = online.features(checked.rows)
    scored = online.predictor.score(features)
    by_model_NMC, joined_NC = online.predictor.calibrated(scored)
    names = [shown(path) for path in online.predictor.categories]
    gains = online.predictor.explain(scored)[0]
    said = [Said(JOINED, "text and image", _top(joined_NC[0], names), None)]
    said += [
        Said(model, _reads(online, model), _top(by_model_NMC[0, place], names), float(gains[place]))
        for place, model in enumerate(online.predictor.scorer.models)
    ]
    return Examined(
        product=product,
        rejects=rejects,
        row=answers.predictions.to_pylist()[0],
        said=said,
        path=_levels(online.predictor.categories, joined_NC[0]),
        features=features,
    )


def word_gains(online: OnlinePredictor, found: Examined) -> list[tuple[str, float]]:
    """Words of the title, then of the description, and what each adds to the log-odds of the best category, in nats."""
    fields = {name: str(found.product.get(name) or "").split() for name in ("title", "description")}
    words = [(name, place) for name, of in fields.items() for place in range(len(of))][:MOST_WORDS]
    if len(words) < 2:
        return []

    def without(kept_P: npt.NDArray[np.bool_]) -> Product:
        gone = {word for word, kept in zip(words, kept_P, strict=True) if not kept}
        texts = {
            name: " ".join(word for place, word in enumerate(of) if (name, place) not in gone) or None
            for name, of in fields.items()
        }
        return {**found.product, **texts}

    gains = ablate(lambda kept_VP: _scores(online, found, [without(kept) for kept in kept_VP], "text"), len(words))
    return [(fields[name][place], float(gain)) for (name, place), gain in zip(words, gains, strict=True)]


def region_gains(online: OnlinePredictor, found: Examined) -> npt.NDArray[np.float32] | None:
    """What each of `GRID` x `GRID` regions of the image adds to the log-odds of the best category; None: no image.

    A region is left out by painting it in the image's mean colour.
    """
    image = found.product.get("image")
    if image is None or image.startswith(NPY_MAGIC) or any(row["modality"] == "image" for row in found.rejects):
        return None
    photo = open_rgb(image, target=_SIDE)
    photo.thumbnail((_SIDE, _SIDE))
    pixels = np.asarray(photo)
    mean = pixels.mean(axis=(0, 1)).astype(np.uint8)
    cells = _cells(pixels.shape[0], pixels.shape[1])

    def without(kept_P: npt.NDArray[np.bool_]) -> Product:
        return {**found.product, "image": _png(np.where(kept_P[cells][:, :, None], pixels, mean))}

    gains = ablate(lambda kept_VP: _scores(online, found, [without(kept) for kept in kept_VP], "image"), GRID * GRID)
    return gains.reshape(GRID, GRID)


def _scores(
    online: OnlinePredictor, found: Examined, variants: Sequence[Product], changed: Modality
) -> npt.NDArray[np.float32]:
    """Probability of the best category of variants that differ in one modality, float32 `[V]`.

    The vectors of the other modality are those that the product has, unless the head reads sequences.
    """
    whole = online.head is not None
    other = "image" if changed == "text" else "text"
    parts = variants if whole else [_only(variant, changed) for variant in variants]
    rows = online.check(parts).rows
    there = rows["position"].to_numpy()
    features = online.features(rows) if len(there) else {}
    full: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, (vectors, present) in found.features.items():
        full[name] = np.repeat(vectors, len(variants), axis=0), np.repeat(present, len(variants))
        if whole or _modality(online, name) != other:
            full[name][1][:] = False
            if name in features:
                full[name][0][there], full[name][1][there] = features[name]
    best = int(online.predictor.calibrated(online.predictor.score(found.features))[1][0].argmax())
    usable = np.any([present for _, present in full.values()], axis=0)
    scores = np.zeros(len(variants), np.float32)
    if usable.any():
        chosen = {name: (vectors[usable], present[usable]) for name, (vectors, present) in full.items()}
        probability = online.predictor.predict(chosen)[1][:, best].clip(_LEAST, 1 - _LEAST)
        scores[usable] = np.log(probability / (1 - probability))
    return scores


def _only(product: Product, modality: Modality) -> Product:
    names = ("title", "description") if modality == "text" else ("image",)
    return {name: product.get(name) for name in names}


def _modality(online: OnlinePredictor, name: str) -> str | None:
    return None if name == HEAD_MODEL else online.encoders[name].modality


def _reads(online: OnlinePredictor, model: str) -> str:
    return _modality(online, model) or "text and image"


def _top(probabilities_C: np.ndarray, names: Sequence[str]) -> list[tuple[str, float]]:
    if np.isnan(probabilities_C).all():
        return []
    best = np.argsort(-probabilities_C, kind="stable")[:TOP]
    return [(names[place] or "to be reviewed", float(probabilities_C[place])) for place in best]


def _levels(categories: Sequence[tuple[str, ...]], probabilities_C: np.ndarray) -> list[tuple[str, float]]:
    best = categories[int(probabilities_C.argmax())]
    below = [[path[:level] == best[:level] for path in categories] for level in range(1, len(best) + 1)]
    return [(name, float(probabilities_C[chosen].sum())) for name, chosen in zip(best, below, strict=True)]


def _cells(height: int, width: int) -> npt.NDArray[np.int64]:
    """Region of each pixel, `[height, width]`."""
    rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
    return np.asarray(rows[:, None] * GRID + columns[None, :], np.int64)


def _png(pixels: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(written, "PNG", compress_level=1)
    return written.getvalue()
