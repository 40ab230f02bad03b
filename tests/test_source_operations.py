import numpy as np
import pyarrow as pa
import pytest

from mmbatch.source_operations import DELETES, SKIPPED, UPSERTS, check_operations, upserts


@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title, lambda word: f" {word} "])
def test_every_word_in_any_case(spell):
    found = check_operations(pa.array([spell(word) for word in (*UPSERTS, *DELETES, *SKIPPED)]))
    upserted = ~found.deleted & ~found.skipped
    assert (upserted.sum(), found.deleted.sum(), found.skipped.sum()) == (len(UPSERTS), len(DELETES), len(SKIPPED))
    assert found.deleted[len(UPSERTS) : -1].all()
    assert found.skipped[-1]
    assert (found.bad, found.undecodable.any()) == ({}, False)


def test_words_that_are_none_and_bytes_that_are_no_text():
    found = check_operations(pa.array([b"truncate", b"", None, b"\xff", b"d"], pa.binary()))
    assert list(found.bad) == [0, 1, 2]
    assert found.bad[0].startswith("operation 'truncate'; expected one of insert, i, create, c")
    assert found.bad[1].startswith("operation is empty; expected one of")
    np.testing.assert_array_equal(found.undecodable, [False, False, False, True, False])
    np.testing.assert_array_equal(found.deleted, [False, False, False, False, True])


def test_a_source_without_operations():
    found = upserts(3)
    assert (len(found.deleted), found.deleted.any(), found.skipped.any(), found.bad) == (3, False, False, {})
