import json

import numpy as np
import pytest
from scipy.special import softmax

from mmbatch.errors import InputError
from mmbatch.fusion import taxonomy
from mmbatch.fusion.abstaining import ACCEPTED, BACKED_OFF, KINDS, REVIEW, Abstaining
from mmbatch.fusion.abstaining_stage import best_answers, gold_answers, stage_depths
from mmbatch.fusion.taxonomy import Taxonomy

TREE = Taxonomy((("a", "x", "1"), ("a", "x", "2"), ("a", "y"), ("b", "z", "1"), ("b", "z", "2"), ("c",)))
"""Six paths; nodes of level 2 are a > x, a > y, b > z, those of level 1 are a, b, c."""

SURE, TWINS, COUSINS, LOST = (
    [0.95, 0.01, 0.01, 0.01, 0.01, 0.01],
    [0.50, 0.46, 0.01, 0.01, 0.01, 0.01],
    [0.31, 0.30, 0.35, 0.02, 0.01, 0.01],
    [0.20, 0.16, 0.16, 0.16, 0.16, 0.16],
)
"""Sure of path 0; of its parent a > x only; of its grandparent a only, though a > y is the best path; of nothing."""

GAP = [np.nan] * 6


def rows(*parts: tuple[list[float], int]) -> np.ndarray:
    """Probabilities float32 `[N, 6]`, each product as often as told."""
    return np.concatenate([np.tile(np.array(product, np.float32), (count, 1)) for product, count in parts])


CALIBRATION = rows((SURE, 100), (TWINS, 100), (COUSINS, 100), (LOST, 100))
LABELS = np.concatenate([np.zeros(100), np.arange(100) % 2, np.arange(100) % 3, np.arange(100) % 6]).astype(int)
"""All of the first right; all others right where they are sure, and nowhere deeper."""


@pytest.fixture(scope="module")
def cascade() -> Abstaining:
    return Abstaining.fit(CALIBRATION, LABELS, TREE, target=0.9)


def drawn(count: int, seed: int, tree: Taxonomy = TREE) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float32 `[N, P]` with siblings alike, and labels that are drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (count, len(tree.paths)))
    for codes in tree.path_codes.T:
        logits += np.where(codes >= 0, rng.normal(0, 2.5, (count, codes.max() + 1))[:, codes], 0)
    probabilities = softmax(logits, axis=1)
    labels = (rng.random((count, 1)) > probabilities.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return probabilities.astype(np.float32), labels


def test_each_product_gets_the_deepest_answer_that_is_sure(cascade):
    found = cascade.decide(rows((SURE, 1), (TWINS, 1), (COUSINS, 1), (LOST, 1), (GAP, 1)))
    assert (found.kind.dtype, found.node.dtype) == (np.int8, np.int64)
    assert found.kind.tolist() == [ACCEPTED, BACKED_OFF, BACKED_OFF, REVIEW, REVIEW]
    assert [cascade.nodes[node] for node in found.node[:3]] == [("a", "x", "1"), ("a", "x"), ("a",)]
    assert found.node[3:].tolist() == [-1, -1]
    assert [KINDS[kind] for kind in found.kind[:4]] == ["accepted", "backed_off", "backed_off", "review"]


def test_each_stage_is_fitted_on_the_rows_that_reach_it(cascade):
    assert [stage.depth for stage in cascade.stages] == [None, 2, 1]
    assert [stage.rows for stage in cascade.stages] == [400, 300, 200]
    assert [stage.accepted for stage in cascade.stages] == [100, 100, 100]
    limits = [stage.threshold.confidence for stage in cascade.stages]
    np.testing.assert_allclose(limits, [0.95, 0.96, 0.96], rtol=1e-6)
    assert cascade.describe() == (
        "a precision of 90 % with 95 % confidence on 400 calibration rows: 25.0 % accepted, "
        "25.0 % backed off to level 2, 25.0 % backed off to level 1, 25.0 % for review"
    )


def test_answers_are_numbered_paths_first():
    nodes = Abstaining.fit(CALIBRATION, LABELS, TREE, target=0.5).nodes
    assert nodes == (*TREE.paths, *TREE.nodes[1], *TREE.nodes[0])


def test_probabilities_of_nodes_leave_out_paths_that_end_above(monkeypatch):
    probabilities, _ = drawn(50, seed=1)
    monkeypatch.setattr(taxonomy, "BLOCK_VALUES", 6 * 7)
    chosen = np.arange(3, 50, 2)
    for depth in stage_depths(TREE):
        answers = TREE.paths if depth is None else TREE.nodes[depth - 1]
        cut = [path[:depth] if depth is None or len(path) >= depth else None for path in TREE.paths]
        sums = np.stack([probabilities[:, [end == node for end in cut]].sum(axis=1) for node in answers], axis=1)
        codes, confidence = best_answers(probabilities, chosen, TREE, depth)
        np.testing.assert_array_equal(codes, sums[chosen].argmax(axis=1))
        np.testing.assert_allclose(confidence, sums[chosen].max(axis=1), rtol=1e-6)
        gold = [answers.index(end) if end is not None else -1 for end in cut]
        assert gold_answers(TREE, depth).tolist() == gold


def test_a_category_that_ends_above_is_never_a_right_node_below():
    """All gold paths are c, so that nothing on level 2 can be right, and on level 1 c must be the answer."""
    found = Abstaining.fit(CALIBRATION, np.full(400, 5), TREE, target=0.5)
    assert [stage.accepted for stage in found.stages] == [0, 0, 0]
    sure_of_c = rows(([0.08, 0.08, 0.08, 0.08, 0.08, 0.6], 100))
    found = Abstaining.fit(sure_of_c, np.full(100, 5), TREE, target=0.9)
    assert (found.decide(sure_of_c).kind == ACCEPTED).all()


def test_blocks_of_rows_do_not_matter(monkeypatch):
    probabilities, labels = drawn(3000, seed=2)
    whole = Abstaining.fit(probabilities, labels, TREE, target=0.85, per_class=True)
    decided = whole.decide(probabilities)
    monkeypatch.setattr(taxonomy, "BLOCK_VALUES", 600)
    assert Abstaining.fit(probabilities, labels, TREE, target=0.85, per_class=True) == whole
    for one, other in zip(whole.decide(probabilities), decided, strict=True):
        np.testing.assert_array_equal(one, other)
    part = whole.decide(probabilities[7:8])
    assert (part.kind[0], part.node[0]) == (decided.kind[7], decided.node[7])


def test_decisions_on_the_calibration_rows_are_the_ones_that_were_counted():
    probabilities, labels = drawn(3000, seed=3)
    found = Abstaining.fit(probabilities, labels, TREE, target=0.85)
    decided = found.decide(probabilities)
    counts = [int((decided.kind == kind).sum()) for kind in (ACCEPTED, BACKED_OFF, REVIEW)]
    accepted = [stage.accepted for stage in found.stages]
    assert counts == [accepted[0], sum(accepted[1:]), 3000 - sum(accepted)]
    assert min(counts) > 0
    right = decided.node[decided.kind == ACCEPTED] == labels[decided.kind == ACCEPTED]
    assert right.mean() == pytest.approx(found.stages[0].threshold.precision)


def test_products_without_scores_are_neither_fitted_on_nor_decided():
    probabilities, labels = drawn(1000, seed=4)
    gaps = np.insert(probabilities, [0, 500, 1000], np.nan, axis=0)
    found = Abstaining.fit(gaps, np.insert(labels, [0, 500, 1000], 0), TREE, target=0.85)
    assert found == Abstaining.fit(probabilities, labels, TREE, target=0.85)
    assert found.rows == 1000
    assert found.decide(gaps).kind[[0, 501, 1002]].tolist() == [REVIEW] * 3


def precisions(found: Abstaining, probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Of the accepted and of the backed-off products; 1 where there is none."""
    decided = found.decide(probabilities)
    offset, right = 0, np.zeros(len(labels), bool)
    for depth in stage_depths(TREE):
        gold = gold_answers(TREE, depth)[labels]
        right |= (gold >= 0) & (decided.node == offset + gold)
        offset += len(TREE.paths) if depth is None else len(TREE.nodes[depth - 1])
    return tuple(right[decided.kind == kind].mean() if (decided.kind == kind).any() else 1 for kind in (0, 1))


def test_each_kind_of_decision_misses_the_target_on_new_products_in_five_percent_of_repetitions_at_most():
    """17 or more of 200 would be by chance in 2 % of cases; the 20,000 new products are the same each time."""
    fresh = drawn(20_000, seed=999)
    found = [Abstaining.fit(*drawn(1500, seed), TREE, target=0.9) for seed in range(200)]
    achieved = np.array([precisions(cascade, *fresh) for cascade in found])
    assert ((achieved < 0.9).sum(axis=0) <= 16).all()
    assert (achieved < 0.94).mean(axis=0).min() > 0.1  # not by being far too careful
    assert np.mean([cascade.stages[0].accepted for cascade in found]) > 300
    assert np.mean([cascade.stages[1].accepted for cascade in found]) > 100


def test_a_category_with_rows_enough_has_a_threshold_of_its_own():
    """Path 0 is always right at 0.6, path 3 at 0.6 half of the time: one threshold for both accepts nothing."""
    first, fourth = [0.6, 0.08, 0.08, 0.08, 0.08, 0.08], [0.08, 0.08, 0.08, 0.6, 0.08, 0.08]
    probabilities, labels = rows((first, 200), (fourth, 200), (SURE[::-1], 20)), np.zeros(420, int)
    labels[200:400], labels[400:] = np.where(np.arange(200) % 2, 3, 5), 5
    one = Abstaining.fit(probabilities, labels, TREE, target=0.9)
    assert one.stages[0].threshold.confidence is None
    assert one.stages[0].own == {}
    stage = Abstaining.fit(probabilities, labels, TREE, target=0.9, per_class=True).stages[0]
    assert sorted(stage.own) == [0, 3]
    assert stage.own[0].confidence == pytest.approx(0.6)
    assert stage.own[3].confidence is None
    assert (stage.threshold.rows, stage.rows, stage.accepted) == (20, 420, 200)
    codes, confidence = np.array([0, 3, 1]), np.array([0.6, 0.99, 0.99], np.float32)
    assert stage.accepts(codes, confidence).tolist() == [True, False, False]
    assert stage.accepts(np.array([5, 0]), np.array([np.nan, np.nan])).tolist() == [False, False]
    assert stage.accepts(np.empty(0, int), np.empty(0)).tolist() == []


def test_without_a_target_or_rows_everything_is_for_review():
    no_target = Abstaining.fit(CALIBRATION, LABELS, TREE, target=None)
    no_rows = Abstaining.fit(rows((GAP, 3)), np.zeros(3, int), TREE, target=0.9, per_class=True)
    assert no_target.describe() == "no target precision: every product goes to review"
    assert no_rows.describe() == "no calibration rows: every product goes to review"
    assert Abstaining.fit(np.empty((0, 6)), np.empty(0, int), TREE, target=0.9).rows == 0
    for found in (no_target, no_rows):
        decided = found.decide(CALIBRATION)
        assert (decided.kind == REVIEW).all()
        assert (decided.node == -1).all()
        assert found.decide(np.empty((0, 6))).kind.shape == (0,)


def test_a_target_that_cannot_be_reached_is_told_with_the_best_bound():
    """43 right ones of 43 bear 93.2 %; 148 of 148 bear 97.996 %, which must not be rounded to the target."""
    flat = Taxonomy((("a",), ("b",)))
    for count, bound in ((43, "93.2"), (148, "97.9")):
        found = Abstaining.fit(np.tile([0.7, 0.3], (count, 1)), np.zeros(count, int), flat, target=0.98)
        assert (found.decide(np.array([[1.0, 0.0]])).kind == REVIEW).all()
        assert found.describe() == (
            f"no threshold reaches a precision of 98 % with 95 % confidence on {count} calibration rows: "
            f"the best lower bound is {bound} %"
        )
    sure = np.linspace(0.9, 0.6, 500)
    labels = np.zeros(500, int)
    labels[[0, 1, 2]] = 1
    found = Abstaining.fit(np.stack([sure, 1 - sure], axis=1), labels, flat, target=0.98)
    assert found.describe().endswith("the best lower bound is 98.4 %, but as the best of many it proves nothing")


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("target", [None, 0.8, 0.999])
def test_json_round_trip(target, per_class):
    probabilities, labels = drawn(3000, seed=6)
    found = Abstaining.fit(probabilities, labels, TREE, target=target, level=0.9, per_class=per_class)
    again = Abstaining.from_json(found.to_json(), TREE)
    assert again == found
    np.testing.assert_array_equal(again.decide(probabilities).node, found.decide(probabilities).node)
    assert again.describe() == found.describe()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"paths": 6}', "3"])
def test_json_of_something_else_is_refused(text):
    with pytest.raises(InputError, match=r"^abstaining: found something else than its JSON: "):
        Abstaining.from_json(text, TREE)


def test_json_of_another_taxonomy_or_goal_is_refused(cascade):
    other = Taxonomy(tuple((str(number),) for number in range(6)))
    with pytest.raises(
        InputError, match=r"^abstaining: found thresholds of 6 category paths .*, expected 6 on 1 levels"
    ):
        Abstaining.from_json(cascade.to_json(), other)
    content = json.loads(cascade.to_json())
    with pytest.raises(InputError, match=r"^target: found 2, expected a number between 0 and 1"):
        Abstaining.from_json(json.dumps(content | {"target": 2}), TREE)
    with pytest.raises(InputError, match=r"^abstaining: found something else than its JSON: "):
        Abstaining.from_json(json.dumps(content | {"more": 2}), TREE)


@pytest.mark.parametrize(
    ("shape", "labels", "target", "message"),
    [
        ((2, 5), [0, 0], 0.9, r"abstaining: found probabilities \[2, 5\], expected \[N, 6\]"),
        ((6,), [0], 0.9, r"abstaining: found probabilities \[6\]"),
        ((2, 6), [0], 0.9, r"abstaining: found labels \[1\], expected \[2\]"),
        ((2, 6), [0, 6], 0.9, "abstaining: found labels 0 to 6, expected 0 to 5"),
        ((2, 6), [-1, 0], None, "abstaining: found labels -1 to 0, expected 0 to 5"),
        ((2, 6), [0, 0], 1.0, "target: found 1.0, expected a number between 0 and 1"),
        ((2, 6), [0, 0], 98, "target: found 98, expected a number between 0 and 1"),
    ],
)
def test_bad_input_is_refused(shape, labels, target, message):
    with pytest.raises(InputError, match=f"^{message}"):
        Abstaining.fit(np.full(shape, 1 / 6), np.array(labels), TREE, target=target)


def test_bad_level_and_bad_shapes_to_decide_are_refused(cascade):
    with pytest.raises(InputError, match=r"^level: found 95, expected"):
        Abstaining.fit(CALIBRATION, LABELS, TREE, target=0.9, level=95)
    with pytest.raises(InputError, match=r"^abstaining: found probabilities \[1, 3\], expected \[N, 6\]"):
        cascade.decide(np.zeros((1, 3)))


def test_thresholds_hold_over_an_edited_tree():
    fitted = Abstaining.fit(CALIBRATION, LABELS, TREE, target=0.5)
    flat = Taxonomy(tuple((f"n{code}",) for code in range(3)))
    over = fitted.over(flat)
    assert over.nodes == flat.paths
    assert [stage.depth for stage in over.stages] == [None]
    sure = over.decide(np.array([[0.99, 0.005, 0.005], [np.nan] * 3], np.float32))
    assert sure.kind.tolist() == [ACCEPTED, REVIEW]
    assert over.nodes[sure.node[0]] == ("n0",)
    deeper = fitted.over(Taxonomy((*TREE.paths, ("a", "x", "1", "deeper"))))
    assert [stage.depth for stage in deeper.stages] == [stage.depth for stage in fitted.stages]
    assert len(deeper.nodes) == len(TREE.paths) + 1 + sum(len(deeper.taxonomy.nodes[at]) for at in (1, 0))
