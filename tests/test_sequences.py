import numpy as np

from mmbatch.sequences import Sequences, offsets_of, take_ragged


def test_takes_the_values_of_rows_in_their_order() -> None:
    values, offsets = np.arange(10) * 10, np.array([0, 3, 3, 4, 10])
    places, lengths = take_ragged(offsets, np.array([2, 0, 1]))
    assert values[places].tolist() == [30, 0, 10, 20]
    assert lengths.tolist() == [1, 3, 0]


def test_rows_are_taken_in_any_order_and_more_than_once() -> None:
    states = np.arange(12, dtype=np.float16).reshape(6, 2)
    sequences = Sequences(states, offsets_of(np.array([1, 0, 3, 2])))
    assert len(sequences) == 4
    taken = sequences.take(np.array([3, 1, 3, 0]))
    assert taken.lengths.tolist() == [2, 0, 2, 1]
    assert taken.states.tolist() == states[[4, 5, 4, 5, 0]].tolist()
    assert taken.states.dtype == np.float16


def test_no_rows_have_no_states() -> None:
    sequences = Sequences(np.ones((3, 2), np.float16), offsets_of(np.array([3])))
    none = sequences.take(np.zeros(0, np.int64))
    assert (len(none), none.states.shape, none.offsets.dtype) == (0, (0, 2), np.int64)
