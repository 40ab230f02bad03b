"""Vectors that came with a catalog in place of its photos: each is kept as the bytes of a NumPy file (`.npy`).

Only one form is written and read: version 1.0 of the format (numpy.lib.format), one axis, little-endian float32. So
vectors of one width all begin with the same bytes, and many are read as one array.

Shapes: N files, G of them usable, W numbers in a vector.
"""

import io
import re
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NPY_MAGIC = b"\x93NUMPY"
"""What every `.npy` file begins with."""

DTYPE = np.dtype("<f4")
"""Little-endian float32: the numbers of a stored vector."""

_HEADER = re.compile(rb"\x93NUMPY\x01\0..\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d+),\), \} *\n", re.S)


@cache
def npy_header(width: int) -> bytes:
    """What stands before the numbers in the file of a vector."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": DTYPE.str, "fortran_order": False, "shape": (width,)})
    return header.getvalue()


def to_npy(vectors_NW: np.ndarray) -> pa.Array:
    """The file of each vector, binary `[N]`; `pa.ArrowInvalid` from 2 GiB on, as Arrow's offsets are 32 bits."""
    rows, width = vectors_NW.shape
    header = np.frombuffer(npy_header(width), np.uint8)
    size = len(header) + DTYPE.itemsize * width
    files = np.empty((rows, size), np.uint8)
    files[:, : len(header)] = header
    files[:, len(header) :] = np.ascontiguousarray(vectors_NW, DTYPE).view(np.uint8)
    offsets = pa.array(np.arange(rows + 1) * size, pa.int32())
    return pa.Array.from_buffers(pa.binary(), rows, [None, offsets.buffers()[1], pa.py_buffer(files)])


def from_npy(files: pa.ChunkedArray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors float32 `[G, W]` of the files `[N]` that hold `width` numbers, and their rows, int64 `[G]`."""
    header = npy_header(width)
    size = len(header) + DTYPE.itemsize * width
    rows = np.flatnonzero(pc.fill_null(pc.equal(pc.binary_length(files), size), False))
    joined = b"".join(files.take(pa.array(rows)).to_pylist())
    bytes_GS = np.frombuffer(joined, np.uint8).reshape(len(rows), size)
    same = (bytes_GS[:, : len(header)] == np.frombuffer(header, np.uint8)).all(axis=1)
    numbers = np.ascontiguousarray(bytes_GS[same, len(header) :])
    return numbers.view(DTYPE).reshape(len(numbers), width), rows[same]


def why_not(file: bytes, width: int) -> tuple[str, str]:
    """Reason code and message for a file that `from_npy` does not take."""
    header = _HEADER.match(file)
    if header is None:
        return "image_not_vector", f"starts with {file[:8]!r}; expected a vector (.npy) that came with the catalog"
    if int(header[1]) != width:
        return "image_vector_width", f"{int(header[1]):,} numbers, expected {width:,}"
    expected = len(npy_header(width)) + DTYPE.itemsize * width
    return "image_truncated", f"a vector of {width:,} numbers in {len(file):,} bytes, expected {expected:,}"
