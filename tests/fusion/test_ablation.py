import numpy as np

from mmbatch.fusion.ablation import AT_A_TIME, ablate


def test_of_a_sum_every_part_is_worth_what_it_adds() -> None:
    worth = np.linspace(-1, 1, 2 * AT_A_TIME + 3).astype(np.float32)
    asked: list[int] = []

    def score(kept_VP: np.ndarray) -> np.ndarray:
        asked.append(len(kept_VP))
        return np.asarray(kept_VP @ worth, np.float32)

    np.testing.assert_allclose(ablate(score, len(worth)), worth, atol=1e-5)
    assert max(asked) <= AT_A_TIME


def test_a_part_that_another_stands_in_for_is_worth_nothing() -> None:
    def either(kept_VP: np.ndarray) -> np.ndarray:
        return np.asarray(kept_VP[:, :2].any(axis=1) * 1.0 + kept_VP[:, 2], np.float32)

    assert ablate(either, 3).tolist() == [0, 0, 1]


def test_nothing_has_no_parts() -> None:
    assert ablate(lambda kept_VP: np.zeros(len(kept_VP), np.float32), 0).tolist() == []
