"""Vectors that come with a catalog in place of its photos, from the source files to the rows of the catalog."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs._source import columns_of
from jobs.ingest import Ingest
from mmbatch import schema
from mmbatch.catalog import Catalog, digest, stage
from mmbatch.encoders.precomputed import PrecomputedImage
from mmbatch.errors import InputError
from mmbatch.image_vectors import from_npy, npy_header, to_npy, why_not
from mmbatch.images import ImageError, check_image, open_rgb
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.replay import replay
from mmbatch.presets import preset_named
from mmbatch.quarantine_view import Selection
from mmbatch.reports.figures import thumbnail_jpeg
from mmbatch.sources import Columns, plan_units, read_unit
from mmbatch.workspace import Settings, Workspace

COLUMNS = Columns(id="id", title="title", image_vector="v")
KINDS = [
    pa.list_(pa.float16()),
    pa.list_(pa.float32()),
    pa.list_(pa.float64()),
    pa.large_list(pa.float32()),
    pa.list_(pa.float16(), 4),
    pa.list_(pa.float32(), 4),
    pa.list_(pa.float64(), 4),
]


def vectors(rows, width=4, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float16).astype(np.float32)


def write(path, values, kind, **options):
    """A Parquet file with a title in every row but the first."""
    rows = len(values)
    titles = [None, *["x"] * (rows - 1)]
    table = pa.table({"id": [str(row) for row in range(rows)], "title": titles, "v": pa.array(values, kind)})
    pq.write_table(table, path, **options)
    return str(path)


def write_lines(path, values):
    lines = [{"id": row, "title": "x" if row else None, "v": value} for row, value in enumerate(values)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def read(*files, columns=COLUMNS, batch_rows=1000):
    """Rows and rejects of files, as one table each."""
    batches = [
        batch for unit in plan_units(files, columns) for batch in read_unit(unit, columns, batch_rows=batch_rows)
    ]
    assert all(batch.rows.schema.equals(schema.SOURCE) for batch in batches)
    return pa.concat_tables([batch.rows for batch in batches]), pa.concat_tables([batch.rejects for batch in batches])


def arrays(rows):
    """The images of rows as arrays, read by NumPy itself."""
    return [
        None if file is None else np.load(io.BytesIO(file), allow_pickle=False) for file in rows["image"].to_pylist()
    ]


def brief(rejects):
    return [tuple(reject[name] for name in ("product_id", "modality", "reason")) for reject in rejects.to_pylist()]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_parquet_vectors_become_npy_files(tmp_path, kind):
    stored = vectors(10)
    file = write(tmp_path / "a.parquet", [*stored.tolist(), None], kind, row_group_size=4)
    rows, rejects = read(file, batch_rows=3)
    found = arrays(rows)
    assert found.pop() is None
    np.testing.assert_array_equal(found, stored)
    assert {(one.dtype.str, one.shape) for one in found} == {("<f4", (4,))}
    assert rows["image_uri"].null_count == 11
    assert rejects.num_rows == 0


def test_equal_vectors_of_any_precision_are_one_content(tmp_path):
    stored = vectors(3).tolist()
    files = [write(tmp_path / f"{number}.parquet", stored, kind) for number, kind in enumerate(KINDS)]
    files.append(write_lines(tmp_path / "a.jsonl", stored))
    contents = {tuple(read(file)[0]["image"].to_pylist()) for file in files}
    assert len(contents) == 1


@pytest.mark.parametrize("lines", [False, True])
def test_bad_vectors_are_rejected_alone_with_found_and_expected(tmp_path, lines):
    good, nan, infinite = [1.0, 2.0, 3.0, 4.0], float("nan"), float("inf")
    bad = [
        [nan] * 9,
        [1.0, 2.0],
        [],
        [1.0, None, 3.0, 4.0],
        [1.0, nan, 3.0, infinite],
        [1e300, 0.0, 0.0, 0.0],
        [1e30] * 4,
    ]
    values = [*bad[:1], good, *bad[1:], None, good]
    if lines:
        file = write_lines(tmp_path / "a.jsonl", values)
    else:
        file = write(tmp_path / "a.parquet", values, pa.list_(pa.float64()))
    rows, rejects = read(file, batch_rows=3)
    assert rows["product_id"].to_pylist() == [str(row) for row in range(1, 10)]
    assert [number for number, one in enumerate(arrays(rows), 1) if one is not None] == [1, 9]
    assert brief(rejects) == [
        ("0", None, "no_content"),
        *[(row, "image", "image_vector_width") for row in ("2", "3")],
        *[(row, "image", "image_vector_not_finite") for row in ("4", "5", "6", "7")],
    ]
    assert rejects["message"].to_pylist() == [
        "no title, no description, its image cannot be used (image_vector_width): 9 numbers, expected 4",
        "2 numbers, expected 4",
        "0 numbers, expected 4",
        "1 of 4 numbers are null, NaN or infinite as float32",
        "2 of 4 numbers are null, NaN or infinite as float32",
        "1 of 4 numbers are null, NaN or infinite as float32",
        "its numbers are too large, up to 1e+30: their squares overflow float32",
    ]


def test_the_width_is_the_sources_not_the_files_nor_the_batchs(tmp_path):
    first = write(tmp_path / "a.parquet", [None, None, [1.0, 2.0]], pa.list_(pa.float32()), row_group_size=1)
    second = write(tmp_path / "b.parquet", [[1.0], [1.0], [3.0, 4.0]], pa.list_(pa.float32()), row_group_size=1)
    third = write_lines(tmp_path / "c.jsonl", [None, [1], [3, 4]])
    files = [first, second, third]
    assert {unit.vector_width for unit in plan_units(files, COLUMNS)} == {2}
    rows, rejects = read(*files)
    assert [None if one is None else one.tolist() for one in arrays(rows)] == [
        None, [1.0, 2.0], None, [3.0, 4.0], None, [3.0, 4.0],
    ]  # fmt: skip
    assert [reject["message"] for reject in rejects.to_pylist() if reject["modality"]] == ["1 numbers, expected 2"] * 2


def test_a_type_that_fixes_the_width_is_believed_before_any_row(tmp_path):
    lists = write(tmp_path / "a.parquet", [[1.0], [1.0]], pa.list_(pa.float32()))
    fixed = write(tmp_path / "b.parquet", [[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    assert {unit.vector_width for unit in plan_units([lists, fixed], COLUMNS)} == {2}
    other = write(tmp_path / "c.parquet", [[1.0] * 3], pa.list_(pa.float32(), 3))
    with pytest.raises(
        InputError, match=r"'v' holds vectors of different widths: 2 in .*b\.parquet, 3 in .*c\.parquet"
    ):
        plan_units([fixed, other], COLUMNS)


@pytest.mark.parametrize("kind", [pa.null(), pa.list_(pa.float32()), pa.list_(pa.float32(), 4)], ids=str)
def test_no_vectors_at_all(tmp_path, kind):
    rows, rejects = read(write(tmp_path / "a.parquet", [None, None, None], kind))
    assert (rows.num_rows, rows["image"].null_count) == (2, 2)
    assert brief(rejects) == [("0", None, "no_content")]


@pytest.mark.parametrize(("value", "reason"), [([], "image_vector_width"), ([float("nan")], "image_vector_not_finite")])
def test_no_usable_vector_at_all(tmp_path, value, reason):
    rows, rejects = read(write(tmp_path / "a.parquet", [None, value, value], pa.list_(pa.float32())))
    assert rows["image"].null_count == 2
    assert brief(rejects)[1:] == [("1", "image", reason), ("2", "image", reason)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[1, 2]], pa.list_(pa.int32())),
        ([["1"]], pa.list_(pa.string())),
        ([1.0], pa.float32()),
        ([b"x"], pa.binary()),
        ([[[1.0]]], pa.list_(pa.list_(pa.float32()))),
        ([[]], pa.list_(pa.float32(), 0)),
    ],
    ids=str,
)
def test_parquet_columns_that_hold_no_vectors(tmp_path, values, kind):
    with pytest.raises(
        InputError, match=r"a\.parquet: column 'v' is of type .*; expected lists of float16, float32 or"
    ):
        plan_units([write(tmp_path / "a.parquet", values, kind)], COLUMNS)


@pytest.mark.parametrize("value", ["[1, 2]", 3, {"a": 1}, True, [1, "2"], [[1]], [{}], [1, 10**400]])
def test_json_values_that_are_no_vectors(tmp_path, value):
    rows, rejects = read(write_lines(tmp_path / "a.jsonl", [None, [1, 2.5], value]))
    assert [one.tolist() for one in arrays(rows)] == [[1.0, 2.5]]
    assert brief(rejects)[-1] == (None, None, "malformed_row")
    assert "column 'v' holds a " in rejects["message"][-1].as_py()


def test_csv_is_refused_at_once(tmp_path):
    (tmp_path / "a.csv").write_text('id,title,v\n1,x,"[1, 2]"\n')
    with pytest.raises(InputError, match=r"a\.csv: a CSV file cannot hold image vectors \('v'\); expected Parquet \(a"):
        plan_units([str(tmp_path / "a.csv")], COLUMNS)


def test_columns_that_contradict_each_other():
    with pytest.raises(InputError, match="image 'i' and image_vector 'v' are both named; expected one of them"):
        plan_units([], Columns(id="id", image="i", image_vector="v"))
    with pytest.raises(InputError, match="image_vector 'v' has another role too"):
        plan_units([], Columns(id="id", title="v", image_vector="v"))


def test_rows_without_an_id_take_their_vectors_with_them(tmp_path):
    table = pa.table({"id": ["a", "", "c"], "v": pa.array(list(vectors(3)), pa.list_(pa.float32(), 4))})
    pq.write_table(table, tmp_path / "a.parquet")
    rows, rejects = read(str(tmp_path / "a.parquet"), columns=Columns(id="id", image_vector="v"))
    np.testing.assert_array_equal(arrays(rows), vectors(3)[[0, 2]])
    assert brief(rejects) == [(None, None, "no_id")]


def test_only_some_positions_and_isolated(tmp_path):
    file = write(tmp_path / "a.parquet", list(vectors(5)), pa.list_(pa.float32()))
    (unit,) = plan_units([file], COLUMNS)
    (batch,) = read_unit(unit, COLUMNS, positions=pa.array([1, 3], pa.int64()), isolate=True)
    np.testing.assert_array_equal(arrays(batch.rows), vectors(5)[[1, 3]])


def test_a_vector_is_stored_and_hashed_like_a_photo(tmp_path):
    rows, _ = read(write(tmp_path / "a.parquet", list(vectors(2)), pa.list_(pa.float32())))
    staged = stage(rows, source="a.parquet", unit=0, buckets=4)
    assert staged["image"].to_pylist() == rows["image"].to_pylist()
    assert staged["image_hash"].to_pylist() == [digest(file) for file in rows["image"].to_pylist()]


def test_the_file_is_numpys_own():
    stored = vectors(3, width=2048)
    for file, vector in zip(to_npy(stored).to_pylist(), stored, strict=True):
        written = io.BytesIO()
        np.lib.format.write_array(written, vector, version=(1, 0), allow_pickle=False)
        assert file == written.getvalue()


def test_files_are_read_back_and_others_left_out():
    stored = vectors(4)
    files = pa.chunked_array(
        [
            pa.array([None, b"", *to_npy(stored[:2]).to_pylist()], pa.binary()),
            pa.array([], pa.binary()),
            pa.array([*to_npy(vectors(1, 5)).to_pylist(), *to_npy(stored[2:]).to_pylist(), b"\xff\xd8\xff" * 48]),
        ]
    )
    found, rows = from_npy(files, 4)
    assert rows.tolist() == [2, 3, 5, 6]
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(found, stored)
    none, rows = from_npy(files.slice(0, 2), 4)
    assert (none.shape, rows.tolist()) == ((0, 4), [])


def test_why_a_file_is_not_read_back():
    (file,) = to_npy(vectors(1)).to_pylist()
    assert why_not(file, 5) == ("image_vector_width", "4 numbers, expected 5")
    assert why_not(file[:-1], 4) == ("image_truncated", "a vector of 4 numbers in 143 bytes, expected 144")
    doubles = npy_header(4).replace(b"<f4", b"<f8") + bytes(32)
    for other in (b"", b"\xff\xd8\xff\xe0", file[:60], doubles):
        reason, message = why_not(other, 4)
        assert (reason, message[:6]) == ("image_not_vector", "starts")


def test_a_vector_is_no_photo():
    (file,) = to_npy(vectors(1, 2048)).to_pylist()
    for function in (open_rgb, check_image):
        with pytest.raises(ImageError, match=r"a vector \(\.npy\), not a photo; expected JPEG, ") as raised:
            function(file)
        assert raised.value.reason == "image_is_vector"
    assert thumbnail_jpeg(file) is None


@pytest.mark.usefixtures("in_process")
def test_from_the_source_to_the_encoder(tmp_path):
    stored = vectors(30)
    values = [*stored.tolist(), [1.0], None]
    file = write(tmp_path / "a.parquet", values, pa.list_(pa.float16()))
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=2))
    flags = Ingest(workspace=str(tmp_path / "w"), columns=("id=id", "title=title", "image_vector=v"))
    columns = columns_of(flags, preset_named("sample"))
    assert columns == COLUMNS
    counts = ingest(workspace, source=file, columns=columns)["counts"]
    assert (counts["new"], counts["part_reasons"]) == (32, {"image_vector_width": 1})
    again = ingest(workspace, source=file, columns=columns)["counts"]
    assert again == counts
    catalog, found = Catalog(workspace=workspace), {}
    encoder = PrecomputedImage.from_scratch(input_width=4, hidden=3, width=2, seed=0)
    for bucket in range(2):
        keys = catalog.keys([bucket])
        content = catalog.content("image", bucket, keys["image_hash"].drop_null().combine_chunks())
        prepared = encoder.prepare(content)
        assert prepared.failures == []
        found |= dict(zip(content["product_id"].to_pylist(), prepared.inputs["vectors"].tolist(), strict=True))
    assert found == {str(row): vector for row, vector in enumerate(stored.tolist())}
    assert replay(workspace, Selection())["ingest"]["counts"]["still_rejected"] == 1
