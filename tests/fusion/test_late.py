from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from mmbatch.errors import InputError
from mmbatch.fusion.late import LateFusion, load_late_fusion
from mmbatch.fusion.weighting import Weighting, fit_weighting, log_losses
from mmbatch.presets import preset_named
from mmbatch.training import LateFusionRecipe

MODELS = ("image", "text")
PAPER = preset_named("rakuten2020").late_fusion
CANDIDATES = LateFusionRecipe()


def fit(
    probabilities: np.ndarray, labels: np.ndarray, *, seed: int = 0, recipe: LateFusionRecipe = PAPER
) -> LateFusion:
    models, classes = probabilities.shape[1:]
    names = [f"model{m}" for m in range(models)]
    return LateFusion.fit(probabilities, labels, models=names, classes=classes, recipe=recipe, seed=seed, threads=1)


def scored(
    rows: int, *, skill: tuple[float, ...] = (1.0, 2.5), classes: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated, independent models: each gives its own class's score a lead of `skill` with unit noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    lead = np.eye(classes)[labels]
    evidence = [s * (s * lead + rng.normal(size=lead.shape)) for s in skill]
    return softmax(np.stack(evidence, axis=1), axis=2).astype(np.float32), labels


def crossed(rows: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A rule that no weighting can state: the class is the exclusive or of two models' opinions."""
    rng = np.random.default_rng(seed)
    opinions = rng.integers(2, size=(rows, 2))
    first = np.where(opinions == 1, 0.8, 0.2) + rng.uniform(-0.1, 0.1, size=(rows, 2))
    return np.stack([first, 1 - first], axis=2).astype(np.float32), opinions[:, 0] ^ opinions[:, 1]


def loss(probabilities_NC: np.ndarray, labels: np.ndarray) -> float:
    return float(log_losses(np.log(probabilities_NC.astype(np.float64)), labels).mean())


def accuracy(probabilities_NC: np.ndarray, labels: np.ndarray) -> float:
    return float((probabilities_NC.argmax(1) == labels).mean())


def test_joined_scores_are_probabilities():
    probabilities, labels = scored(200)
    joined = fit(probabilities, labels).predict(probabilities)
    assert joined.shape == (200, 4)
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined.sum(axis=1), 1.0, atol=1e-6)


def test_weighting_adds_up_independent_evidence():
    fusion = fit(*scored(400))
    fresh, truth = scored(2000, seed=1)
    assert loss(fusion.predict(fresh), truth) < min(loss(fresh[:, m], truth) for m in range(2))
    assert fusion.report.weights["model0"] == pytest.approx(0.5, abs=0.1)
    assert fusion.report.temperature == pytest.approx(0.5, abs=0.15)  # the sum is twice the mean
    assert sum(fusion.report.weights.values()) == pytest.approx(1.0)


def test_an_overconfident_model_weighs_less():
    probabilities, labels = scored(400, skill=(1.5, 1.5))
    probabilities[:, 0] = softmax(4 * np.log(probabilities[:, 0]), axis=1)
    assert fit(probabilities, labels).report.weights["model0"] == pytest.approx(0.2, abs=0.07)


def test_overconfident_models_are_softened():
    probabilities, labels = scored(600, skill=(1.5,))
    sharpened = softmax(3 * np.log(probabilities), axis=2)
    fusion = fit(sharpened, labels)
    assert fusion.report.temperature == pytest.approx(3.0, rel=0.2)
    assert loss(fusion.predict(sharpened), labels) < loss(sharpened[:, 0], labels)


def test_fitted_weighting_is_the_most_probable():
    probabilities, labels = scored(60, skill=(1.0, 2.0, 0.5))
    found = fit_weighting(probabilities, labels)

    def cost(log_weights: np.ndarray, temperature: float) -> float:
        weighting = Weighting(weights=tuple(softmax(log_weights)), temperature=temperature)
        prior = 0.5 * (log_weights @ log_weights + np.log(temperature) ** 2)
        return float(log_losses(weighting.log_probabilities(probabilities), labels).sum() + prior)

    centre = np.log(found.weights) - np.log(found.weights).mean()
    best = cost(centre, found.temperature)
    for step in (0.05, -0.05):
        assert cost(centre, found.temperature * np.exp(step)) > best
        for m in range(3):
            assert cost(centre + step * np.eye(3)[m], found.temperature) > best


def test_a_missing_model_is_left_out_of_the_mean():
    probabilities, labels = scored(300)
    fusion = fit(probabilities, labels)
    hidden = probabilities.copy()
    hidden[0, 0] = np.nan
    joined = fusion.predict(hidden)
    alone = softmax(np.log(probabilities[0, 1]) / fusion.report.temperature)
    np.testing.assert_allclose(joined[0], alone, atol=1e-5)
    np.testing.assert_array_equal(joined[1:], fusion.predict(probabilities)[1:])


def test_fits_with_missing_models_and_ignores_rows_without_any():
    probabilities, labels = scored(300)
    probabilities[:100, 0] = np.nan
    probabilities[50:150, 1] = np.nan
    fusion = fit(probabilities, labels)
    assert fusion.report.rows == 250
    joined = fusion.predict(probabilities)
    np.testing.assert_allclose(joined[50:100], 0.25, atol=1e-6)
    assert np.isfinite(joined).all()


def test_boosting_learns_a_rule_that_weighting_cannot_state():
    fusion = fit(*crossed(2000))
    fresh, truth = crossed(500, seed=1)
    assert fusion.report.rounds > 0
    assert fusion.report.kept == "boosting"
    assert fusion.report.boosting is not None
    assert fusion.report.boosting.log_loss < fusion.report.weighting.log_loss - 0.3
    assert accuracy(fusion.predict(fresh), truth) > 0.99
    assert accuracy(fusion.weighting.log_probabilities(fresh), truth) < 0.75


def test_cross_validated_log_losses_foretell_those_of_fresh_rows():
    fusion = fit(*crossed(1500))
    fresh, truth = crossed(1500, seed=1)
    assert fusion.report.boosting is not None
    assert loss(fusion.predict(fresh), truth) == pytest.approx(fusion.report.boosting.log_loss, abs=0.03)
    alone = log_losses(fusion.weighting.log_probabilities(fresh), truth).mean()
    assert alone == pytest.approx(fusion.report.weighting.log_loss, abs=0.03)


def test_boosted_missing_models_are_handled_and_unscored_rows_stay_uniform():
    probabilities, labels = crossed(2000)
    probabilities[::4, 0] = np.nan
    fusion = fit(probabilities, labels)
    assert fusion.report.rounds > 0
    assert accuracy(fusion.predict(probabilities[1::4]), labels[1::4]) > 0.99
    np.testing.assert_allclose(fusion.predict(np.full((3, 2, 2), np.nan, np.float32)), 0.5)


def test_boosting_is_dropped_where_it_does_not_lower_the_log_loss():
    report = fit(*scored(1000)).report
    assert (report.kept, report.rounds) == ("weighting", 0)
    assert report.boosting is not None
    assert report.standard_error is not None
    assert report.boosting.log_loss > report.weighting.log_loss - report.standard_error


@pytest.mark.parametrize("rows", [2, 20, 105])
def test_few_rows_are_weighted_alone(rows: int):
    probabilities, labels = scored(rows)
    fusion = fit(probabilities, labels)
    assert fusion.report.rounds == 0
    assert fusion.report.boosting is None
    fresh, truth = scored(1000, seed=1)
    assert loss(fusion.predict(fresh), truth) < loss(fresh.mean(axis=1), truth) + 0.1


def test_one_model_and_a_class_without_products():
    probabilities, labels = crossed(1000)
    three = np.concatenate([probabilities * 0.99, np.full((1000, 2, 1), 0.01, np.float32)], axis=2)
    fusion = fit(three, labels)
    assert fusion.report.rounds > 0
    assert fusion.predict(three)[:, 2].max() < 0.1
    assert accuracy(fusion.predict(three), labels) > 0.99
    single = fit(three[:, :1], labels)
    assert single.report.weights == {"model0": 1.0}


def test_certain_and_wrong_is_no_veto():
    probabilities = np.array([[[1.0, 0.0], [0.4, 0.6]]] * 30, np.float32)
    labels = np.ones(30, np.int64)
    joined = fit(probabilities, labels).predict(probabilities)
    assert np.isfinite(joined).all()
    assert (joined[:, 1] > 0.01).all()


def test_equal_seeds_give_equal_models():
    probabilities, labels = crossed(600)
    first, second = fit(probabilities, labels, seed=3), fit(probabilities, labels, seed=3)
    assert first.report == second.report
    np.testing.assert_array_equal(first.predict(probabilities), second.predict(probabilities))


@pytest.mark.parametrize("boosted", [True, False])
def test_save_and_load_give_the_same_scores(tmp_path: Path, boosted: bool):
    probabilities, labels = crossed(600) if boosted else scored(50)
    fusion = fit(probabilities, labels)
    fusion.save(tmp_path / "new")
    loaded = load_late_fusion(tmp_path / "new")
    assert (tmp_path / "new" / "late_fusion.txt").exists() is boosted
    assert loaded.models == fusion.models
    assert loaded.report == fusion.report
    np.testing.assert_array_equal(loaded.predict(probabilities), fusion.predict(probabilities))


@pytest.mark.parametrize("file", ["late_fusion.json", "late_fusion.txt"])
def test_load_says_what_is_missing_or_damaged(tmp_path: Path, file: str):
    fit(*crossed(600)).save(tmp_path)
    (tmp_path / file).write_text("nonsense")
    with pytest.raises(InputError, match="no late fusion in"):
        load_late_fusion(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match=file):
        load_late_fusion(tmp_path)


def broken(change: str) -> tuple[np.ndarray, np.ndarray]:
    probabilities, labels = scored(30)
    if change == "half missing":
        probabilities[0, 0, 0] = np.nan
    elif change == "logits":
        probabilities = np.log(probabilities)
    elif change == "sums":
        probabilities[3, 1] *= 0.9
    elif change == "labels":
        labels = labels + 1
    elif change == "rows":
        labels = labels[:-1]
    elif change == "classes":
        probabilities = probabilities[:, :, :3]
    elif change == "unscored":
        probabilities = np.full_like(probabilities, np.nan)
    return probabilities, labels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("half missing", "NaN beside numbers in the scores of image"),
        ("logits", r"found scores of image from -.* expected probabilities"),
        ("sums", r"scores of text .* sums from 0\.9 to 1, expected probabilities from 0 on with sum 1"),
        ("labels", "found labels 1 to 4, expected 0 to 3"),
        ("rows", r"found labels \[29\], expected \[30\]"),
        ("classes", r"found probabilities \[30, 2, 3\], expected \[N, 2, 4\]"),
        ("unscored", "found 0 fusion rows"),
    ],
)
def test_bad_input_is_named(change: str, message: str):
    probabilities, labels = broken(change)
    with pytest.raises(InputError, match=message):
        LateFusion.fit(probabilities, labels, models=MODELS, classes=4, recipe=PAPER, seed=0, threads=1)


def test_a_single_class_is_refused():
    with pytest.raises(InputError, match="found 1 classes"):
        LateFusion.fit(np.ones((5, 2, 1)), np.zeros(5, int), models=MODELS, classes=1, recipe=PAPER, seed=0, threads=1)


def test_predict_takes_no_rows():
    fusion = fit(*crossed(600))
    assert fusion.predict(np.empty((0, 2, 2), np.float32)).shape == (0, 2)


def test_weighting_alone_is_the_weighted_mean_of_logs():
    probabilities, _ = scored(5)
    joined = Weighting(weights=(0.25, 0.75), temperature=2.0).log_probabilities(probabilities)
    mean = 0.25 * np.log(probabilities[:, 0]) + 0.75 * np.log(probabilities[:, 1])
    np.testing.assert_allclose(joined, log_softmax(mean / 2.0, axis=1), atol=1e-5)


def trusted_where_sure(rows: int, *, classes: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A model that is right where it is sure of a class and says nothing else of use, and one that is often right."""
    rng = np.random.default_rng(seed)
    labels, sure = rng.integers(classes, size=rows), rng.random(rows) < 0.5
    first = np.where(sure, labels, rng.integers(classes, size=rows))
    second = np.where(rng.random(rows) < 0.7, labels, rng.integers(classes, size=rows))
    found = np.full((rows, 2, classes), 0.2 / (classes - 1), np.float32)
    found[np.arange(rows), 0, first] = np.where(sure, 0.8, 0.7)
    found[np.arange(rows), 1, second] = 0.8
    return found / found.sum(axis=2, keepdims=True), labels


def test_boosting_over_candidates_learns_when_a_model_is_to_be_trusted():
    fusion = fit(*trusted_where_sure(1500), recipe=CANDIDATES)
    fresh, truth = trusted_where_sure(1000, seed=1)
    assert fusion.report.kept == "boosting"
    assert (
        loss(fusion.predict(fresh), truth) < 0.8 * log_losses(fusion.weighting.log_probabilities(fresh), truth).mean()
    )
    np.testing.assert_allclose(fusion.predict(fresh).sum(axis=1), 1, atol=1e-5)


def test_candidates_with_missing_models_survive_saving(tmp_path: Path):
    probabilities, labels = trusted_where_sure(1500)
    probabilities[::5, 0] = np.nan
    probabilities[::15, 1] = np.nan
    fusion = fit(probabilities, labels, recipe=CANDIDATES)
    assert fusion.report.kept == "boosting"
    fusion.save(tmp_path)
    loaded = load_late_fusion(tmp_path)
    np.testing.assert_array_equal(loaded.predict(probabilities), fusion.predict(probabilities))
    np.testing.assert_allclose(loaded.predict(probabilities)[::15], 1 / 30, atol=1e-6)


def one_good_model(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """One model that is right, and five that are sure and wrong."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=rows)
    said = np.stack([labels, *rng.integers(4, size=(5, rows))], axis=1)
    return (0.96 * np.eye(4)[said] + 0.01).astype(np.float32), labels


def test_a_model_that_is_better_alone_is_kept_and_the_others_speak_where_it_is_missing():
    probabilities, labels = one_good_model(40)
    fusion = fit(probabilities, labels)
    assert fusion.report.kept == "model0"
    assert fusion.report.inputs["model0"].log_loss < fusion.report.weighting.log_loss
    assert accuracy(fusion.predict(probabilities), labels) == 1.0
    probabilities[0, 0] = np.nan
    assert fusion.predict(probabilities)[0].max() > 0.26
    assert fusion.report.describe().startswith("kept model0; log-loss on held-out folds of 40 fusion rows: weighting ")


def test_the_report_says_where_an_input_alone_is_no_worse():
    probabilities, labels = scored(600, skill=(2.0,))
    twice = np.concatenate([probabilities, np.full_like(probabilities, 0.25)], axis=1)
    assert "no better" not in fit(probabilities, labels).report.describe()
    fusion = fit(twice, labels)
    lead = fusion.report.inputs["model0"].macro_f1 - fusion.report.weighting.macro_f1
    assert ("no better in macro-F1 than model0 alone" in fusion.report.describe()) == (lead > 0)


def test_boosting_is_not_tried_where_the_weighting_is_hardly_ever_wrong():
    probabilities, labels = scored(600, skill=(6.0, 6.0))
    assert (probabilities.mean(axis=1).argmax(axis=1) != labels).sum() < 10
    report = fit(probabilities, labels, recipe=CANDIDATES).report
    assert (report.kept, report.boosting) == ("weighting", None)
    tried = fit(*scored(600, skill=(1.0, 1.5)), recipe=CANDIDATES).report
    assert tried.boosting is not None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("candidates", 1, r"^late fusion: found candidates=1, expected 2 or more$"),
        ("num_leaves", 1, r"^late fusion: LightGBM refuses the recipe: Check failed: \(num_leaves\) > \(1\)$"),
        ("learning_rate", -1.0, r"refuses the recipe: Check failed: \(learning_rate\) > \(0.0\)$"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_whether_boosting_is_tried_or_not(field: str, value: float, message: str):
    recipe = replace(CANDIDATES, **{field: value})
    with pytest.raises(InputError, match=message):
        fit(*scored(20), recipe=recipe)
