"""Edits of a taxonomy: categories renamed, merged, split and removed, as an operator writes them into a file."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy_paths import LabelPath
from mmbatch.schema import PATH_SEPARATOR
from mmbatch.storage import filesystem_of, storage_errors

Edits = Mapping[LabelPath, tuple[LabelPath, ...]]
"""Old path -> new paths: none where the category is removed, one where it is renamed or merged into another that has
or gets this path, several where it is split. All edits happen at once: old paths are those of the tree before, new ones
those of the tree after. An edit of a node moves everything below it too, but for what has an edit of its own."""

CSV_COLUMNS = ["old", "new"]


def read_edits(uri: str) -> dict[LabelPath, tuple[LabelPath, ...]]:
    """The edits in a file, by its name's ending; levels of a path are joined by " > ".

        JSON  {"Home > Sofa": "Home > Couch", "Toys": ["Games", "Dolls"], "Fax": null}
        CSV   header old,new; one row per new path, so several for a split; no new path where the category is removed

    Raises:
        InputError: the file cannot be read, is neither, names an old or a new path twice, or holds an empty path.
    """
    readers = {".json": _from_json, ".csv": _from_csv}
    ending = uri[uri.rfind(".") :].lower()
    if ending not in readers:
        raise InputError(f"{uri}: found a file ending in {ending!r}, expected .json or .csv")
    filesystem, path = filesystem_of(uri)
    try:
        with storage_errors():
            text = filesystem.cat_file(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{uri}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{uri}: cannot be read: {error}") from error
    return _edits(readers[ending](text, uri), uri)


def check_edits(edits: Edits, *, paths: Iterable[LabelPath]) -> None:
    """Whether edits can be applied to the tree of these category paths.

    Raises:
        InputError: an old path is no node of the tree, edits form a cycle, a new path is empty or given twice, or a
            node is split that has categories below it, each of which would have several parents.
    """
    nodes = {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
    inner = {node[:-1] for node in nodes}
    for old, new in edits.items():
        if old not in nodes:
            raise InputError(f"taxonomy edits: old path {shown(old)!r} is unknown, expected a path of the taxonomy")
        if not all(path and all(path) for path in new):
            raise InputError(f"taxonomy edits: {shown(old)!r} gets an empty new path, expected a name on every level")
        _refuse_twice(new, f"taxonomy edits: {shown(old)!r}: new path")
        if len(new) > 1 and old in inner:
            raise InputError(
                f"taxonomy edits: {shown(old)!r} is split but has categories below it, which would have "
                f"{len(new)} parents; expected an edit of each of them instead"
            )
    try:
        TopologicalSorter({old: [path for path in new if path != old] for old, new in edits.items()}).prepare()
    except CycleError as error:
        cycle = " -> ".join(repr(shown(path)) for path in reversed(error.args[1]))
        raise InputError(f"taxonomy edits: cycle {cycle}; expected edits one after the other, in two files") from None


def moved(path: LabelPath, edits: Edits) -> tuple[LabelPath, ...]:
    """What becomes of a path: the edit of its deepest edited node is applied; the path itself where none is edited.

    A path that is below its node, and at or below one of the node's new paths, is there already and stays.
    """
    for depth in range(len(path), 0, -1):
        if path[:depth] in edits:
            new_paths = edits[path[:depth]]
            if depth < len(path) and any(path[: len(new)] == new for new in new_paths):
                return (path,)
            return tuple(new + path[depth:] for new in new_paths)
    return (path,)


def edits_to_json(edits: Edits) -> str:
    """The text of a JSON file of these edits, as `read_edits` reads it."""
    content = {shown(old): [shown(path) for path in new] or None for old, new in edits.items()}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def shown(path: LabelPath) -> str:
    """A path as one string, as files of edits and messages have it."""
    return PATH_SEPARATOR.join(path)


def _from_json(text: str, uri: str) -> list[tuple[str, list[str]]]:
    try:
        content = json.loads(text, object_pairs_hook=list)
    except ValueError as error:
        raise InputError(f"{uri}: not JSON: {error}") from error
    if not isinstance(content, list) or not all(isinstance(pair, tuple) for pair in content):
        raise InputError(f'{uri}: expected one JSON object {{"old path": "new path", ...}}')
    pairs = []
    for old, value in content:
        new = {str: [value], type(None): []}.get(type(value), value)
        if not isinstance(new, list) or not all(isinstance(path, str) for path in new):
            raise InputError(f"{uri}: new path of {old!r} is {value!r}, expected a path, a list of paths, or null")
        if value == []:
            raise InputError(f"{uri}: new path of {old!r} is an empty list, expected null where it is removed")
        pairs.append((old, new))
    return pairs


def _from_csv(text: str, uri: str) -> list[tuple[str, list[str]]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise InputError(f"{uri}: cannot be split into rows: {error}") from error
    if not rows or rows[0] != CSV_COLUMNS:
        raise InputError(f"{uri}: found header {rows[:1]}, expected {CSV_COLUMNS}")
    grouped: dict[str, list[str]] = {}
    for row in rows[1:]:
        if len(row) != len(CSV_COLUMNS):
            raise InputError(f"{uri}: found row {row}, expected an old and a new path")
        grouped.setdefault(row[0], []).append(row[1])
    for old, new in grouped.items():
        if len(new) > 1 and "" in new:
            raise InputError(f"{uri}: {old!r} has {len(new)} rows, one without a new path; expected one such row only")
    return [(old, [path for path in new if path]) for old, new in grouped.items()]


def _edits(pairs: list[tuple[str, list[str]]], uri: str) -> dict[LabelPath, tuple[LabelPath, ...]]:
    edits = [(_path(old, uri), tuple(_path(path, uri) for path in new)) for old, new in pairs]
    _refuse_twice((old for old, _ in edits), f"{uri}: old path")
    for old, new in edits:
        _refuse_twice(new, f"{uri}: {shown(old)!r}: new path")
    return dict(edits)


def _path(text: str, uri: str) -> LabelPath:
    names = tuple(name.strip() for name in text.split(PATH_SEPARATOR))
    if not all(names):
        raise InputError(f"{uri}: path {text!r} has an empty name, expected a name on every level")
    return names


def _refuse_twice(paths: Iterable[LabelPath], what: str) -> None:
    (path, times), *_ = Counter(paths).most_common(1) or [((), 0)]
    if times > 1:
        raise InputError(f"{what} {shown(path)!r} appears {times} times, expected once")
