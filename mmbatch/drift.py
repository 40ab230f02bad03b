"""Drift: how far the products of a catalog are from those that a predictor was trained on.

Every feature is a distribution over B bins: deciles of the reference for numbers, values for names. With n_b of n
reference products and m_b of m present ones in bin b, the population stability index (PSI) is

    sum over b of (q_b - p_b) ln(q_b / p_b)    with p_b = (n_b + 1/2) / (n + B/2) and q_b = (m_b + 1/2) / (m + B/2)

so that an empty bin counts as half a product and the index stays finite. Source: Siddiqi, Credit Risk Scorecards,
Wiley 2006; half a product a bin is Jeffreys' prior.

Without any drift the index is not 0: it then is about chi-squared with B - 1 degrees of freedom times (1/n + 1/m), so
(B - 1)(1/n + 1/m) on average: 0.001 for ten bins of two samples of 20,000, 0.09 for two of 200.

Shapes: N products of a sample, K directions, W numbers in a vector, B bins.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from scipy.linalg import eigh

from mmbatch.errors import InputError
from mmbatch.fusion.probe import unit

FEWEST = 200
"""Values of a feature, in the reference as in a sample, below which it is left out: with 200 of each, an index of 0.25
is reached without drift by 3 of 1,000 features (chi-squared of 9 degrees of freedom above 25)."""

BINS = 10
"""Of a feature of numbers; more where a number is several deciles at once."""

NAMES = 10
"""Most frequent names of a feature that have bins of their own; the others share one."""

DIRECTIONS = 5
"""Leading principal directions of an encoder's vectors: each is a feature of ten bins, and noise adds up with them."""

LANGUAGE_CHARACTERS = 300
"""From the beginning of a text, enough to tell its language, and 0.05 ms."""

GRID = 4
"""Decimals of projections: what the order of a sum changes in float32 is below, so equal vectors have one bin."""

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some products, as their features are read from them."""

    titles: pa.Array | pa.ChunkedArray
    """string `[N]`; null: none."""
    descriptions: pa.Array | pa.ChunkedArray
    """Likewise."""
    images: npt.NDArray[np.bool_]
    """Which have an image, `[N]`."""
    vectors: Mapping[str, npt.NDArray[np.float16]]
    """Encoder name -> vectors `[n, W]` of those products that have one."""

    @property
    def rows(self) -> int:
        """Number of products N."""
        return len(self.titles)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A feature of numbers: its bins are those of the reference's deciles."""

    edges: tuple[float, ...]
    """Highest number of each bin but the last, ascending."""
    counts: tuple[int, ...]
    """Reference products in each bin, `[B]`."""

    @classmethod
    def of(cls, values: Floats) -> Self:
        """The deciles of at least one value; one that is several deciles gets a bin of its own."""
        deciles = np.quantile(values.astype(np.float64), np.arange(1, BINS) / BINS, method="inverted_cdf")
        repeated = deciles[1:][deciles[1:] == deciles[:-1]]
        edges = np.unique(np.concatenate([deciles, np.nextafter(repeated, -np.inf)]))
        return cls(edges=tuple(edges.tolist()), counts=_counts(np.searchsorted(edges, values), len(edges) + 1))

    def drift(self, values: Floats) -> float:
        """Population stability index of the values `[N]`; see the module."""
        return stability_index(self.counts, _counts(np.searchsorted(self.edges, values), len(self.counts)))


@dataclass(frozen=True, kw_only=True)
class Names:
    """A feature of names: each frequent one has a bin, all others share the last one."""

    names: tuple[str, ...]
    """The most frequent first."""
    counts: tuple[int, ...]
    """Reference products in each bin, `[B]`, B one more than there are names."""

    @classmethod
    def of(cls, values: npt.NDArray[np.str_]) -> Self:
        """The most frequent of at least one name."""
        found, counts = np.unique(values, return_counts=True)
        names = tuple(found[np.argsort(-counts, kind="stable")][:NAMES].tolist())
        return cls(names=names, counts=_name_counts(values, names))

    def drift(self, values: npt.NDArray[np.str_]) -> float:
        """Population stability index of the names `[N]`; see the module."""
        return stability_index(self.counts, _name_counts(values, self.names))


@dataclass(frozen=True, kw_only=True)
class Projections:
    """A feature of vectors: their projections on directions, each a feature of numbers."""

    directions: str
    """Base64 of little-endian float16 `[K, W]`: leading principal directions of the reference's unit vectors."""
    along: tuple[Numbers, ...]
    """Of each direction, `[K]`."""

    @classmethod
    def of(cls, vectors: npt.NDArray[np.float16]) -> Self:
        """The directions of every second vector of at least two `[N, W]`, and the deciles of the others along them.

        Along directions that the same vectors chose they would spread wider than any others do: 20,000 normal vectors
        of 2,048 numbers then seem to drift by 0.12.
        """
        unit_NW = unit(vectors)
        centred_NW = unit_NW[::2] - unit_NW[::2].mean(axis=0)
        width = vectors.shape[1]
        directions_WK = eigh(centred_NW.T @ centred_NW, subset_by_index=[max(0, width - DIRECTIONS), width - 1])[1]
        stored_KW = np.ascontiguousarray(directions_WK.T[::-1], "<f2")
        along = tuple(Numbers.of(column) for column in _projected(unit_NW[1::2], stored_KW).T)
        return cls(directions=base64.b64encode(stored_KW.tobytes()).decode(), along=along)

    def drift(self, vectors: npt.NDArray[np.float16]) -> float:
        """The highest population stability index of a direction, of vectors `[N, W]`."""
        stored_KW = np.frombuffer(base64.b64decode(self.directions), "<f2").reshape(len(self.along), -1)
        columns = _projected(unit(vectors), stored_KW).T
        return max(numbers.drift(column) for numbers, column in zip(self.along, columns, strict=True))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The features of the products that a predictor was trained on, as distributions: no product is in it."""

    rows: int
    """Products sampled."""
    numbers: Mapping[str, Numbers]
    names: Mapping[str, Names]
    vectors: Mapping[str, Projections]

    @classmethod
    def of(cls, sample: Sample) -> Self:
        """The distributions of a sample; a feature with fewer than `FEWEST` values is left out.

        Of vectors, with fewer than twice as many: half of them choose the directions.
        """
        return cls(
            rows=sample.rows,
            numbers={name: Numbers.of(values) for name, values in _enough(_numbers(sample)).items()},
            names={name: Names.of(values) for name, values in _enough(_names(sample)).items()},
            vectors={name: Projections.of(values) for name, values in _enough(_vectors(sample), 2 * FEWEST).items()},
        )

    def drift(self, sample: Sample) -> dict[str, float]:
        """Feature -> population stability index of a sample, of the features with `FEWEST` values in both."""
        numbers, names, vectors = _enough(_numbers(sample)), _enough(_names(sample)), _enough(_vectors(sample))
        return (
            {name: known.drift(numbers[name]) for name, known in self.numbers.items() if name in numbers}
            | {name: known.drift(names[name]) for name, known in self.names.items() if name in names}
            | {name: known.drift(vectors[name]) for name, known in self.vectors.items() if name in vectors}
        )

    def to_json(self) -> str:
        """JSON object of the fields."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The reference that `to_json` wrote; `InputError` where the text is something else."""
        try:
            found = json.loads(text)
            return cls(
                rows=int(found["rows"]),
                numbers={name: _numbers_of(value) for name, value in found["numbers"].items()},
                names={name: Names(**_tuples(value)) for name, value in found["names"].items()},
                vectors={
                    name: Projections(
                        directions=value["directions"], along=tuple(_numbers_of(part) for part in value["along"])
                    )
                    for name, value in found["vectors"].items()
                },
            )
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise InputError(f"training reference: found something else than its JSON: {error!r}") from error


def stability_index(reference: tuple[int, ...], present: tuple[int, ...]) -> float:
    """Population stability index of products in bins `[B]` against the reference's, at least 0; see the module.

    Raises:
        ValueError: the two have not the same bins.
    """
    if len(reference) != len(present) or not reference:
        raise ValueError(f"{len(reference)} and {len(present)} bins: expected two equal numbers above 0")
    p_B, q_B = _smoothed(reference), _smoothed(present)
    return float(((q_B - p_B) * np.log(q_B / p_B)).sum())


@cache
def _identifier() -> Any:
    """The naive Bayes model of py3langid over 139 languages and `zxx`, no language."""
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def languages(texts: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.str_]:
    """ISO 639 code of each text that is not null, `[n]`; `zxx`: digits and signs. Short titles are often taken wrong.

    Drift compares the two samples' codes, so that a mistake counts only where it becomes more frequent.
    """
    beginnings = pc.utf8_slice_codeunits(texts.drop_null(), 0, LANGUAGE_CHARACTERS).to_pylist()
    return np.array([_identifier().classify(text)[0] for text in beginnings], np.str_)


def _numbers(sample: Sample) -> dict[str, Floats]:
    return {"title length": _lengths(sample.titles), "description length": _lengths(sample.descriptions)}


def _names(sample: Sample) -> dict[str, npt.NDArray[np.str_]]:
    filled = [pc.fill_null(texts, "") for texts in (sample.titles, sample.descriptions)]
    texts = pc.utf8_trim_whitespace(pc.binary_join_element_wise(*filled, " "))
    return {
        "missing title": _missing(np.asarray(pc.is_null(sample.titles))),
        "missing description": _missing(np.asarray(pc.is_null(sample.descriptions))),
        "missing image": _missing(~sample.images),
        "language": languages(texts.filter(pc.not_equal(texts, ""))),
    }


def _vectors(sample: Sample) -> dict[str, npt.NDArray[np.float16]]:
    return {f"vectors of {name}": vectors for name, vectors in sample.vectors.items()}


def _enough(features: Mapping[str, Any], fewest: int = FEWEST) -> dict[str, Any]:
    return {name: values for name, values in features.items() if len(values) >= fewest}


def _lengths(texts: pa.Array | pa.ChunkedArray) -> Floats:
    """Characters of each text that is not null, `[n]`."""
    return np.asarray(pc.utf8_length(texts.drop_null()), np.float64)


def _missing(absent: npt.NDArray[np.bool_]) -> npt.NDArray[np.str_]:
    return np.where(absent, "missing", "present")


def _projected(unit_NW: Floats, stored_KW: Floats) -> Floats:
    return np.asarray(unit_NW @ stored_KW.T.astype(np.float32)).astype(np.float64).round(GRID)


def _counts(bins: npt.NDArray[np.integer], number: int) -> tuple[int, ...]:
    return tuple(np.bincount(bins, minlength=number).tolist())


def _name_counts(values: npt.NDArray[np.str_], names: tuple[str, ...]) -> tuple[int, ...]:
    place = pc.fill_null(pc.index_in(pa.array(values), value_set=pa.array(names, pa.string())), len(names))
    return _counts(np.asarray(place), len(names) + 1)


def _smoothed(counts: tuple[int, ...]) -> Floats:
    """Shares `[B]` of which none is 0."""
    return (np.array(counts) + 0.5) / (sum(counts) + 0.5 * len(counts))


def _numbers_of(value: dict[str, Any]) -> Numbers:
    return Numbers(**_tuples(value))


def _tuples(value: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(part) for name, part in value.items()}
