import numpy as np
import pyarrow as pa
import pytest

from mmbatch import schema
from mmbatch.errors import InputError
from mmbatch.sequence_store import SequenceStore
from mmbatch.sequences import Sequences, offsets_of
from mmbatch.tables import FileEntry
from mmbatch.workspace import Settings, Workspace

WIDTH = 3
LENGTHS = {"h1": 4, "h2": 1, "h3": 2, "h4": 7}


@pytest.fixture
def store(tmp_path) -> SequenceStore:
    settings = Settings(preset="sample", level=1, seed=0, buckets=4)
    return SequenceStore(workspace=Workspace.create(str(tmp_path / "w"), settings), encoder="e@1", width=WIDTH)


def sequence(content: str) -> np.ndarray:
    """The states of a content: its own noise."""
    noise = np.random.default_rng(int(content[1:])).normal(size=(LENGTHS[content], WIDTH))
    return noise.astype(np.float16)


def sequences(*contents: str) -> Sequences:
    states = np.concatenate([sequence(content) for content in contents])
    return Sequences(states, offsets_of(np.array([LENGTHS[content] for content in contents])))


def write(store: SequenceStore, *contents: str, bucket: int) -> FileEntry:
    names = pa.array([f"product of {content}" for content in contents])
    return store.write(names, pa.array(contents), sequences(*contents), bucket=bucket)


def rows(found: Sequences) -> list[list[list[float]]]:
    return [part.tolist() for part in np.split(found.states, found.offsets[1:-1])]


def test_sequences_come_back_bit_for_bit_in_the_asked_order(store: SequenceStore) -> None:
    files = [write(store, "h1", "h2", bucket=0), write(store, "h4", bucket=0), write(store, "h3", bucket=1)]
    store.table.commit(files, app_id="run")
    found = store.read(pa.chunked_array([["h4", None, "h1"], ["hx", "h3", "h2", "h1"]]), buckets=[0])
    assert found.lengths.tolist() == [7, 0, 4, 0, 0, 1, 4]
    expected = [sequence(name).tolist() if name else [] for name in ("h4", "", "h1", "", "", "h2", "h1")]
    assert rows(found) == expected
    assert (found.states.dtype, found.states.flags.writeable) == (np.float16, True)
    both = store.read(pa.array(["h3", "h4"]), buckets=[0, 1])
    assert rows(both) == [sequence("h3").tolist(), sequence("h4").tolist()]


@pytest.mark.parametrize("committed", [False, True])
def test_nothing_found_is_empty(store: SequenceStore, committed: bool) -> None:
    if committed:
        store.table.commit([write(store, "h1", bucket=0)], app_id="run")
    found = store.read(pa.array(["hx", None], pa.string()), buckets=[0])
    assert (found.states.shape, found.offsets.tolist()) == ((0, WIDTH), [0, 0, 0])
    assert store.read(pa.array([], pa.string()), buckets=[0]).offsets.tolist() == [0]


def test_the_part_of_a_larger_array_is_stored_alone(store: SequenceStore) -> None:
    part = sequences("h1", "h2", "h3").take(np.array([2]))
    store.table.commit([store.write(pa.array(["p"]), pa.array(["h3"]), part, bucket=0)], app_id="run")
    (row,) = store.table.read().to_pylist()
    assert row == {
        "product_id": "p",
        "content_hash": "h3",
        "length": 2,
        "states": sequence("h3").astype("<f2").tobytes(),
        "bucket": 0,
    }
    assert store.table.read().schema.field("states").type == pa.large_binary()


def test_a_row_takes_two_bytes_a_number(store: SequenceStore) -> None:
    wide = SequenceStore(workspace=store.workspace, encoder="minilm@1", width=384)
    rows, tokens = 50, 64
    noise = np.random.default_rng(0).normal(size=(rows * tokens, 384)).astype(np.float16)
    names = pa.array([f"p{row}" for row in range(rows)])
    entry = wide.write(names, names, Sequences(noise, offsets_of(np.full(rows, tokens))), bucket=0)
    assert 49_152 < entry.size / rows < 1.01 * 49_152


@pytest.mark.parametrize(
    ("states", "lengths", "message"),
    [
        (
            np.zeros((2, 2), np.float16),
            [2],
            r"e@1: found 1 sequences of float16 \[2, 2\], expected 1 of float16 \[T, 3\]",
        ),
        (np.zeros((2, 3), np.float32), [2], r"found 1 sequences of float32 \[2, 3\]"),
        (np.zeros((2, 3), np.float16), [1, 1], "found 2 sequences"),
        (np.zeros((0, 3), np.float16), [0], r"e@1: sequences \[0\] are empty"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(
    store: SequenceStore, states: np.ndarray, lengths: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.write(pa.array(["a"]), pa.array(["h"]), Sequences(states, offsets_of(np.array(lengths))), bucket=0)


def test_states_of_another_length_than_the_table_says_are_an_error(store: SequenceStore) -> None:
    row = {"product_id": "p", "content_hash": "h1", "length": 2, "states": b"12345678", "bucket": 0}
    entry = store.table.write_file(pa.Table.from_pylist([row], schema=schema.SEQUENCES), bucket=0)
    store.table.commit([entry], app_id="run")
    with pytest.raises(InputError, match=r"e@1: found 8 bytes of states in a row of length 2, expected 6 each"):
        store.read(pa.array(["h1"]), buckets=[0])
