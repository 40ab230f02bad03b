"""Pretrained word vectors in GloVe's text format: a word and its numbers on each line, separated by one space."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmbatch.encoders.pretrained import WEIGHTS_VARIABLE, find_weights
from mmbatch.errors import InputError


class WordVectors(NamedTuple):
    """Some words and their vectors."""

    words: list[str]
    """In the file's order: the most frequent first, in GloVe's files."""
    vectors: np.ndarray
    """float32 `[W, E]`."""


def find_vectors(name: str, weights: str | None) -> Path:
    """The one `.txt` file in the folder `name` of `--weights` (`find_weights`); there is no hub of GloVe's files.

    Raises `InputError` when no folder was named, or the one file is not there.
    """
    folder = find_weights(name, weights)
    if folder is None:
        raise InputError(
            f"word vectors {name} are on no hub: get them from nlp.stanford.edu/projects/glove,"
            f" put {name}.txt into FOLDER/{name}/ and name FOLDER by --weights (or {WEIGHTS_VARIABLE})"
        )
    files = sorted(folder.glob("*.txt"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise InputError(f"{folder}: expected one .txt file of word vectors, found {found}")
    return files[0]


def read_vectors(file: Path, words: Collection[str]) -> WordVectors:
    """The vectors of those `words` that the file has; its other lines are checked for their width only.

    Raises `InputError`, naming file and line, where a line is not UTF-8, has another width than the first one (as a
    word with a space in it has), or holds anything but finite numbers; and where the file is empty.
    """
    wanted = frozenset(words)
    kept: dict[str, np.ndarray] = {}
    width = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{file}: line {number}"
                word, *numbers = _text(line, where).split(" ")
                width = width or len(numbers)
                if not word or not width or len(numbers) != width:
                    raise InputError(
                        f"{where}: found {len(numbers) + 1} fields, expected {_expected(width)}, separated by one space"
                    )
                if word in wanted and word not in kept:
                    kept[word] = _vector(numbers, f"{where}, {word!r}")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    if not width:
        raise InputError(f"{file}: is empty, expected {_expected(width)} on each line")
    return WordVectors(list(kept), np.array(list(kept.values()), np.float32).reshape(len(kept), width))


def _expected(width: int) -> str:
    return f"a word and {width} numbers, as on line 1" if width else "a word and its numbers"


def _text(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8").rstrip("\r\n ")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: found bytes {error.object[error.start : error.end]!r}, expected UTF-8") from error


def _vector(numbers: list[str], where: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # reported below
            vector = np.array(numbers, np.float32)
    except ValueError as error:
        raise InputError(f"{where}: expected numbers: {error}") from error
    if not np.isfinite(vector).all():
        bad = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise InputError(f"{where}: number {bad + 1} is {numbers[bad]}, expected a finite one of float32")
    return vector
