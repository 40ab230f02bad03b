import numpy as np
import pyarrow as pa
import pytest

from mmbatch.schema import SPLITS
from mmbatch.splits import content_groups, draw_splits

TRAIN, FUSION, CALIBRATION, GOLDEN, TEST = range(5)


def draw(classes: list[int], *, text=None, image=None, drawn=None, seed: int = 0, ids=None) -> np.ndarray:
    n = len(classes)
    return draw_splits(
        product_ids=pa.array(ids or [f"p{i}" for i in range(n)]),
        classes=np.array(classes),
        text_hashes=pa.array(text or [f"t{i}" for i in range(n)], pa.string()),
        image_hashes=pa.array(image or [None] * n, pa.string()),
        drawn=np.array(drawn if drawn is not None else [-1] * n),
        seed=seed,
    )


def test_shares_are_70_10_5_5_10_in_every_class() -> None:
    classes = [0] * 700 + [1] * 200 + [2] * 40
    split = draw(classes)
    assert SPLITS == ("train", "fusion", "calibration", "golden", "test")
    for code, size in ((0, 700), (1, 200), (2, 40)):
        counts = np.bincount(split[np.array(classes) == code], minlength=5)
        assert counts.tolist() == [size * 7 // 10, size // 10, size // 20, size // 20, size // 10]


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, [1, 0, 0, 0, 0]), (2, [2, 0, 0, 0, 0]), (3, [1, 1, 0, 0, 1]), (20, [14, 2, 1, 1, 2])],
)
def test_small_classes_are_stratified_as_far_as_they_allow(size: int, expected: list[int]) -> None:
    assert np.bincount(draw([0] * size), minlength=5).tolist() == expected


@pytest.mark.parametrize("sampled", [CALIBRATION, GOLDEN])
def test_small_classes_have_their_part_in_the_sampled_rows(sampled: int) -> None:
    """In the mean a twentieth of them; of a class of three there is none to spare."""
    classes = np.repeat(np.arange(2_000), 6)
    split = draw(classes.tolist())
    found = np.bincount(classes[split == sampled], minlength=2_000)
    assert set(found) == {0, 1}
    assert found.sum() == pytest.approx(0.05 * len(classes), rel=0.1)
    assert (np.bincount(classes[split == TRAIN], minlength=2_000) >= 2).all()
    assert (draw(np.repeat(np.arange(500), 3).tolist()) != sampled).all()


def test_the_draw_depends_on_the_seed_and_on_nothing_else() -> None:
    first = draw([0] * 100)
    assert (first == draw([0] * 100)).all()
    assert (first != draw([0] * 100, seed=1)).any()
    ids = [f"p{i}" for i in range(100)][::-1]
    assert (draw([0] * 100, ids=ids)[::-1] == first).all()


def test_equal_text_or_image_is_always_on_one_side_even_through_a_chain() -> None:
    text = [f"t{i // 2}" for i in range(300)]
    image = [f"i{(i + 1) // 2 % 100}" if i % 6 else None for i in range(300)]
    groups = content_groups(pa.array(text), pa.array(image))
    split = draw([i % 3 for i in range(300)], text=text, image=image)
    for group in np.unique(groups):
        assert len(set(split[groups == group])) == 1
    assert set(split) == {TRAIN, FUSION, CALIBRATION, TEST}


def test_products_without_a_modality_are_not_equal_to_each_other() -> None:
    groups = content_groups(pa.array([None, None, "a"], pa.string()), pa.array([None, "b", None], pa.string()))
    assert len(set(groups)) == 3


def test_a_placeholder_image_does_not_tie_products_together() -> None:
    n = 2_000
    split = draw([0] * n, image=["no photo"] * n)
    assert np.bincount(split, minlength=5).tolist() == [1400, 200, 100, 100, 200]


def test_a_split_is_never_drawn_twice_and_new_rows_fill_up_the_shares() -> None:
    first = draw([0] * 100)
    drawn = np.concatenate([first, np.full(100, -1)])
    second = draw([0] * 200, drawn=drawn)
    assert (second[:100] == first).all()
    assert np.bincount(second).tolist() == [140, 20, 10, 10, 20]


def test_a_new_product_equal_to_a_drawn_one_takes_its_split() -> None:
    split = draw([0, 0, 0, 0], text=["a", "b", "a", "b"], drawn=[TEST, FUSION, -1, -1])
    assert split.tolist() == [TEST, FUSION, TEST, FUSION]
