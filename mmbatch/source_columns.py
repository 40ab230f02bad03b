"""Whether the columns of typed files, Parquet and HDF5, can hold what they are named for."""

import pyarrow as pa
from pyarrow import types

from mmbatch.errors import InputError
from mmbatch.source_text import is_list
from mmbatch.source_types import Columns
from mmbatch.source_vectors import is_vector


def check_types(uri: str, found: dict[str, pa.DataType], columns: Columns) -> None:
    """Raise `InputError` for a named column whose type cannot hold its content; one that is missing is passed over."""
    for name in columns.names():
        if name in found:
            _check_type(uri, name, found[name], columns)


def _check_type(uri: str, name: str, found: pa.DataType, columns: Columns) -> None:
    kind = found.value_type if types.is_dictionary(found) else found
    allowed = _is_text(kind)
    if name == columns.image_vector:
        allowed = is_vector(found)
    elif name == columns.image:
        allowed = allowed or _is_image(kind)
    elif columns.label == (name,):
        allowed = allowed or (is_list(kind) and _is_text(kind.value_type))
    if not allowed:
        role = {
            columns.image: "image bytes, {bytes, path}, paths or lists of paths",
            columns.image_vector: "lists of float16, float32 or float64",
        }.get(name, "text or numbers")
        raise InputError(f"{uri}: column {name!r} is of type {found}; expected {role}")


def _is_text(kind: pa.DataType) -> bool:
    tests = (
        types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary,
        types.is_binary_view, types.is_integer, types.is_floating, types.is_decimal, types.is_null,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def _is_image(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        return {kind.field(index).name for index in range(kind.num_fields)} >= {"bytes", "path"}
    return is_list(kind) and _is_text(kind.value_type)
