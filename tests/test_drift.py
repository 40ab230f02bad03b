"""Training reference and population stability index: by hand, without drift, with drift of each feature."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from mmbatch.drift import FEWEST, Names, Numbers, Projections, Reference, Sample, languages, stability_index
from mmbatch.errors import InputError

FRENCH = ("coque de protection en silicone pour téléphone", "lot de trois figurines de collection avec boîte")
GERMAN = ("weiße Schuhe aus Leder für Damen und Herren", "große Tasche mit vielen Fächern für die Reise")

FEATURES = {
    "title length",
    "description length",
    "missing title",
    "missing description",
    "missing image",
    "language",
    "vectors of image",
    "vectors of text",
}
VECTORS = {"vectors of image", "vectors of text"}


def sample(
    rows: int,
    seed: int,
    *,
    texts: Sequence[str] = FRENCH,
    words: int = 3,
    without_title: float = 0.1,
    without_image: float = 0.2,
    shift: Mapping[str, float] | None = None,
) -> Sample:
    """Products with titles of some words, half of them with a description, and normal vectors around 1."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(1, 1 + words, rows)
    titles = [
        None if absent else " ".join([texts[number % 2]] * number)
        for number, absent in zip(numbers.tolist(), rng.random(rows) < without_title, strict=True)
    ]
    descriptions = [text if number % 2 else None for number, text in zip(numbers.tolist(), titles, strict=True)]
    images = rng.random(rows) >= without_image
    moved = {"image": 0.0, "text": 0.0} | dict(shift or {})
    return Sample(
        titles=pa.chunked_array([pa.array(titles, pa.string())]),
        descriptions=pa.array(descriptions, pa.string()),
        images=images,
        vectors={name: vectors(rows, seed + 1, shift=by) for name, by in moved.items()},
    )


def vectors(rows: int, seed: int, *, shift: float = 0.0, width: int = 16) -> npt.NDArray[np.float16]:
    """Normal around 1, with a spread that falls from number to number; `shift` moves the first number."""
    found = 1 + np.random.default_rng(seed).normal(0, 1, (rows, width)) / np.arange(1, width + 1)
    found[:, 0] += shift
    return found.astype(np.float16)


def test_the_index_of_a_hand_worked_case() -> None:
    p, q = np.array([30.5, 70.5]) / 101, np.array([60.5, 40.5]) / 101
    expected = (q[0] - p[0]) * np.log(q[0] / p[0]) + (q[1] - p[1]) * np.log(q[1] / p[1])
    assert stability_index((30, 70), (60, 40)) == pytest.approx(expected)
    assert stability_index((30, 70), (60, 40)) == pytest.approx(stability_index((60, 40), (30, 70)))
    assert stability_index((30, 70), (30, 70)) == 0
    empty = np.log((100.5 / 101) / (0.5 / 101)) * (100 / 101)
    assert stability_index((0, 100), (100, 0)) == pytest.approx(2 * empty)


@pytest.mark.parametrize(("reference", "present"), [((1, 2), (1, 2, 3)), ((), ())])
def test_other_bins_are_refused(reference: tuple[int, ...], present: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^\d and \d bins: expected two equal numbers above 0$"):
        stability_index(reference, present)


def test_without_drift_the_index_is_as_high_as_the_module_says() -> None:
    rng = np.random.default_rng(0)
    found = [Numbers.of(rng.normal(size=2000)).drift(rng.normal(size=500)) for _ in range(200)]
    assert np.mean(found) == pytest.approx(9 * (1 / 2000 + 1 / 500), rel=0.1)


def test_numbers_are_counted_by_the_deciles_of_the_reference() -> None:
    found = Numbers.of(np.arange(1.0, 101.0))
    assert found.edges == (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0)
    assert found.counts == (10,) * 10
    assert found.drift(np.arange(1.0, 101.0)) == 0
    assert found.drift(np.array([1.0, 1000.0])) == pytest.approx(stability_index((10,) * 10, (1, *(0,) * 8, 1)))


@pytest.mark.parametrize("values", [59.0, 61.0])
def test_a_frequent_number_has_a_bin_of_its_own(values: float) -> None:
    always = Numbers.of(np.full(500, 60.0))
    assert always.counts == (0, 500, 0)
    assert always.drift(np.full(500, 60.0)) == 0
    assert always.drift(np.full(500, values)) > 5
    often = Numbers.of(np.concatenate([np.full(500, 60.0), np.arange(500.0)]))
    assert 501 in often.counts
    moved = np.concatenate([np.full(500, values), np.arange(500.0)])
    assert often.drift(moved) > 1


def test_frequent_names_have_bins_and_others_share_one() -> None:
    names = np.array([f"n{number}" for number in range(20) for _ in range(30 - number)])
    found = Names.of(names)
    assert found.names == tuple(f"n{number}" for number in range(10))
    assert found.counts == (*range(30, 20, -1), sum(range(11, 21)))
    assert found.drift(names) == 0
    assert found.drift(np.array(["never seen"] * len(names))) > 2


def test_vectors_drift_with_the_worst_of_their_directions() -> None:
    found = Projections.of(vectors(2000, 0))
    assert len(found.along) == 5
    assert found.drift(vectors(2000, 0)[1::2]) == 0
    assert found.drift(vectors(2000, 1)) < 0.05
    assert found.drift(vectors(2000, 1) * np.float16(2)) < 0.05, "vectors are taken at unit length"
    assert found.drift(vectors(2000, 1, shift=1.0)) > 0.25


def test_equal_vectors_have_one_bin_whatever_they_are_computed_with() -> None:
    photo = vectors(1, 5)
    half = np.concatenate([np.repeat(photo, 500, axis=0), vectors(500, 0)])
    found = Projections.of(half)
    assert all(max(numbers.counts) >= 250 for numbers in found.along)
    assert found.drift(half[1::2][::-1]) == 0
    wide = vectors(1, 5, width=1000)
    constant = Projections.of(np.repeat(wide, 600, axis=0))
    for rows in (1, 2, 7, 201, 1001):
        found_alike = constant.drift(np.repeat(wide, rows, axis=0))
        assert found_alike == pytest.approx(stability_index((0, 300, 0), (0, rows, 0))), rows


def test_wide_vectors_without_structure_do_not_seem_to_drift() -> None:
    rng = np.random.default_rng(0)
    reference, present = (rng.normal(size=(4000, 512)).astype(np.float16) for _ in range(2))
    assert Projections.of(reference).drift(present) < 0.03


def test_vectors_narrower_than_the_number_of_directions() -> None:
    found = Projections.of(vectors(500, 0, width=3))
    assert len(found.along) == 3
    assert found.drift(vectors(500, 1, width=3)) < 0.15


def test_languages_of_texts_and_of_digits() -> None:
    found = languages(pa.array([FRENCH[0], None, GERMAN[0], "12345 33", GERMAN[0].upper()]))
    assert found.tolist() == ["fr", "de", "zxx", "de"]
    assert languages(pa.array([], pa.string())).tolist() == []


def test_without_drift_every_feature_is_measured_and_low() -> None:
    found = Reference.of(sample(2000, 0)).drift(sample(2000, 10))
    assert found.keys() == FEATURES
    assert max(found.values()) < 0.05


@pytest.mark.parametrize(
    ("features", "present"),
    [
        (
            {"language"},
            sample(2000, 10, texts=[text.ljust(len(old)) for text, old in zip(GERMAN, FRENCH, strict=True)]),
        ),
        ({"title length", "description length"}, sample(2000, 10, words=6)),
        ({"missing title", "missing description"}, sample(2000, 10, without_title=0.6)),
        ({"missing image"}, sample(2000, 10, without_image=0.8)),
        ({"vectors of text"}, sample(2000, 10, shift={"text": 1.0})),
        ({"vectors of image"}, sample(2000, 10, shift={"image": -1.0})),
    ],
)
def test_drift_of_one_kind_is_found_in_its_features(features: set[str], present: Sample) -> None:
    found = Reference.of(sample(2000, 0)).drift(present)
    assert {name for name, index in found.items() if index > 0.25} == features


def test_features_with_few_values_on_either_side_are_left_out() -> None:
    whole, few = sample(FEWEST, 0, without_title=0), sample(FEWEST - 1, 0, without_title=0)
    assert Reference.of(few) == Reference(rows=FEWEST - 1, numbers={}, names={}, vectors={})
    assert Reference.of(few).drift(whole) == {}
    assert Reference.of(whole).drift(whole).keys() == FEATURES - {"description length", *VECTORS}
    double = Reference.of(sample(2 * FEWEST, 0, without_title=0))
    assert double.drift(few) == {}
    assert double.drift(whole).keys() == FEATURES - {"description length"}
    assert Reference.of(sample(2 * FEWEST - 1, 0)).vectors == {}
    untitled = Reference.of(sample(1000, 0, without_title=1.0))
    assert untitled.numbers == {}
    assert untitled.names.keys() == {"missing title", "missing description", "missing image"}


def test_an_encoder_that_the_sample_has_no_vectors_of_is_left_out() -> None:
    reference, present = Reference.of(sample(500, 0)), sample(500, 1)
    without = Sample(
        titles=present.titles,
        descriptions=present.descriptions,
        images=present.images,
        vectors={"text": present.vectors["text"], "other": present.vectors["image"]},
    )
    assert reference.drift(without).keys() == FEATURES - {"vectors of image"}


def test_json_keeps_the_reference_bit_for_bit() -> None:
    reference, present = Reference.of(sample(1000, 0)), sample(1000, 1, shift={"text": 0.3})
    again = Reference.from_json(reference.to_json())
    assert again == reference
    assert again.drift(present) == reference.drift(present)


def test_the_reference_does_not_grow_with_the_products() -> None:
    small, large = (len(Reference.of(sample(rows, 0)).to_json()) for rows in (500, 5000))
    assert large < 1.1 * small
    wide = Projections.of(vectors(400, 0, width=1024))
    assert len(wide.directions) < 15_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps({"rows": 1, "numbers": {"a": {"edge": [1]}}, "names": {}, "vectors": {}}),
        json.dumps({"rows": 1, "numbers": {}, "names": {}, "vectors": {"text": 1}}),
    ],
)
def test_something_else_than_its_json_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^training reference: found something else than its JSON: "):
        Reference.from_json(text)
