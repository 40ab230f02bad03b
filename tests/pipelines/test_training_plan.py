"""The order of training is known in advance, the same for any number of workers, and pads little."""

import numpy as np
import pandas as pd
import pytest

from mmbatch.pipelines.training_plan import LENGTH_POOL, SplitRows, TrainingPlan

BATCH = 4


def rows(count: int, *, buckets: int, seed: int = 0) -> SplitRows:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "product_id": [f"p{number:05d}" for number in range(count)],
            "bucket": rng.integers(0, buckets, count),
            "content_hash": [f"{number:032x}" for number in range(count)],
            "code": rng.choice(3, count, p=[0.8, 0.15, 0.05]),
            "split": "train",
        }
    )
    return SplitRows.of(frame, "train")


def plan(count: int = 2_000, *, buckets: int = 16, shuffled: bool = True, balanced: bool = False) -> TrainingPlan:
    lengths = np.random.default_rng(1).integers(5, 120, count)
    return TrainingPlan(
        rows(count, buckets=buckets), lengths, BATCH, 7, shuffled, "balanced" if balanced else "natural"
    )


def epoch_of(made: TrainingPlan, epoch: int) -> list[np.ndarray]:
    return [batch for unit in made.order(epoch) for batch in made.batches(epoch, unit)]


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize(("count", "buckets"), [(2_000, 16), (2_000, 1), (7, 16), (1, 1), (401, 300)])
def test_an_epoch_holds_every_row_once_in_the_announced_steps(count: int, buckets: int, shuffled: bool) -> None:
    made = plan(count, buckets=buckets, shuffled=shuffled)
    batches = epoch_of(made, 3)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert len(batches) == made.steps
    assert max(map(len, batches)) <= BATCH


def test_units_are_whole_buckets_with_a_pool_of_rows_at_least() -> None:
    made = plan()
    assert len(made.units) > 1
    for unit in made.units:
        assert unit.stop - unit.start >= LENGTH_POOL * BATCH
        for edge in (unit.start, unit.stop):
            assert edge in (0, 2_000) or made.rows.buckets[edge - 1] != made.rows.buckets[edge]


def test_no_rows_are_no_steps() -> None:
    nothing = np.zeros(0, np.int32)
    made = TrainingPlan(SplitRows(nothing, nothing.astype("S32"), nothing), nothing, BATCH, 0, True)
    assert (made.steps, made.order(0)) == (0, [])


def test_epochs_differ_and_an_epoch_is_always_the_same() -> None:
    made, again = plan(), plan()
    first, second = np.concatenate(epoch_of(made, 0)), np.concatenate(epoch_of(made, 1))
    assert (first != second).any()
    np.testing.assert_array_equal(first, np.concatenate(epoch_of(again, 0)))


def test_rows_that_are_only_scored_keep_their_order() -> None:
    made = plan(shuffled=False)
    np.testing.assert_array_equal(np.concatenate(epoch_of(made, 0)), np.concatenate(epoch_of(made, 5)))


def test_like_lengths_go_together_in_random_order() -> None:
    made = plan()
    assert made.padding() < 0.03
    longest = [made.lengths[batch].max() for batch in epoch_of(made, 0)]
    assert longest != sorted(longest)


def test_balanced_sampling_shows_every_class_about_equally_often() -> None:
    natural = np.bincount(plan().rows.codes[np.concatenate(epoch_of(plan(), 0))])
    made = plan(balanced=True)
    balanced = np.bincount(made.rows.codes[np.concatenate(epoch_of(made, 0))])
    assert natural.min() < 150
    np.testing.assert_allclose(balanced, 2_000 / 3, rtol=0.15)
    assert len(epoch_of(made, 0)) == made.steps


def test_class_weights_are_inverse_shares_with_a_mean_of_one() -> None:
    found = SplitRows(np.zeros(4, np.int32), np.zeros(4, "S32"), np.array([0, 0, 0, 2], np.int32)).class_weights(3)
    np.testing.assert_allclose(found, [2 / 3, 0, 2])
