"""Text and label columns of a raw batch, checked and cleaned column by column."""

import json
import re
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from mmbatch.schema import PATH_SEPARATOR

UNCHECKED = pc.CastOptions(target_type=pa.string(), allow_invalid_utf8=True)
"""Casts bytes to text whose UTF-8 is checked later, row by row."""

_CONTROL = r"[^\P{Cc}\n\t]"  # Unicode category Cc without newline and tab
_EXACT = 2.0**53  # largest magnitude up to which every float64 integer is distinct
_JSON_LIST = re.compile(r'\s*\[\s*("|null\b|\])')


class Text(NamedTuple):
    """A text column after its check."""

    values: pa.Array
    """string `[N]`, trimmed, without control characters; null: empty, or not UTF-8."""
    undecodable: np.ndarray
    """bool `[N]`: the bytes are not UTF-8."""


class Labels(NamedTuple):
    """A label column after its check."""

    paths: pa.Array
    """list<string> `[N]`, root first; null: none, or bad."""
    bad: dict[int, str]
    """Row -> what is wrong with its path."""
    undecodable: np.ndarray
    """bool `[N]`: some level is not UTF-8."""


class _Levels(NamedTuple):
    """Label paths laid flat: the names of all rows one after the other."""

    names: pa.Array
    """string `[L]`."""
    rows: np.ndarray
    """int64 `[L]`: the row that each name belongs to, ascending."""


def check_text(column: pa.Array) -> Text:
    """A column of text, bytes or numbers as clean text; a whole float is written as an integer."""
    stored = _as_bytes(column)
    try:
        text, undecodable = stored.cast(pa.string()), np.zeros(len(stored), dtype=bool)
    except pa.ArrowInvalid:
        undecodable = np.array([not _is_utf8(value) for value in stored.to_pylist()])
        text = pc.if_else(pa.array(~undecodable), stored, None).cast(pa.string())
    return Text(_clean(text), undecodable)


def check_labels(columns: list[pa.Array], *, separator: str | None, nothing: str | None = None) -> Labels:
    """Label paths from one column (a list, a joined path, or JSON of a list) or from one column per level.

    A path may end in empty levels; it may have none in between, and no name may contain `schema.PATH_SEPARATOR`. A
    level whose name is `nothing` is empty.
    """
    count = len(columns[0])
    levels, undecodable = _flatten(columns)
    bad: dict[int, str] = {}
    if len(columns) == 1:
        levels = _parse_json(levels, bad)
        if separator is not None:
            levels = _split(levels, separator)
    levels = levels._replace(names=_clean(levels.names))
    if nothing is not None:
        levels = levels._replace(names=pc.if_else(pc.equal(levels.names, nothing), None, levels.names))
    return Labels(_paths(levels, count, bad), bad, undecodable)


def _as_bytes(column: pa.Array) -> pa.Array:
    """Binary `[N]` of text, whose UTF-8 nobody has checked yet, or of numbers."""
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_floating(column.type):
        column = column.cast(pa.float64())
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), _EXACT))
        integers = pc.if_else(whole, column, None).cast(pa.int64()).cast(pa.string())
        column = pc.coalesce(integers, pc.if_else(pc.is_nan(column), None, column).cast(pa.string()))
    elif types.is_integer(column.type) or types.is_decimal(column.type):
        column = column.cast(pa.string())
    return column.cast(pa.binary())


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False


def _clean(text: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(text, _CONTROL)).as_py():  # rare, and three times faster than replacing
        text = pc.replace_substring_regex(text, _CONTROL, " ")
    trimmed = pc.utf8_trim_whitespace(text)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)


def _flatten(columns: list[pa.Array]) -> tuple[_Levels, np.ndarray]:
    """Levels of every row, and which rows are not UTF-8."""
    count = len(columns[0])
    if is_list(columns[0].type):
        stored = columns[0].cast(pa.list_(columns[0].type.value_type))
        rows = pc.list_parent_indices(stored).to_numpy()
        text = check_text(stored.flatten())
    else:
        by_level = [check_text(column) for column in columns]
        order = np.arange(count * len(columns)).reshape(len(columns), count).T.ravel()  # level-major to row-major
        rows = np.repeat(np.arange(count), len(columns))
        text = Text(
            pa.concat_arrays([level.values for level in by_level]).take(pa.array(order)),
            np.concatenate([level.undecodable for level in by_level])[order],
        )
    undecodable = np.zeros(count, dtype=bool)
    undecodable[rows[text.undecodable]] = True
    return _Levels(text.values, rows), undecodable


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is some kind of list."""
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _parse_json(levels: _Levels, bad: dict[int, str]) -> _Levels:
    """Replace each name that is JSON of a list, as CSV files hold lists, by the list's names."""
    if not pc.any(pc.starts_with(levels.names, "[")).as_py():
        return levels
    parsed = []
    for row, name in zip(levels.rows.tolist(), levels.names.to_pylist(), strict=True):
        names = [name]
        if name is not None and _JSON_LIST.match(name):
            try:
                names = _names(json.loads(name))
            except (ValueError, RecursionError) as error:
                bad[row] = f"not a JSON list: {error}: {name[:80]!r}"
        parsed.append(names)
    return _expand(levels, pa.array(parsed, pa.list_(pa.string())))


def _names(items: list[Any]) -> list[str | None]:
    names = [None if item is None else str(item) for item in items]
    "".join(filter(None, names)).encode()  # a lone surrogate, which JSON can spell, is no text
    return names


def _split(levels: _Levels, separator: str) -> _Levels:
    return _expand(levels, pc.split_pattern(pc.fill_null(levels.names, ""), separator))


def _expand(levels: _Levels, names: pa.Array) -> _Levels:
    """Each name replaced by the names of a list, `[L]`."""
    return _Levels(names.flatten(), levels.rows[pc.list_parent_indices(names).to_numpy()])


def _paths(levels: _Levels, count: int, bad: dict[int, str]) -> pa.Array:
    """Lists of the cleaned names up to each row's last one; what is wrong with a path is added to `bad`."""
    names, rows = levels
    filled = names.is_valid().to_numpy(zero_copy_only=False)
    last = np.full(count, -1)
    last[rows[filled]] = np.flatnonzero(filled)  # ascending, so that each row's last filled level stays
    kept = np.arange(len(names)) <= last[rows]
    joined = pc.fill_null(pc.match_substring(names, PATH_SEPARATOR), False).to_numpy(zero_copy_only=False)
    for at in np.flatnonzero(kept & (joined | ~filled)).tolist():
        what = f"level {names[at].as_py()[:80]!r} contains {PATH_SEPARATOR!r}" if filled[at] else "an empty level"
        bad.setdefault(int(rows[at]), f"{what} in the category path")
    is_bad = np.zeros(count, dtype=bool)
    is_bad[list(bad)] = True
    kept &= ~is_bad[rows]
    depth = np.bincount(rows[kept], minlength=count)
    offsets = pa.array(np.concatenate([[0], np.cumsum(depth)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, names.filter(pa.array(kept)), mask=pa.array(depth == 0))
