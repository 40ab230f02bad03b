import numpy as np
import pytest
import torch

from mmbatch.fusion.padding import pad_sequences
from mmbatch.sequences import Sequences, offsets_of
from tests.fusion.heads import make_head


def ragged(*lengths: int, width: int = 3) -> Sequences:
    noise = np.random.default_rng(sum(lengths)).normal(size=(sum(lengths), width))
    return Sequences(noise.astype(np.float16), offsets_of(np.array(lengths, np.int64)))


@pytest.mark.parametrize("lengths", [(2, 0, 3, 1), (1, 1), (0, 4), (5,)])
def test_each_sequence_stands_at_the_start_of_its_row(lengths: tuple[int, ...]) -> None:
    sequences = ragged(*lengths)
    features, present = pad_sequences(sequences, "cpu")
    assert (features.dtype, present.dtype) == (torch.float32, torch.bool)
    assert features.shape == (len(lengths), max(lengths), 3)
    for row, length in enumerate(lengths):
        assert present[row].tolist() == [position < length for position in range(max(lengths))]
        own = sequences.states[sequences.offsets[row] : sequences.offsets[row + 1]]
        assert features[row, :length].tolist() == own.tolist()
        assert not features[row, length:].any()


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_products_without_a_sequence_have_one_position_that_is_not_present(rows: int) -> None:
    features, present = pad_sequences(ragged(*[0] * rows), "cpu")
    assert features.shape == (rows, 1, 3)
    assert present.tolist() == [[False]] * rows


def test_read_only_states_are_taken() -> None:
    sequences = ragged(2, 1)
    sequences.states.flags.writeable = False
    features, _ = pad_sequences(sequences, "cpu")
    assert features[1, 0].tolist() == sequences.states[2].tolist()


def test_a_head_takes_what_was_padded_and_no_padding_changes_it() -> None:
    head = make_head("cross-attention").eval()
    inputs = {
        "image": ragged(4, 0, 2, width=10),
        "text@1.0": ragged(3, 1, 0, width=6),
        "words": ragged(0, 0, 0, width=4),
    }
    padded = {name: pad_sequences(sequences, "cpu") for name, sequences in inputs.items()}
    together = head(*({name: pair[part] for name, pair in padded.items()} for part in (0, 1)))
    for row in range(3):
        own = {name: pad_sequences(sequences.take(np.array([row])), "cpu") for name, sequences in inputs.items()}
        alone = head(*({name: pair[part] for name, pair in own.items()} for part in (0, 1)))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)
