import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from mmbatch.errors import InputError
from mmbatch.metrics import UNSCORED
from mmbatch.reports.paper_analysis import (
    Corrections,
    ModelPredictions,
    alone,
    corrections,
    modality_value,
    one_right,
    top_levels,
)

CATEGORIES = ("Books > Novels", "Books > Comics", "Child > Toys")
NAN = float("nan")


def hand_worked() -> ModelPredictions:
    """Six products, three models, late fusion wrong on the last; category 2 has one product."""
    return ModelPredictions(
        models=("camembert", "seresnext", "concatenation"),
        modalities=("text", "image", "fused"),
        categories=CATEGORIES,
        gold=np.array([0, 0, 1, 1, 2, 0]),
        fused=np.array([0, 0, 1, 1, 2, 1]),
        codes=np.array([[0, 1, 2], [0, 0, 1], [0, 1, 0], [1, UNSCORED, 0], [2, 2, 2], [0, 1, 1]]),
        contributions=np.array(
            [[2.0, -0.5, 0.1], [1.0, 1.0, -1.0], [-0.25, 3.0, 0.5], [2.5, NAN, 0.0], [1.0, 0.5, 0.5], [-1.0, 0.5, 2.0]]
        ),
    )


def products(rows: int = 6) -> pa.Table:
    return pa.table(
        {"title": [f"Title {row}" for row in range(rows)], "product_id": [f"p{row}" for row in range(rows)]}
    )


def test_one_right_names_the_only_model_that_was():
    found = one_right(hand_worked().gold, hand_worked().codes)
    assert found.tolist() == [0, -1, 1, 0, -1, 0]
    assert found.dtype == np.int64


def test_one_right_counts_an_unscored_product_as_wrong():
    assert one_right(np.array([0]), np.array([[UNSCORED, 0]])).tolist() == [1]


@pytest.mark.parametrize(
    ("gold", "codes", "message"),
    [
        ([0], [0], "codes (1,): expected [N, M]"),
        ([], np.empty((0, 2), int), "codes (0, 2): expected [N, M] with at least one product"),
        ([0], np.empty((1, 0), int), "codes (1, 0): expected"),
        ([0, 1], [[0, 0]], "gold (2,) and predicted (1,)"),
        ([-1], [[0, 0]], "1 of 1 gold labels are below 0"),
        ([0], [[0, -2]], "predicted label -2"),
    ],
)
def test_one_right_refuses_what_is_not_labels(gold, codes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        one_right(np.array(gold, int), np.array(codes))


def test_alone_counts_what_late_fusion_followed_and_shows_the_largest_contribution_first():
    camembert, seresnext, concatenation = alone(hand_worked(), products())
    assert (camembert.model, camembert.products, camembert.followed) == ("camembert", 3, 2)
    assert [example.product_id for example in camembert.examples] == ["p3", "p0"]
    assert (seresnext.products, [example.product_id for example in seresnext.examples]) == (1, ["p2"])
    assert (concatenation.products, concatenation.followed, concatenation.examples) == (0, 0, ())


def test_an_example_says_what_each_model_said_and_contributed():
    first = alone(hand_worked(), products())[0].examples[0]
    assert (first.title, first.gold) == ("Title 3", "Books > Comics")
    assert first.categories == ("Books > Comics", None, "Books > Novels")
    np.testing.assert_equal(first.contributions, (2.5, NAN, 0.0))


def test_at_most_as_many_examples_as_asked_for_and_unknown_contributions_last():
    contributions = hand_worked().contributions.copy()
    contributions[3, 0] = NAN
    camembert = alone(replace(hand_worked(), contributions=contributions), products(), examples=1)[0]
    assert [example.product_id for example in camembert.examples] == ["p0"]
    assert camembert.followed == 2


def test_alone_wants_one_product_for_each_prediction():
    with pytest.raises(ValueError, match="5 products with 6 predictions: expected one each"):
        alone(hand_worked(), products(5))


def test_corrections_by_hand():
    tops = top_levels(CATEGORIES)
    assert tops.tolist() == [0, 0, 1]
    gold = np.array([0, 0, 1, 2, 2, 1, 0, 0])
    base = np.array([2, 1, 0, 0, UNSCORED, 2, 0, 0])  # wrong: top, within, within, top, -, top; right; right
    fused = np.array([0, 0, 1, 2, 2, 0, 1, 0])  # the sixth stays wrong, the seventh is spoiled
    found = corrections(gold, base, fused, tops)
    assert found == Corrections(products=8, wrong=6, top_level=2, within=2, unscored=1, spoiled=1)
    assert found.top_level_share == 0.5


def test_the_shares_of_the_paper():
    gold = np.zeros(100, int)
    base = np.array([2] * 38 + [1] * 62)
    assert corrections(gold, base, gold, top_levels(CATEGORIES)).top_level_share == 0.38


def test_without_corrections_there_is_no_share():
    gold = np.array([0, 1])
    found = corrections(gold, gold, np.array([0, UNSCORED]), np.array([0, 0]))
    assert found == Corrections(products=2, wrong=0, top_level=0, within=0, unscored=0, spoiled=1)
    assert np.isnan(found.top_level_share)


@pytest.mark.parametrize(
    ("base", "fused", "message"),
    [
        ([0], [0, 0], "base: gold (2,) and predicted (1,)"),
        ([0, 0], [0, 0, 0], "fused: gold (2,) and predicted (3,)"),
        ([0, 3], [0, 0], "base: label 3 with 3 classes"),
        ([0, 0], [0, -2], "fused: predicted label -2"),
    ],
)
def test_corrections_refuse_label_sets_that_differ(base, fused, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        corrections(np.array([0, 1]), np.array(base), np.array(fused), np.array([0, 0, 1]))


def test_corrections_of_no_test_rows_are_refused():
    none = np.empty(0, int)
    with pytest.raises(ValueError, match="above 0"):
        corrections(none, none, none, np.array([0]))


def test_modality_value_by_hand():
    value = modality_value(hand_worked(), {"text": "camembert", "image": "seresnext"})
    assert value.categories == ("Books > Comics", "Child > Toys", "Books > Novels")  # gain 1/2, 0, -1/3
    assert value.products.tolist() == [2, 1, 3]
    np.testing.assert_allclose(value.accuracies["text"], [0.5, 1, 1])
    np.testing.assert_allclose(value.accuracies["image"], [0.5, 1, 1 / 3])
    np.testing.assert_allclose(value.accuracies["fused"], [1, 1, 2 / 3])
    np.testing.assert_allclose(value.gain, [0.5, 0, -1 / 3])
    np.testing.assert_allclose(value.contributions["text"], [2.75 / 2, 1, 4 / 3])
    np.testing.assert_allclose(value.contributions["image"], [3.0, 0.5, 2 / 3])  # the one that is not NaN
    np.testing.assert_allclose(value.contributions["fused"], [0.25, 0.5, 3.1 / 3])


def test_contributions_of_one_modality_are_summed_before_their_size_is_taken():
    two = ModelPredictions(
        models=("a", "b"),
        modalities=("text", "text"),
        categories=("x",),
        gold=np.array([0, 0, 0]),
        fused=np.array([0, 0, 0]),
        codes=np.array([[0, 0], [0, 0], [0, 0]]),
        contributions=np.array([[2.0, -1.5], [NAN, -1.0], [NAN, NAN]]),
    )
    value = modality_value(two, {"text": "a"})
    assert value.contributions["text"].tolist() == [0.75]
    np.testing.assert_equal(value.contributions["image"], [NAN])
    assert set(value.accuracies) == {"text", "fused"}


def test_of_equal_gains_the_larger_category_comes_first_and_absent_ones_not_at_all():
    gold = np.array([3, 1, 1, 0])
    same = ModelPredictions(
        models=("a",),
        modalities=("image",),
        categories=("w", "x", "y", "z"),
        gold=gold,
        fused=gold,
        codes=gold[:, None],
        contributions=np.ones((4, 1), np.float32),
    )
    assert modality_value(same, {"image": "a"}).categories == ("x", "w", "z")


def test_thousands_of_categories_agree_with_counting():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 5_000, 20_000)
    codes = np.where(rng.random((20_000, 2)) < 0.6, gold[:, None], rng.integers(-1, 5_000, (20_000, 2)))
    many = ModelPredictions(
        models=("t", "i"),
        modalities=("text", "image"),
        categories=tuple(f"Top {label // 100:02} > Kind {label:04}" for label in range(5_000)),
        gold=gold,
        fused=codes[:, 0],
        codes=codes,
        contributions=rng.normal(size=(20_000, 2)),
    )
    value = modality_value(many, {"text": "t", "image": "i"})
    assert len(value.categories) == len(np.unique(gold))
    assert (np.diff(value.gain) <= 0).all()
    label = many.categories.index(value.categories[7])
    assert value.accuracies["image"][7] == (codes[gold == label, 1] == label).mean()
    assert value.contributions["text"][7] == pytest.approx(np.abs(many.contributions[gold == label, 0]).mean())
    assert len(np.unique(top_levels(many.categories))) == 50


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "no model of any modality"),
        ({"text": "bert"}, "bert: found no such model, expected a model of text"),
        ({"text": "seresnext"}, "seresnext: found image, expected a model of text"),
    ],
)
def test_modality_value_refuses_a_model_that_is_not_of_the_modality(models, message):
    with pytest.raises(ValueError, match=message):
        modality_value(hand_worked(), models)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ()}, "3 modalities of 0 models: expected one of each, at least 1"),
        ({"modalities": ("text", "image")}, "2 modalities of 3 models"),
        ({"modalities": ("text", "image", "sound")}, "modalities ['sound']: expected text, image, fused"),
        ({"models": ("a", "a", "b")}, "3 models with 2 names"),
        ({"categories": ("x", "x", "y")}, "3 categories with 2 names"),
        ({"categories": ("x", "y")}, "late fusion: label 2 with 2 classes"),
        ({"fused": np.zeros(5, int)}, "late fusion: gold (6,) and predicted (5,)"),
        ({"codes": np.zeros((6, 2), int)}, "codes (6, 2): expected (6, 3)"),
        ({"codes": np.full((6, 3), 7)}, "camembert: label 7 with 3 classes"),
        ({"contributions": np.zeros((5, 3))}, "contributions (5, 3): expected (6, 3)"),
        ({"contributions": np.full((6, 3), np.inf)}, "18 contributions are infinite"),
        ({"gold": np.array([0, 0, 1, 1, 2, -1])}, "1 of 6 gold labels are below 0"),
    ],
)
def test_predictions_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        replace(hand_worked(), **change)
    assert "\n" not in str(refused.value)


def test_no_test_rows_are_refused():
    none = np.empty(0, int)
    with pytest.raises(ValueError, match="above 0"):
        replace(hand_worked(), gold=none, fused=none, codes=np.empty((0, 3), int), contributions=np.empty((0, 3)))


def test_a_model_without_any_contribution_is_named():
    contributions = hand_worked().contributions.copy()
    contributions[:, 1] = NAN
    message = "explanation: model seresnext has a contribution to none of 6 products, expected at least one"
    with pytest.raises(InputError, match=message):
        replace(hand_worked(), contributions=contributions)
