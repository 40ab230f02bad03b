"""The Rakuten challenge's folder, as it is handed out, made one table of products.

Text and codes lie in two files that a row number joins, products to predict in further ones, photos in folders beside.
A category path is the top level category and the code where the folder has the file that relates the two, else the
code alone: as many paths as codes either way.
"""

import hashlib
import io
from collections.abc import Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmbatch import source_csv
from mmbatch.errors import InputError
from mmbatch.source_rakuten_files import Challenge, Issue
from mmbatch.source_text import check_text
from mmbatch.source_types import Columns
from mmbatch.storage import create_file, filesystem_of, make_folder

COMBINED = pa.schema(
    [
        ("productid", pa.string()),
        ("designation", pa.string()),  # title
        ("description", pa.string()),
        ("image", pa.string()),  # URI of the photo, whether or not it is there; null: the product has no image id
        ("prdtypecode", pa.list_(pa.string())),  # [top level category, code], or [code]; null: a product to predict
    ]
)
"""What `combine` writes, one row per product: labelled ones in the order of X, then those to predict."""

_TAXONOMY_COLUMNS = ("Prdtypecode", "Top level category")
_GROUP_ROWS = 10_000  # of a row group: what one worker reads, with its photos
_SHOWN = 3  # ids that a message names


def combine(challenge: Challenge, target: str) -> str:
    """Write all products of the challenge as one Parquet file (`COMBINED`) in the folder `target`; returns its URI.

    The file is named by its content: the same products again are the same file, and one that is read never changes.
    Texts are held in memory, photos are not opened. Raises `InputError` for a file without rows or without a column,
    ids that are missing or come twice, X and Y of different ids, and a code without a top level category.
    """
    train, test = (_photos(challenge.folder, name) for name in challenge.issue.photos)
    rows, labelled = _products(challenge.products, challenge.issue, train)
    place = COMBINED.get_field_index("prdtypecode")
    parts = {challenge.products: labelled.set_column(place, COMBINED.field(place), _paths(challenge, rows))}
    parts |= {file: _products(file, challenge.issue, test)[1] for file in challenge.tests}
    table = pa.concat_tables(parts.values())
    _check_apart(challenge, parts, table["productid"].combine_chunks())
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=_GROUP_ROWS)
    uri = f"{target}/rakuten-{hashlib.blake2b(sink.getbuffer(), digest_size=8).hexdigest()}.parquet"
    make_folder(target)
    with suppress(FileExistsError):
        create_file(uri, sink.getvalue())
    return uri


def read_table(file: str, expected: Sequence[str]) -> pa.Table:
    """A CSV or TSV file whole: text `[N]` as it stands there, by the file's own names, which have these among them.

    Names are compared without their case; UTF-8 is not checked. Raises `InputError` for a missing column, a file
    without rows, and a row that cannot be split into columns.
    """
    header = source_csv.read_header(file, Columns(id=expected[0], label=tuple(expected)))
    names = list(header.columns)
    if not names:
        raise InputError(f"{file}: the file is empty; expected columns {list(expected)}")
    lowered = [name.lower() for name in names]
    wrong = [name for name in expected if lowered.count(name.lower()) != 1]
    if wrong:
        listed = ", ".join(map(_called, wrong))
        raise InputError(f"{file}: column {listed} is missing or comes twice; found {names}, expected {list(expected)}")
    if not header.has_rows:
        raise InputError(f"{file}: found no rows, only a header; expected one for each product")
    batches = list(source_csv.read_batches(file, Columns(id=names[0], label=tuple(names))))
    for bad in (reject for batch in batches for reject in batch.rejects):
        raise InputError(f"{file}: row {bad.position} has {bad.message}")
    return pa.concat_tables([batch.table for batch in batches])


def column_named(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column that the table has, whatever the case of its name."""
    return table[next(own for own in table.column_names if own.lower() == name.lower())]


def filled(file: str, table: pa.Table, name: str) -> pa.Array:
    """A column of `read_table`, string `[N]`, trimmed; `InputError` where a row of it is empty or not UTF-8."""
    values = _text(table, name)
    if values.null_count:
        raise InputError(f"{file}: {values.null_count:,} of {len(values):,} rows have no usable {_called(name)}")
    return values


def codes_of(challenge: Challenge) -> tuple[pa.Array, pa.Array]:
    """Row numbers and codes of Y, string `[N]` each; `InputError` for one that is missing or a row that comes twice."""
    issue = challenge.issue
    table = read_table(challenge.labels, (issue.row, issue.code))
    return _unique(challenge.labels, table, issue.row), filled(challenge.labels, table, issue.code)


def _products(file: str, issue: Issue, photos: str) -> tuple[pa.Array, pa.Table]:
    """Row numbers of one file and its products, `COMBINED`, without labels."""
    table = read_table(file, (issue.row, issue.title, issue.description, issue.image, issue.product))
    products, images = filled(file, table, issue.product), _text(table, issue.image)
    columns = {
        "productid": products,
        "designation": column_named(table, issue.title),
        "description": column_named(table, issue.description),
        "image": pc.binary_join_element_wise(f"{photos}/image_", images, "_product_", products, ".jpg", ""),
        "prdtypecode": pa.nulls(len(products), COMBINED.field("prdtypecode").type),
    }
    return _unique(file, table, issue.row), pa.table(columns, schema=COMBINED)


def _paths(challenge: Challenge, rows: pa.Array) -> pa.Array:
    """Category path of each row number of X, list<string> `[N]`."""
    labelled, codes = codes_of(challenge)
    unknown = labelled.filter(pc.invert(pc.is_in(labelled, value_set=rows)))
    missing = rows.filter(pc.invert(pc.is_in(rows, value_set=labelled)))
    if len(unknown) or len(missing):
        raise InputError(
            f"{challenge.labels}: found {_some(missing)} of {challenge.issue.products} left out and {_some(unknown)}"
            f" unknown there; expected the same {_called(challenge.issue.row)} in both"
        )
    names = codes.unique()
    tops = [None] * len(names) if challenge.taxonomy is None else _top_levels(challenge, challenge.taxonomy, names)
    paths = [[code] if top is None else [top, code] for top, code in zip(tops, names.to_pylist(), strict=True)]
    known = pa.array(paths, COMBINED.field("prdtypecode").type)
    return known.take(pc.index_in(codes.take(pc.index_in(rows, value_set=labelled)), value_set=names))


def _top_levels(challenge: Challenge, file: str, codes: pa.Array) -> list[str]:
    """Top level category of each of these codes."""
    table = read_table(file, _TAXONOMY_COLUMNS)
    code, top = (filled(file, table, name) for name in _TAXONOMY_COLUMNS)
    _unique(file, table, _TAXONOMY_COLUMNS[0])
    found = pc.index_in(codes, value_set=code)
    if found.null_count:
        lacking = _some(codes.filter(found.is_null()))
        raise InputError(
            f"{file}: found {len(code):,} codes, without {lacking} of {challenge.issue.labels}; expected every code,"
            " or no such file"
        )
    tops: list[str] = top.take(found).to_pylist()
    return tops


def _check_apart(challenge: Challenge, parts: dict[str, pa.Table], products: pa.Array) -> None:
    """Raise `InputError` where a product id comes twice, be it in one file or in two."""
    again = _repeated(products)
    if len(again):
        held = {file: pc.is_in(part["productid"], value_set=again) for file, part in parts.items()}
        files = [file.rpartition("/")[2] for file, here in held.items() if pc.any(here).as_py()]
        column = _called(challenge.issue.product)
        raise InputError(
            f"{challenge.folder}: found {_some(again)} twice as {column} in {', '.join(files)};"
            " expected each product once in all files"
        )


def _unique(file: str, table: pa.Table, name: str) -> pa.Array:
    ids = filled(file, table, name)
    again = _repeated(ids)
    if len(again):
        raise InputError(f"{file}: found {_some(again)} twice as {_called(name)}; expected each once")
    return ids


def _repeated(ids: pa.Array) -> pa.Array:
    counted = ids.value_counts()
    return counted.field("values").filter(pc.greater(counted.field("counts"), 1))


def _some(ids: pa.Array) -> str:
    """`4 ids (17, 18, 19, ...)`."""
    listed = ", ".join([*ids[:_SHOWN].to_pylist(), *(["..."] if len(ids) > _SHOWN else [])])
    return f"{len(ids):,} ids ({listed})" if len(ids) else "none"


def _text(table: pa.Table, name: str) -> pa.Array:
    return check_text(column_named(table, name).combine_chunks()).values


def _called(name: str) -> str:
    return repr(name) if name else "'' (the one without a name)"


def _photos(folder: str, name: str) -> str:
    """URI of a folder of photos, below the challenge's or its `images`; where neither is there, the first."""
    places = (f"{folder}/{name}", f"{folder}/images/{name}")
    return next((place for place in places if _is_folder(place)), places[0])


def _is_folder(uri: str) -> bool:
    filesystem, path = filesystem_of(uri)
    return bool(filesystem.isdir(path))
