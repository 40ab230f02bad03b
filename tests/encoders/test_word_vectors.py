import re
from pathlib import Path

import numpy as np
import pytest

from mmbatch.encoders.word_vectors import find_vectors, read_vectors
from mmbatch.errors import InputError

GOOD = b"the 0.5 -1 2e-1\nmug 1 2 3\nlamp 4 5 6\n"


def written(folder: Path, content: bytes) -> Path:
    file = folder / "glove.3d.txt"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("content", [GOOD, GOOD.rstrip(), GOOD.replace(b"\n", b"\r\n"), GOOD.replace(b"\n", b" \n")])
def test_only_the_words_that_are_asked_for_are_kept(tmp_path: Path, content: bytes) -> None:
    found = read_vectors(written(tmp_path, content), ["lamp", "kettle", "the"])
    assert found.words == ["the", "lamp"]
    assert found.vectors.dtype == np.float32
    np.testing.assert_array_equal(found.vectors, np.array([[0.5, -1, 0.2], [4, 5, 6]], np.float32))


def test_no_word_found_is_an_empty_table_of_the_right_width(tmp_path: Path) -> None:
    assert read_vectors(written(tmp_path, GOOD), ["kettle"]).vectors.shape == (0, 3)


def test_the_first_of_two_lines_for_a_word_counts(tmp_path: Path) -> None:
    found = read_vectors(written(tmp_path, GOOD + b"mug 9 9 9\n"), ["mug"])
    np.testing.assert_array_equal(found.vectors, [[1, 2, 3]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r": is empty, expected a word and its numbers on each line"),
        (b"\n", r": line 1: found 1 fields, expected a word and its numbers"),
        (GOOD + b"mug cup 1 2 3\n", r": line 4: found 5 fields, expected a word and 3 numbers, as on line 1"),
        (GOOD + b"cup 1 2\n", r": line 4: found 3 fields, expected a word and 3 numbers, as on line 1"),
        (GOOD + b" 1 2 3\n", r": line 4: found 4 fields, expected a word and 3 numbers"),
        (GOOD + b"\ncup 1 2 3\n", r": line 4: found 1 fields, expected a word and 3 numbers"),
        (GOOD + b"cup 1 nan 3\n", r": line 4, 'cup': number 2 is nan, expected a finite one"),
        (GOOD + b"cup 1 2 1e39\n", r": line 4, 'cup': number 3 is 1e39, expected a finite one"),
        (GOOD + b"cup 1 2 x3\n", r": line 4, 'cup': expected numbers: .*'x3'"),
        (GOOD + b"caf\xe9 1 2 3\n", r": line 4: found bytes b'\\xe9', expected UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = written(tmp_path, content)
    with pytest.raises(InputError, match=re.escape(str(file)) + message):
        read_vectors(file, ["cup"])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: cannot be read: No such file"):
        read_vectors(tmp_path / "none.txt", ["cup"])


def test_the_file_is_found_in_the_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "glove.3d").mkdir()
    file = written(tmp_path / "glove.3d", GOOD)
    assert find_vectors("glove.3d", str(tmp_path)) == file


def test_without_a_folder_it_says_where_to_get_them(no_hub: None) -> None:
    with pytest.raises(InputError, match=r"glove\.6B\.100d are on no hub: get them from nlp\.stanford\.edu.*--weights"):
        find_vectors("glove.6B.100d", None)


@pytest.mark.parametrize(("files", "found"), [((), "none"), (("a.txt", "b.txt"), "a.txt, b.txt")])
def test_one_file_is_expected_in_the_folder(tmp_path: Path, files: tuple[str, ...], found: str) -> None:
    (tmp_path / "glove.3d").mkdir()
    for name in files:
        (tmp_path / "glove.3d" / name).write_bytes(GOOD)
    with pytest.raises(InputError, match=rf"glove\.3d: expected one \.txt file of word vectors, found {found}"):
        find_vectors("glove.3d", str(tmp_path))


def test_reads_a_published_file(real_weights: str) -> None:
    found = read_vectors(find_vectors("glove.6B.50d", real_weights), ["mug", "shirt", "lamp", "qwxz"])
    assert sorted(found.words) == ["lamp", "mug", "shirt"]
    assert found.vectors.shape == (3, 50)
