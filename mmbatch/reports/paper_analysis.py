"""What each model and each modality adds to the late fusion of labelled products: pure functions of label vectors.

Shapes: N products, M models below late fusion, C categories, K categories that have products. A label is an index into
the categories, or `UNSCORED` where a model could say nothing about the product, which counts as wrong
(`mmbatch.metrics`).

A contribution is what one model adds to late fusion's raw score of the category that late fusion predicts, in nats:
the SHAP values of the model's inputs, summed; NaN where it was not computed.

Source of the analyses: "Deep Multi-level Boosted Fusion Learning Framework for Multi-modal Product Classification",
SIGIR eCom'20, section 9, table 2 and figure 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from mmbatch.errors import InputError
from mmbatch.metrics import UNSCORED, Labels, check_labels
from mmbatch.schema import PATH_SEPARATOR, Modality

ModelModality = Literal["text", "image", "fused"]
"""What a model sees: one modality of a product, or, as a fusion head, all of them."""

MODEL_MODALITIES: tuple[ModelModality, ...] = get_args(ModelModality)

EXAMPLES = 3
"""Products shown of each model that was right alone."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelPredictions:
    """What M models and late fusion said of N labelled products, and what each model contributed.

    Raises:
        ValueError: shapes differ, there is no product or no model, a label is not allowed, names are not unique.
        InputError: a model has no contribution to any product.
    """

    models: tuple[str, ...]
    modalities: tuple[ModelModality, ...]
    """Of each model."""
    categories: tuple[str, ...]
    """C category strings, levels joined by `PATH_SEPARATOR`, in label order."""
    gold: Labels
    """`[N]`."""
    fused: Labels
    """By late fusion, `[N]`."""
    codes: Labels
    """Each model's own best category, `[N, M]`."""
    contributions: npt.NDArray[np.floating]
    """`[N, M]`, in nats (module docstring)."""

    def __post_init__(self) -> None:
        """Check everything but the meaning."""
        shape = (len(self.gold), len(self.models))
        if not self.models or len(self.modalities) != len(self.models):
            raise ValueError(
                f"{len(self.modalities)} modalities of {shape[1]} models: expected one of each, at least 1"
            )
        if unknown := set(self.modalities) - set(MODEL_MODALITIES):
            raise ValueError(f"modalities {sorted(unknown)}: expected {', '.join(MODEL_MODALITIES)}")
        for what, names in (("models", self.models), ("categories", self.categories)):
            if len(set(names)) < len(names):
                raise ValueError(f"{len(names)} {what} with {len(set(names))} names: expected a name for each")
        for what, values in (("codes", self.codes), ("contributions", self.contributions)):
            if values.shape != shape:
                raise ValueError(f"{what} {values.shape}: expected {shape}, as many rows as gold and columns as models")
        for name, codes_N in (("late fusion", self.fused), *zip(self.models, self.codes.T, strict=True)):
            _check_model(name, self.gold, codes_N, classes=len(self.categories))
        self._check_contributions()

    def _check_contributions(self) -> None:
        if np.isinf(self.contributions).any():
            raise ValueError(f"{np.isinf(self.contributions).sum()} contributions are infinite: expected nats or NaN")
        for name, missing in zip(self.models, np.isnan(self.contributions).all(axis=0), strict=True):
            if missing:
                raise InputError(
                    f"explanation: model {name} has a contribution to none of {len(self.gold):,} products,"
                    " expected at least one: explain predictions of which it is a part, or leave it out"
                )


@dataclass(frozen=True, kw_only=True)
class AloneExample:
    """One product that one model alone got right, and late fusion too."""

    product_id: str
    title: str | None
    gold: str
    """Category string, as late fusion predicts it."""
    categories: tuple[str | None, ...]
    """Of each model, its own best category; None: it could not score the product."""
    contributions: tuple[float, ...]
    """Of each model, in nats."""


@dataclass(frozen=True, kw_only=True)
class Alone:
    """The products that one model alone got right."""

    model: str
    products: int
    followed: int
    """Of `products`, those that late fusion got right: it followed the one against all others."""
    examples: tuple[AloneExample, ...]
    """Of those that it followed, the ones to which the model contributed most, the largest contribution first."""


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """What one prediction, "fused", sets right of another, "base", in numbers of products."""

    products: int
    wrong: int
    """That base got wrong."""
    top_level: int
    """Of `wrong`, right by fused, and base had them in another top-level category."""
    within: int
    """Of `wrong`, right by fused, and base had them in another category of the right top-level category."""
    unscored: int
    """Of `wrong`, right by fused, and base had said nothing."""
    spoiled: int
    """That base got right and fused wrong."""

    @property
    def top_level_share(self) -> float:
        """Share of `top_level` in `top_level` and `within`, 0..1 (the paper's 38 %); NaN where there are none."""
        moved = self.top_level + self.within
        return self.top_level / moved if moved else float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class ModalityValue:
    """What each modality is worth in each category that has products: columns of length K, most gain first."""

    models: Mapping[Modality, str]
    """Modality -> the model that stands for it."""
    categories: tuple[str, ...]
    products: Ints
    accuracies: Mapping[ModelModality, Floats]
    """Share of the products that are right, `[K]`, 0..1: by the model of each modality; `fused`: by late fusion."""
    contributions: Mapping[ModelModality, Floats]
    """Mean over the products of how much all models of a modality together contribute, either way, `[K]`, in nats;
    `fused`: of the fusion heads. NaN where there is none."""
    gain: Floats
    """Accuracy of late fusion less that of the better modality, -1..1."""


def one_right(gold_N: Labels, codes_NM: Labels) -> Ints:
    """Index of the model that alone was right on each product, int64 `[N]`; -1 where none was, or several were.

    Raises:
        ValueError: `codes_NM` is not `[N, M]` with at least one product and one model, or a label is not allowed.
    """
    if codes_NM.ndim != 2 or not codes_NM.size:
        raise ValueError(f"codes {codes_NM.shape}: expected [N, M] with at least one product and one model")
    for codes_N in codes_NM.T:
        check_labels(gold=gold_N, predicted=codes_N)
    right_NM = codes_NM == gold_N[:, None]
    return np.where(right_NM.sum(axis=1) == 1, right_NM.argmax(axis=1), -1).astype(np.int64)


def alone(predictions: ModelPredictions, products: pa.Table, *, examples: int = EXAMPLES) -> tuple[Alone, ...]:
    """The products that one model alone got right, by model, each with at most `examples` examples.

    Args:
        predictions: of N products.
        products: `product_id` and `title` of the same N, in the same order.
        examples: as many at most, of each model.

    Raises:
        ValueError: there are not N `products`.
    """
    if products.num_rows != len(predictions.gold):
        raise ValueError(f"{products.num_rows} products with {len(predictions.gold)} predictions: expected one each")
    lone_N = one_right(predictions.gold, predictions.codes)
    followed_N = predictions.fused == predictions.gold
    found = []
    for index, model in enumerate(predictions.models):
        of_model_N = lone_N == index
        rows = np.flatnonzero(of_model_N & followed_N)
        largest = rows[np.argsort(-predictions.contributions[rows, index], kind="stable")][:examples]
        found.append(
            Alone(
                model=model,
                products=int(of_model_N.sum()),
                followed=len(rows),
                examples=_examples(predictions, products, largest),
            )
        )
    return tuple(found)


def corrections(gold: Labels, base: Labels, fused: Labels, tops: Labels) -> Corrections:
    """What `fused` [N] sets right of `base` [N], and by how much base had been wrong: by a top level, or within it.

    Args:
        gold: category of each product, `[N]`.
        base: what a model says, `[N]`: in the paper, one of text.
        fused: what a model that sees more says, `[N]`: in the paper, the concatenation.
        tops: top-level category of each category, `[C]` (`top_levels`).

    Raises:
        ValueError: the vectors are empty, differ in shape, or hold a label that is not allowed.
    """
    for name, codes in (("base", base), ("fused", fused)):
        _check_model(name, gold, codes, classes=len(tops))
    wrong, right = base != gold, fused == gold
    scored = wrong & right & (base != UNSCORED)
    within = int((tops[base[scored]] == tops[gold[scored]]).sum())
    return Corrections(
        products=len(gold),
        wrong=int(wrong.sum()),
        top_level=int(scored.sum()) - within,
        within=within,
        unscored=int((wrong & right & (base == UNSCORED)).sum()),
        spoiled=int((~wrong & ~right).sum()),
    )


def top_levels(categories: Sequence[str]) -> Ints:
    """Number of the top-level category of each category string, int64 `[C]`, in order of first appearance."""
    codes, _ = pd.factorize(np.array([name.split(PATH_SEPARATOR)[0] for name in categories], dtype=object))
    return codes.astype(np.int64)


def modality_value(predictions: ModelPredictions, models: Mapping[Modality, str]) -> ModalityValue:
    """What each modality is worth in each gold category, by accuracy and by contribution.

    Args:
        predictions: of products that neither the models nor late fusion were fitted on.
        models: modality -> the model that stands for it; chosen on other products, so that the best of several does
            not look better than it is.

    Raises:
        ValueError: `models` is empty, or names a model that is not there, or not of that modality.
    """
    _check_chosen(predictions, models)
    gold_N, classes = predictions.gold, len(predictions.categories)
    said: dict[ModelModality, Labels] = {"fused": predictions.fused}
    for modality, name in models.items():
        said[modality] = predictions.codes[:, predictions.models.index(name)]
    support_C = np.bincount(gold_N, minlength=classes)
    accuracies = {
        modality: np.bincount(gold_N[codes_N == gold_N], minlength=classes) / np.maximum(support_C, 1)
        for modality, codes_N in said.items()
    }
    gain_C = accuracies["fused"] - np.max([accuracies[modality] for modality in models], axis=0)
    present = np.flatnonzero(support_C)
    order = present[np.lexsort((-support_C[present], -gain_C[present]))]
    contributions = _contributions(predictions)
    return ModalityValue(
        models=dict(models),
        categories=tuple(predictions.categories[label] for label in order),
        products=support_C[order],
        accuracies={modality: shares_C[order] for modality, shares_C in accuracies.items()},
        contributions={modality: means_C[order] for modality, means_C in contributions.items()},
        gain=gain_C[order],
    )


def _contributions(predictions: ModelPredictions) -> dict[ModelModality, Floats]:
    """Mean of the absolute contribution of each modality to the products of each gold category, `[C]`."""
    classes = len(predictions.categories)
    found: dict[ModelModality, Floats] = {}
    for modality in MODEL_MODALITIES:
        columns = [index for index, name in enumerate(predictions.modalities) if name == modality]
        parts_NM = predictions.contributions[:, columns].astype(np.float64)
        known_N = ~np.isnan(parts_NM).all(axis=1)
        sizes_N = np.abs(np.nansum(parts_NM[known_N], axis=1))
        gold_N = predictions.gold[known_N]
        counts_C = np.bincount(gold_N, minlength=classes)
        totals_C = np.bincount(gold_N, weights=sizes_N, minlength=classes)
        found[modality] = np.divide(totals_C, counts_C, out=np.full(classes, np.nan), where=counts_C > 0)
    return found


def _examples(predictions: ModelPredictions, products: pa.Table, rows: Ints) -> tuple[AloneExample, ...]:
    chosen = products.select(["product_id", "title"]).take(pa.array(rows)).to_pylist()
    names = predictions.categories
    return tuple(
        AloneExample(
            **product,
            gold=names[predictions.gold[row]],
            categories=tuple(None if code == UNSCORED else names[code] for code in predictions.codes[row]),
            contributions=tuple(predictions.contributions[row].astype(float).tolist()),
        )
        for product, row in zip(chosen, rows, strict=True)
    )


def _check_model(name: str, gold_N: Labels, codes_N: Labels, *, classes: int) -> None:
    try:
        check_labels(gold=gold_N, predicted=codes_N, classes=classes)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_chosen(predictions: ModelPredictions, models: Mapping[Modality, str]) -> None:
    if not models:
        raise ValueError("no model of any modality: expected one of text, of image, or of both")
    found = dict(zip(predictions.models, predictions.modalities, strict=True))
    for modality, name in models.items():
        if found.get(name) != modality:
            raise ValueError(f"{name}: found {found.get(name, 'no such model')}, expected a model of {modality}")
