import numpy as np
import pyarrow as pa
import pytest
from scipy.special import log_softmax

from mmbatch.errors import InputError
from mmbatch.fusion import taxonomy as module
from mmbatch.fusion.taxonomy import SharedName, Taxonomy

PATHS = (
    ("Clothing", "Accessories"),
    ("Clothing", "Shoes", "Boots"),
    ("Clothing", "Shoes", "Sandals"),
    ("Electronics", "Accessories"),
    ("Toys",),
)
TREE = Taxonomy(PATHS)

LOG_PROBS = [np.log(np.array([level], np.float32)) for level in ([0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.9, 0.1])]
"""One product whose best nodes by themselves, Clothing, Electronics > Accessories and Boots, are no path."""


def random_tree(seed: int, *, count: int = 40, even: bool = False) -> Taxonomy:
    """Names repeat below different parents; depths 1 to 4, or all 3 where `even`."""
    rng = np.random.default_rng(seed)
    depths = np.full(count, 3) if even else rng.integers(1, 5, size=count)
    return Taxonomy(tuple(tuple(f"n{rng.integers(4)}" for _ in range(depth)) for depth in depths))


def random_scores(tree: Taxonomy, rows: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [log_softmax(3 * rng.normal(size=(rows, count)), axis=1).astype(np.float32) for count in tree.levels]


def brute_means(tree: Taxonomy, log_probs: list[np.ndarray]) -> np.ndarray:
    """Mean log-probability of each path, path by path."""
    columns = []
    for path in tree.paths:
        nodes = [tree.nodes[level].index(path[: level + 1]) for level in range(len(path))]
        columns.append(np.mean([log_probs[level][:, node] for level, node in enumerate(nodes)], axis=0))
    return np.stack(columns, axis=1)


def brute_codes(tree: Taxonomy, path: tuple[str, ...] | None) -> list[int]:
    row = [-1] * len(tree.levels)
    for level in range(min(len(path or ()), len(tree.levels))):
        if path[: level + 1] in tree.nodes[level]:
            row[level] = tree.nodes[level].index(path[: level + 1])
    return row


def test_nodes_are_paths_from_the_root():
    assert TREE.levels == (3, 3, 2)
    assert TREE.nodes[1] == (("Clothing", "Accessories"), ("Clothing", "Shoes"), ("Electronics", "Accessories"))
    assert [codes.tolist() for codes in TREE.parents] == [[-1, -1, -1], [0, 0, 1], [1, 1]]
    assert TREE.path_codes.tolist() == [[0, 0, -1], [0, 1, 0], [0, 1, 1], [1, 2, -1], [2, -1, -1]]


def test_order_and_repetition_of_the_paths_do_not_matter():
    shuffled = Taxonomy((*PATHS[::-1], PATHS[2]))
    assert shuffled == TREE
    assert shuffled.paths == PATHS
    assert Taxonomy.of(pa.array([*PATHS[3:], *PATHS], pa.list_(pa.string()))) == TREE


def test_a_path_may_end_where_another_goes_on():
    tree = Taxonomy((("a",), ("a", "b")))
    assert tree.paths == (("a",), ("a", "b"))
    assert tree.path_codes.tolist() == [[0, -1], [0, 0]]
    assert tree.is_valid(tree.path_codes).all()


def test_paths_are_cut_to_the_levels_asked_for():
    assert Taxonomy.of(PATHS, levels=2).paths == (
        ("Clothing", "Accessories"),
        ("Clothing", "Shoes"),
        ("Electronics", "Accessories"),
        ("Toys",),
    )


def test_names_below_several_parents_are_told():
    assert TREE.shared_names() == (SharedName(level=2, name="Accessories", parents=2),)
    assert Taxonomy((("1", "10"), ("1", "11"), ("2", "12"))).shared_names() == ()


def test_codes_of_known_unknown_and_missing_levels():
    paths = [["Clothing", "Shoes", "Boots"], ["Clothing", "Hats", "Boots"], ["Toys"], ["Food"], ["Toys", "Dolls"], None]
    column = pa.array(paths, pa.list_(pa.string()))
    expected = [[0, 1, 0], [0, -1, -1], [2, -1, -1], [-1, -1, -1], [2, -1, -1], [-1, -1, -1]]
    codes = TREE.codes(column)
    assert codes.dtype == np.int64
    assert codes.tolist() == expected
    assert TREE.path_index(column).tolist() == [1, -1, 4, -1, -1, -1]
    assert TREE.codes(paths[:3]).tolist() == expected[:3]
    assert TREE.codes([]).shape == (0, 3)
    assert TREE.path_index([]).shape == (0,)


@pytest.mark.parametrize("seed", range(3))
def test_codes_agree_with_brute_force_on_sliced_and_chunked_columns(seed):
    tree, others = random_tree(seed), random_tree(seed + 100).paths
    rng = np.random.default_rng(seed)
    drawn = [[*tree.paths, *others, (), None][i] for i in rng.integers(len(tree.paths) + len(others) + 2, size=300)]
    column = pa.array(drawn, pa.list_(pa.string()))
    chunked = pa.chunked_array([column.slice(0, 100), column.slice(100, 0), column.slice(100)])
    expected = [brute_codes(tree, path) for path in drawn]
    assert tree.codes(chunked).tolist() == expected
    assert tree.codes(column.slice(37, 200)).tolist() == expected[37:237]
    index = [tree.paths.index(path) if path in tree.paths else -1 for path in drawn]
    assert tree.path_index(chunked).tolist() == index


def test_decoding_of_a_hand_worked_product():
    scores = [np.log(0.5 * 0.1) / 2, np.log(0.5 * 0.2 * 0.9) / 3, np.log(0.5 * 0.2 * 0.1) / 3]
    scores += [np.log(0.4 * 0.7) / 2, np.log(0.1)]
    best, score = TREE.decode(LOG_PROBS)
    assert (best.dtype, score.dtype) == (np.int64, np.float32)
    assert best.tolist() == [3]
    assert score[0] == pytest.approx(scores[3])
    shares = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(np.exp(TREE.path_log_probs(LOG_PROBS))[0], shares, rtol=1e-5)
    top, probabilities = TREE.top_k(LOG_PROBS, 3)
    assert top.tolist() == [[3, 1, 0]]
    np.testing.assert_allclose(probabilities[0], shares[top[0]], rtol=1e-5)


def test_independent_nodes_of_the_hand_worked_product_are_no_path():
    codes = TREE.independent(LOG_PROBS)
    assert codes.tolist() == [[0, 2, 0]]
    assert not TREE.is_valid(codes).any()
    assert TREE.is_valid(TREE.path_codes[TREE.decode(LOG_PROBS)[0]]).all()


def test_validity_is_read_from_the_root_to_the_end_of_a_path():
    rows = {
        (0, 1, 1): True,
        (0, 0, -1): True,
        (0, 0, 1): True,  # nothing is below Clothing > Accessories: the third level does not count
        (2, 2, 1): True,  # nor is anything below Toys
        (0, 1, -1): False,  # no category ends at Clothing > Shoes
        (0, -1, -1): False,
        (-1, 1, 1): False,
        (1, 1, 0): False,  # Shoes is below Clothing
        (1, 2, -1): True,
    }
    assert TREE.is_valid(np.array(list(rows))).tolist() == list(rows.values())


@pytest.mark.parametrize("seed", range(4))
def test_decoding_agrees_with_brute_force_over_all_paths(seed, monkeypatch):
    tree = random_tree(seed)
    monkeypatch.setattr(module, "BLOCK_VALUES", 1000)  # blocks of a few rows, the last one not full
    log_probs = random_scores(tree, 101, seed)
    means = brute_means(tree, log_probs)
    best, score = tree.decode(log_probs)
    np.testing.assert_array_equal(best, means.argmax(axis=1))
    np.testing.assert_allclose(score, means.max(axis=1), rtol=1e-5)
    expected = log_softmax(means, axis=1)
    np.testing.assert_allclose(tree.path_log_probs(log_probs), expected, rtol=1e-4, atol=1e-5)
    top, probabilities = tree.top_k(log_probs, 5)
    np.testing.assert_array_equal(top, np.argsort(-means, axis=1)[:, :5])
    np.testing.assert_allclose(probabilities, np.exp(np.take_along_axis(expected, top, axis=1)), rtol=1e-4)
    assert tree.is_valid(tree.path_codes[best]).all()


@pytest.mark.parametrize("seed", range(3))
def test_where_the_best_nodes_form_a_path_decoding_finds_it(seed):
    tree = random_tree(seed, even=True)
    log_probs = random_scores(tree, 400, seed)
    codes = tree.independent(log_probs)
    valid = tree.is_valid(codes)
    decoded = tree.path_codes[tree.decode(log_probs)[0]]
    assert 0 < valid.sum() < 400
    np.testing.assert_array_equal(decoded[valid], codes[valid])
    assert (decoded[~valid] != codes[~valid]).any(axis=1).all()
    paths = {tuple(codes) for codes in tree.path_codes.tolist()}
    assert valid.tolist() == [tuple(row) in paths for row in codes.tolist()]


def test_one_path_and_no_product():
    tree = Taxonomy((("a", "b"),))
    best, score = tree.decode([np.zeros((0, 1)), np.zeros((0, 1))])
    assert (best.shape, score.shape) == ((0,), (0,))
    assert tree.path_log_probs([np.full((2, 1), -3.0)] * 2).tolist() == [[0], [0]]
    assert tree.top_k([np.zeros((2, 1))] * 2, 5)[1].tolist() == [[1], [1]]


def test_impossible_nodes_are_never_chosen_and_never_make_nan():
    barred = [LOG_PROBS[0], np.array([[-np.inf, 0, -np.inf]]), np.array([[-np.inf, 0.0]])]
    assert TREE.decode(barred)[0].tolist() == [2]
    np.testing.assert_allclose(np.exp(TREE.path_log_probs(barred)).sum(), 1, rtol=1e-6)
    nothing = [np.full((1, count), -np.inf) for count in TREE.levels]
    np.testing.assert_allclose(np.exp(TREE.path_log_probs(nothing)), 1 / 5, rtol=1e-6)


def test_equal_scores_go_to_the_first_path():
    even = [np.zeros((1, count)) for count in TREE.levels]
    assert TREE.decode(even)[0].tolist() == [0]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "found no label path"),
        ([["a"], []], r"found label path \[\], expected a name on each"),
        ([["a"], None], r"found label path \[\]"),
        ([["a", ""]], r"found label path \['a', ''\]"),
        ([["a", None, "b"]], r"found label path \['a', None, 'b'\]"),
    ],
)
def test_paths_that_are_none_are_refused(paths, message):
    with pytest.raises(InputError, match=message):
        Taxonomy.of(pa.array(paths, pa.list_(pa.string())))


@pytest.mark.parametrize("levels", [0, 4])
def test_a_level_that_no_train_row_has_is_refused(levels):
    with pytest.raises(InputError, match=f"found level {levels}, expected 1 to 3: no train row goes deeper"):
        Taxonomy.of(PATHS, levels=levels)


def test_scores_of_another_tree_are_refused():
    for scores in (LOG_PROBS[:2], [*LOG_PROBS[:2], np.zeros((1, 3))], [*LOG_PROBS[:2], np.zeros((2, 2))], []):
        for decode in (TREE.decode, TREE.path_log_probs, TREE.independent):
            with pytest.raises(ValueError, match="log-probabilities per level: found shapes"):
                decode(scores)
