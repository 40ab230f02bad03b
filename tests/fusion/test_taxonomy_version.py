import numpy as np
import pytest
from scipy.special import log_softmax

from mmbatch.errors import InputError
from mmbatch.fusion import taxonomy as module
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_version import REVIEW, TaxonomyVersion

MODEL = Taxonomy((("Fax",), ("Home", "Lamp"), ("Home", "Sofa"), ("Toys",)))
START = TaxonomyVersion.of(MODEL)
SCORES = np.log(np.array([[0.4, 0.25, 0.25, 0.1], [0.1, 0.1, 0.2, 0.6]], np.float32))


def shares(version: TaxonomyVersion) -> np.ndarray:
    return np.exp(version.log_probs(SCORES))


def test_before_any_edit_decisions_are_the_models_paths():
    assert START.taxonomy == MODEL
    assert START.decisions == MODEL.paths
    np.testing.assert_allclose(shares(START), np.exp(SCORES), rtol=1e-5)
    best, probability = START.decide(SCORES)
    assert (best.dtype, probability.dtype) == (np.int64, np.float32)
    assert best.tolist() == [0, 3]
    np.testing.assert_allclose(probability, [0.4, 0.6], rtol=1e-5)


def test_renamed_keeps_its_score_though_its_place_in_the_order_changes():
    version = START.edited({("Fax",): (("Phones", "Fax"),)})
    assert version.decisions == (("Home", "Lamp"), ("Home", "Sofa"), ("Phones", "Fax"), ("Toys",))
    assert version.taxonomy.paths == version.decisions
    np.testing.assert_allclose(shares(version), np.exp(SCORES)[:, [1, 2, 0, 3]], rtol=1e-5)


def test_a_renamed_parent_takes_its_categories_along():
    version = START.edited({("Home",): (("House", "Indoors"),)})
    assert version.decisions == (("Fax",), ("House", "Indoors", "Lamp"), ("House", "Indoors", "Sofa"), ("Toys",))
    np.testing.assert_allclose(shares(version), np.exp(SCORES), rtol=1e-5)


def test_merged_probabilities_add_up_and_may_win():
    version = START.edited({("Home", "Lamp"): (("Home",),), ("Home", "Sofa"): (("Home",),)})
    assert version.decisions == (("Fax",), ("Home",), ("Toys",))
    np.testing.assert_allclose(shares(version), [[0.4, 0.5, 0.1], [0.1, 0.3, 0.6]], rtol=1e-5)
    assert version.decide(SCORES)[0].tolist() == [1, 2]


def test_merged_into_a_category_that_stays():
    version = START.edited({("Fax",): (("Toys",),)})
    assert version.decisions == MODEL.paths[1:]
    np.testing.assert_allclose(shares(version), [[0.25, 0.25, 0.5], [0.1, 0.2, 0.7]], rtol=1e-5)


def test_where_one_is_removed_the_others_compete():
    version = START.edited({("Fax",): ()})
    assert version.decisions == MODEL.paths[1:]
    assert version.taxonomy.paths == MODEL.paths[1:]
    np.testing.assert_allclose(shares(version)[0], [0.25 / 0.6, 0.25 / 0.6, 0.1 / 0.6], rtol=1e-5)
    assert version.decide(SCORES)[0].tolist() == [0, 2]


def test_a_removed_parent_takes_its_categories_along():
    assert START.edited({("Home",): ()}).decisions == (("Fax",), ("Toys",))


def test_split_is_decided_as_the_common_ancestor_of_its_parts():
    version = START.edited({("Home", "Sofa"): (("Home", "Seats", "Couch"), ("Home", "Seats", "Divan"))})
    assert version.decisions == (("Fax",), ("Home", "Lamp"), ("Home", "Seats"), ("Toys",))
    assert ("Home", "Seats", "Divan") in version.taxonomy.paths
    assert ("Home", "Seats") not in version.taxonomy.paths
    np.testing.assert_allclose(shares(version), np.exp(SCORES), rtol=1e-5)


def test_split_without_a_common_ancestor_stays_in_review():
    version = START.edited({("Toys",): (("Games",), ("Home", "Dolls"))})
    assert version.decisions[0] == REVIEW
    assert version.decide(SCORES)[0].tolist() == [1, 0]
    np.testing.assert_allclose(shares(version)[:, 0], [0.1, 0.6], rtol=1e-5)


def test_split_into_itself_and_a_child_stays_where_it_is():
    version = START.edited({("Toys",): (("Toys",), ("Toys", "Dolls"))})
    assert version.decisions == MODEL.paths
    assert ("Toys", "Dolls") in version.taxonomy.paths


def test_edits_happen_at_once():
    version = START.edited({("Toys",): (("Fax",),), ("Fax",): (("Phone",),)})
    assert version.decisions == (("Fax",), ("Home", "Lamp"), ("Home", "Sofa"), ("Phone",))
    np.testing.assert_allclose(shares(version), np.exp(SCORES)[:, [3, 1, 2, 0]], rtol=1e-5)


def test_edits_of_an_edited_tree():
    split = START.edited({("Toys",): (("Games",), ("Dolls",))})
    assert split.decisions[0] == REVIEW
    moved = split.edited({("Games",): (("Fun", "Games"),), ("Dolls",): (("Fun", "Dolls"),)})
    assert moved.decisions[1] == ("Fun",)
    one_left = moved.edited({("Fun", "Games"): ()})
    assert one_left.decisions[1] == ("Fun", "Dolls")
    gone = one_left.edited({("Fun",): ()})
    assert gone == START.edited({("Toys",): ()})


def test_edits_of_a_path_that_an_edit_before_took_away_are_refused():
    version = START.edited({("Fax",): ()})
    with pytest.raises(InputError, match="old path 'Fax' is unknown"):
        version.edited({("Fax",): (("Phone",),)})


def test_a_tree_without_categories_is_refused():
    with pytest.raises(InputError, match="every category is removed"):
        START.edited({("Fax",): (), ("Home",): (), ("Toys",): ()})


@pytest.mark.parametrize("seed", range(3))
def test_decisions_agree_with_adding_up_path_by_path(seed, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_VALUES", 100)
    rng = np.random.default_rng(seed)
    model = Taxonomy(tuple((f"a{i % 3}", f"b{i}") for i in range(20)))
    merged = {path: ((f"c{rng.integers(4)}", "d"),) if rng.random() < 0.6 else () for path in model.paths[2:]}
    version = TaxonomyVersion.of(model).edited(merged)
    scores = log_softmax(rng.normal(size=(33, 20)), axis=1)
    expected = np.zeros((33, len(version.decisions)))
    for column, path in enumerate(model.paths):
        for new in merged.get(path, (path,)):
            expected[:, version.decisions.index(new)] += np.exp(scores[:, column])
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(version.log_probs(scores)), expected, rtol=1e-4)


def test_impossible_paths_never_make_nan():
    version = START.edited({("Home", "Lamp"): (("Home", "Sofa"),), ("Toys",): ()})
    scores = np.array([[-np.inf, -np.inf, -np.inf, 0], [0, -np.inf, -np.inf, -np.inf]])
    np.testing.assert_allclose(np.exp(version.log_probs(scores)), [[0.5, 0.5], [1, 0]], rtol=1e-6)


def test_scores_of_another_model_are_refused():
    for scores in (SCORES[:, :3], SCORES[0]):
        with pytest.raises(ValueError, match="log-probabilities of paths: found"):
            START.log_probs(scores)
