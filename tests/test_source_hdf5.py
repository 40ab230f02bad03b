"""The Kakao arena's files, and HDF5 files like them, from the folder to the catalog."""

import gc
import io
import random
import tracemalloc
from itertools import pairwise

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from fsspec.implementations.memory import MemoryFile

from benchmarks.kakao_chunks import LEVELS, write_chunks
from mmbatch import schema, source_hdf5
from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.pipelines import intake
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.replay import replay
from mmbatch.presets.kakao import KAKAO
from mmbatch.quarantine_view import Selection
from mmbatch.sources import Columns, list_files, plan_units, read_unit
from mmbatch.storage import StorageError, storage_error
from mmbatch.workspace import Settings, Workspace

ROWS = 40
COLUMNS = Columns(id="id", title="title")
VECTORS = Columns(id="id", title="title", image_vector="v")


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(source_hdf5, "PART_ROWS", 7)


def write(file, /, group="train", storage=None, **columns):
    """A file with one group of these columns; three rows with a title unless given."""
    columns = {"id": np.arange(3), "title": np.array([b"a", b"b", b"c"])} | columns
    with h5py.File(file, "w") as stored:
        for name, values in columns.items():
            stored.create_dataset(f"{group}/{name}", data=values, **(storage or {}))
    return str(file)


def remote(path, name="a.chunk.01"):
    """The same file in an object store."""
    fsspec.filesystem("memory").pipe(f"/hdf5/{name}", path.read_bytes())
    return f"memory:///hdf5/{name}"


def read(*files, columns=COLUMNS, batch_rows=1000):
    """Rows and rejects of files, as one table each."""
    batches = [
        batch for unit in plan_units(files, columns) for batch in read_unit(unit, columns, batch_rows=batch_rows)
    ]
    assert all(batch.rows.schema.equals(schema.SOURCE) for batch in batches)
    return pa.concat_tables([batch.rows for batch in batches]), pa.concat_tables([batch.rejects for batch in batches])


def refused(file, match, columns=COLUMNS):
    with pytest.raises(InputError, match=match) as raised:
        read(str(file), columns=columns)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(str(file))
    return raised.value


def brief(rejects):
    return [
        tuple(one[name] for name in ("position", "product_id", "modality", "reason")) for one in rejects.to_pylist()
    ]


def as_parquet(chunk, path, rows=slice(None)):
    """The same rows in a Parquet file."""
    with h5py.File(chunk) as file:
        group = file["train"]
        columns = {name: pa.array(group[name][rows]) for name in ("pid", "product", *LEVELS)}
        vectors = group["img_feat"][rows]
    columns["img_feat"] = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize("place", ["local", "remote"])
@pytest.mark.parametrize(
    "storage", [{}, {"chunks": True, "compression": "gzip"}, {"chunks": True, "fletcher32": True}], ids=str
)
def test_arena_files_hold_the_same_rows_as_parquet(tmp_path, small_parts, storage, place):
    (chunk,) = write_chunks(tmp_path, rows=ROWS, **storage)
    rows, rejects = read(remote(chunk) if place == "remote" else str(chunk), columns=KAKAO.columns, batch_rows=3)
    expected, _ = read(as_parquet(chunk, tmp_path / "a.parquet"), columns=KAKAO.columns)
    assert rows.equals(expected)
    assert rejects.num_rows == 0
    assert rows["image"].null_count == rows["label"].null_count == 0
    assert {len(path) for path in rows["label"].to_pylist()} >= {2, 3}


def test_a_folder_of_chunks_is_a_source(tmp_path):
    chunks = write_chunks(tmp_path, rows=9, files=2)
    for name in ("dev.chunk.01", "train.chunk", "cate1.json", "train.chunk.01.tmp", "_train.chunk.03"):
        (tmp_path / name).write_bytes(chunks[0].read_bytes())
    write(tmp_path / "more.H5")
    write(tmp_path / "most.hdf5")
    found = [f"{tmp_path}/{name}" for name in ("dev.chunk.01", "more.H5", "most.hdf5", *[file.name for file in chunks])]
    assert list_files(str(tmp_path)) == found
    assert list_files(f"{tmp_path}/train.chunk.*") == [*map(str, chunks)]
    assert list_files(str(chunks[0])) == [str(chunks[0])]
    for chunk in chunks:
        chunk.rename(tmp_path / f"{chunk.name}.old")
    with pytest.raises(InputError, match=r"found \.old, expected \.parquet, .*, \.h5, \.hdf5 or \.chunk\.NUMBER"):
        list_files(f"{tmp_path}/*.old")


def test_units_are_runs_of_rows_and_one_is_read_alone(tmp_path, small_parts):
    chunks = write_chunks(tmp_path, rows=ROWS, files=2)
    units = plan_units([*map(str, chunks)], KAKAO.columns)
    assert [(unit.file, unit.part, unit.rows) for unit in units] == [
        (str(chunk), part, rows) for chunk in chunks for part, rows in enumerate([7, 7, 6])
    ]
    assert [unit.index for unit in units] == list(range(6))
    assert {unit.vector_width for unit in units} == {2048}
    (batch,) = read_unit(units[4], KAKAO.columns)
    assert batch.rows["position"].to_pylist() == list(range(7, 14))
    assert batch.rows["product_id"].to_pylist() == [f"O{number:010d}" for number in range(27, 34)]
    (batch,) = read_unit(units[4], KAKAO.columns, positions=pa.array([0, 9, 13, 14]))
    assert batch.rows["position"].to_pylist() == [9, 13]


@pytest.mark.parametrize(("rows", "expected"), [(3, [9, 9, 7]), (1, [10, 10, 5]), (15, [15, 10]), (200, [20, 5])])
def test_parts_are_whole_storage_chunks_where_these_are_not_large(tmp_path, monkeypatch, rows, expected):
    monkeypatch.setattr(source_hdf5, "PART_ROWS", 10)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train/id"] = np.arange(25)
        file.create_dataset("train/v", data=np.ones((25, 4)), chunks=(rows, 2), maxshape=(None, 4))
    units = plan_units([f"{tmp_path}/a.h5"], Columns(id="id", title="id"))
    assert [unit.rows for unit in units] == expected


def test_a_plan_reads_headers_and_a_unit_its_rows_of_the_named_columns(tmp_path, monkeypatch):
    asked = []

    def counted(file, into):
        asked.append(io.BytesIO.readinto(file, into))
        return asked[-1]

    (chunk,) = write_chunks(tmp_path, rows=3000)
    uri = remote(chunk)
    monkeypatch.setattr(MemoryFile, "readinto", counted, raising=False)
    monkeypatch.setattr(source_hdf5, "PART_ROWS", 1000)
    units = plan_units([uri], KAKAO.columns)
    assert len(asked) <= 4
    assert sum(asked) <= 4 << 20
    asked.clear()
    assert sum(batch.rows.num_rows for batch in read_unit(units[1], KAKAO.columns)) == 1000
    assert sum(asked) < 1000 * 2048 * 4 + (5 << 20)
    asked.clear()
    assert sum(batch.rows.num_rows for batch in read_unit(units[1], Columns(id="pid", title="product"))) == 1000
    assert sum(asked) < 5 << 20


def test_a_part_is_read_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(source_hdf5, "BATCH_BYTES", 1 << 20)
    (chunk,) = write_chunks(tmp_path, rows=2000)
    (unit,) = plan_units([str(chunk)], KAKAO.columns)
    tracemalloc.start()
    held, sizes = pa.total_allocated_bytes(), []
    for batch in read_unit(unit, KAKAO.columns):
        sizes.append(batch.rows.num_rows)
        assert pa.total_allocated_bytes() - held < 4 << 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (sum(sizes), max(sizes)) == (2000, 126)
    assert peak < 8 << 20  # of 16 MB of vectors


def test_text_is_checked_row_by_row(tmp_path):
    title = np.array(["모자 ".encode(), "모".encode()[:2], b" \0 x", b"caf\xe9", b"\xff", b""])
    ids = np.array([b"007", b"1", b"", b"3 ", b"\xff", b"5"])
    rows, rejects = read(write(tmp_path / "a.h5", id=ids, title=title))
    assert [(row["position"], row["product_id"], row["title"]) for row in rows.to_pylist()] == [(0, "007", "모자")]
    assert brief(rejects) == [
        (1, "1", None, "undecodable_text"),
        (2, None, None, "no_id"),
        (3, "3", None, "undecodable_text"),
        (4, None, None, "undecodable_text"),
        (5, "5", None, "no_content"),
    ]
    assert rejects["message"][0].as_py() == "not UTF-8: column 'title'"


@pytest.mark.parametrize(
    "kind", ["S20", h5py.string_dtype(), h5py.string_dtype("ascii"), h5py.string_dtype("utf-8", 20)], ids=str
)
def test_byte_strings_of_any_kind(tmp_path, kind):
    title = np.array([value.encode() for value in ("모자", "", "x\ty")], kind)
    rows, rejects = read(write(tmp_path / "a.h5", title=title))
    assert rows["title"].to_pylist() == ["모자", "x\ty"]
    assert brief(rejects) == [(1, "1", None, "no_content")]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.array([1, 12, -1], "<i4"), ["1", "12", "-1"]),
        (np.array([1, 12, -1], ">i8"), ["1", "12", "-1"]),
        (np.array([7, 2**63, 0], "u8"), ["7", "9223372036854775808", "0"]),
        (np.array([1.0, 1.5, np.nan], ">f8"), ["1", "1.5"]),
        (np.array([1, 2, 3], "f2"), ["1", "2", "3"]),
    ],
)
def test_numbers_become_text(tmp_path, ids, expected):
    rows, rejects = read(write(tmp_path / "a.h5", id=ids))
    assert rows["product_id"].to_pylist() == expected
    assert rejects.num_rows == 3 - len(expected)


def test_codes_become_the_category_path(tmp_path):
    codes = {"b": [1, 2, 3, -1, 5], "m": [1, 2, -1, -1, -1], "s": [1, -1, -1, -1, 5]}
    columns = Columns(id="id", title="id", label=("b", "m", "s"), no_label="-1")
    levels = {name: np.array(values, "i4") for name, values in codes.items()}
    rows, rejects = read(write(tmp_path / "a.h5", id=np.arange(5), title=np.arange(5), **levels), columns=columns)
    assert rows["label"].to_pylist() == [["1", "1", "1"], ["2", "2"], ["3"], None, None]
    assert brief(rejects) == [(4, "4", "label", "bad_label")]


def test_label_of_two_axes_is_a_path(tmp_path):
    columns = Columns(id="id", title="title", label=("path",))
    path = np.array([[b"a", b"b"], [b"c", b""], [b"", b""]])
    rows, _ = read(write(tmp_path / "a.h5", path=path), columns=columns)
    assert rows["label"].to_pylist() == [["a", "b"], ["c"], None]


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8"])
def test_vectors_of_any_precision(tmp_path, kind):
    stored = np.array([[1, 2.5], [np.nan, 0], [3, 4]], kind)
    rows, rejects = read(write(tmp_path / "a.h5", v=stored), columns=VECTORS)
    found = [None if file is None else np.load(io.BytesIO(file)) for file in rows["image"].to_pylist()]
    assert [None if one is None else (one.dtype.str, one.tolist()) for one in found] == [
        ("<f4", [1.0, 2.5]), None, ("<f4", [3.0, 4.0]),
    ]  # fmt: skip
    assert brief(rejects) == [(1, "1", "image", "image_vector_not_finite")]


def test_vectors_of_another_width_than_the_other_files(tmp_path):
    files = [write(tmp_path / f"{width}.h5", v=np.ones((3, width), "f4")) for width in (2, 3)]
    with pytest.raises(InputError, match=r"'v' holds vectors of different widths: 2 in .*2\.h5, 3 in .*3\.h5"):
        plan_units(files, VECTORS)


@pytest.mark.parametrize(
    "values",
    [np.arange(3.0), np.ones((3, 2), "i4"), np.ones((3, 0)), np.ones((3, 2, 2)), np.array([b"1"] * 3)],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_columns_that_hold_no_vectors(tmp_path, values):
    match = r"column 'v' is of type .*; expected lists of float16, float32 or float64"
    refused(write(tmp_path / "a.h5", v=values), match, VECTORS)


@pytest.mark.parametrize(
    "values",
    [np.ones(3, bool), np.ones(3, [("a", "i4")]), np.ones(3, complex), np.ones((3, 2)), np.array([[b"a"]] * 3)],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_columns_that_hold_no_text(tmp_path, values):
    refused(write(tmp_path / "a.h5", title=values), "column 'title' is of type .*; expected text or numbers")


def test_columns_that_are_not_named_may_hold_anything(tmp_path):
    more = {"a": np.ones(3, [("x", "i4")]), "b": np.ones((3, 2, 2)), "c": np.ones(3, complex), "d": np.float32(1)}
    assert read(write(tmp_path / "a.h5", **more))[0].num_rows == 3


def test_a_missing_column_names_the_closest(tmp_path):
    file = write(tmp_path / "a.chunk.01", titel=np.arange(3))
    match = r"no column 'Titel', did you mean 'titel'\? it has 'id', 'titel', 'title'"
    refused(file, match, Columns(id="id", title="Titel"))


def test_a_file_without_rows(tmp_path):
    empty = write(tmp_path / "a.h5", id=np.arange(0), title=np.array([], "S1"))
    with pytest.raises(InputError, match=r"a\.h5: no rows in 1 file\(s\), only headers"):
        plan_units([empty], COLUMNS)
    assert [unit.file for unit in plan_units([empty, write(tmp_path / "b.h5")], COLUMNS)] == [f"{tmp_path}/b.h5"]


def two_groups(file):
    file["dev/id"] = file["test/id"] = np.arange(3)


def no_group(file):
    file["id"] = file["title"] = np.arange(3)


def empty_group(file):
    file.create_group("train")


def unequal(file):
    file["train/id"], file["train/title"] = np.arange(3), np.arange(2)


def elsewhere(file):
    file["train/id"] = np.arange(3)
    file.create_dataset("train/title", shape=(3,), dtype="S4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def virtual(file):
    file["train/id"] = np.arange(3)
    layout = h5py.VirtualLayout(shape=(3,), dtype="i8")
    layout[:] = h5py.VirtualSource("other.h5", "train/id", shape=(3,))
    file["train"].create_virtual_dataset("title", layout)


def linked(file):
    file["train/id"] = np.arange(3)
    file["train/title"] = h5py.ExternalLink("/etc/other.h5", "/train/title")


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (two_groups, r"2 groups \('dev', 'test'\); expected one, which holds a dataset for each column"),
        (no_group, "0 groups; expected one"),
        (empty_group, "group 'train': expected datasets of one length, found none"),
        (unequal, "group 'train': expected datasets of one length, found 2 rows in 'title', 3 rows in 'id'"),
        (elsewhere, "dataset 'title' has its content in other files; expected it in this one"),
        (virtual, "dataset 'title' has its content in other files"),
        (linked, "no column 'title'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_files_of_another_layout(tmp_path, build, match):
    with h5py.File(tmp_path / "a.chunk.07", "w") as file:
        build(file)
    refused(tmp_path / "a.chunk.07", rf"a\.chunk\.07: {match}")


@pytest.mark.parametrize("place", ["local", "remote"])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (lambda whole: b"PK\3\4" + bytes(4000), "cannot be read: .*file signature not found"),
        (lambda whole: whole[:100], "cannot be read: .*"),
        (lambda whole: whole[: len(whole) // 2], "cannot be read: .*truncated file"),
        (lambda whole: whole[:-1], "cannot be read: .*truncated file"),
        (lambda whole: whole.replace(b"SNOD", b"XXXX"), "cannot be read: "),
    ],
    ids=["other", "start", "half", "last", "damaged"],
)
def test_files_that_are_cut_or_no_hdf5(tmp_path, content, match, place):
    path = tmp_path / "train.chunk.01"
    path.write_bytes(content(write_chunks(tmp_path, rows=9)[0].read_bytes()))
    refused(remote(path) if place == "remote" else path, match, KAKAO.columns)


def test_a_file_that_is_gone(tmp_path):
    refused(tmp_path / "gone.chunk.01", r"cannot be read: .*No such file")
    refused("memory:///hdf5/gone.h5", "cannot be read: ")


def test_a_storage_chunk_that_is_damaged_names_its_column_and_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(source_hdf5, "PART_ROWS", 10)
    (path,) = write_chunks(tmp_path, rows=ROWS, chunks=True, compression="gzip")
    with h5py.File(path) as file:
        vectors = file["train/img_feat"]
        place = vectors.id.get_chunk_info_by_coord((2 * vectors.chunks[0], 0))
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    path.write_bytes(content)
    error = refused(path, r"cannot be read: column 'img_feat', rows \d+ to \d+: Can't .*read data", KAKAO.columns)
    assert isinstance(error.__cause__, OSError)


def test_random_damage_is_found_or_harmless(tmp_path):
    titles = np.array([b"x%d" % number for number in range(300)])
    storage = {"chunks": True, "compression": "gzip"}
    path = write(tmp_path / "a.h5", storage=storage, id=np.arange(300), title=titles)
    whole, generator, messages = (tmp_path / "a.h5").read_bytes(), random.Random(5), []
    for _ in range(150):
        start, size = generator.randrange(len(whole) - 64), generator.choice([1, 8, 64])
        (tmp_path / "a.h5").write_bytes(whole[:start] + generator.randbytes(size) + whole[start + size :])
        try:
            read(path)
        except InputError as error:
            messages.append(str(error))
    assert 10 < len(messages) < 140
    assert {message.partition(": ")[0] for message in messages} == {path}
    assert "\n" not in "".join(messages)


def test_an_object_store_that_fails_is_told_from_a_bad_file(tmp_path, monkeypatch):
    def fail(file, into):
        raise OSError("slow down") from ClientError({"Error": {"Code": "SlowDown"}}, "GetObject")

    uri = remote(write_chunks(tmp_path, rows=3)[0])
    monkeypatch.setattr(MemoryFile, "readinto", fail, raising=False)
    error = refused(uri, "cannot be read: slow down", KAKAO.columns)
    assert isinstance(storage_error(error), StorageError)


def test_nothing_of_h5py_waits_for_the_garbage_collector(tmp_path):
    """It would be freed on any thread, while another one holds h5py's lock and waits for the object store."""
    uri = remote(write_chunks(tmp_path, rows=3)[0])
    gc.collect()
    gc.disable()
    try:
        read(uri, columns=KAKAO.columns)
        left = [kept for kept in map(type, gc.get_objects()) if issubclass(kept, h5py.HLObject)]
    finally:
        gc.enable()
    assert left == []


@pytest.mark.usefixtures("in_process", "small_parts")
def test_from_the_arenas_folder_to_the_catalog_and_back_from_quarantine(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "count_attempts", lambda: None)
    monkeypatch.setattr(intake, "begun", lambda *_: 1)
    source = tmp_path / "arena"
    source.mkdir()
    last = write_chunks(source, rows=ROWS, files=2)[-1]
    with h5py.File(last, "r+") as file:
        good = file["train/product"][17]
        file["train/product"][17] = b"\xff"
        file["train/img_feat"][8, :3] = np.nan
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="kakao", level=1, seed=0, buckets=2))
    counts = ingest(workspace, source=str(source), columns=KAKAO.columns)["counts"]
    assert (counts["new"], counts["reasons"], counts["part_reasons"]) == (
        ROWS - 1,
        {"undecodable_text": 1},
        {"image_vector_not_finite": 1},
    )
    with h5py.File(last, "r+") as file:
        file["train/product"][17] = good
        file["train/img_feat"][8, :3] = 1
    assert replay(workspace, Selection())["ingest"]["counts"]["accepted"] == 2
    rows = Catalog(workspace=workspace).table.read(["product_id", "title", "label", "image_hash"])
    assert (rows.num_rows, rows["image_hash"].null_count, rows["label"].null_count) == (ROWS, 0, 0)


def test_made_up_files_are_the_same_again_and_products_differ(tmp_path):
    contents = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        contents[name] = [file.read_bytes() for file in write_chunks(tmp_path / name, rows=9, files=2, seed=seed)]
    assert contents["a"] == contents["b"]
    assert contents["a"] != contents["c"]
    assert contents["a"][0] != contents["a"][1]


def test_made_up_files_have_the_arenas_layout_and_signal(tmp_path):
    (chunk,) = write_chunks(tmp_path, rows=4000)
    with h5py.File(chunk) as file:
        assert list(file) == ["train"]
        columns = {name: dataset[:] for name, dataset in file["train"].items()}
    text = {name for name, values in columns.items() if values.dtype.kind == "S"}
    assert text == {"pid", "product", "brand", "maker", "model", "price", "updttm"}
    assert (columns["img_feat"].dtype, columns["img_feat"].shape) == (np.float32, (4000, 2048))
    main, middle, small, sub = (columns[name] for name in LEVELS)
    assert [code.dtype for code in (main, middle, small, sub)] == [np.dtype("i4")] * 4
    assert [(code == -1).mean() for code in (main, middle, small, sub)] == pytest.approx([0, 0, 0.1, 0.93], abs=0.02)
    parents = {(child, parent) for child, parent in zip(middle, main, strict=True)}
    assert len(parents) == len(set(middle))
    words = [set(title.split()) for title in columns["product"]]
    shared = [bool(words[a] & words[b]) for a, b in pairwise(np.argsort(main)) if main[a] == main[b]]
    assert np.mean(shared) > 0.5 > 10 * np.mean([bool(a & b) for a, b in pairwise(words)])
    vectors, known = columns["img_feat"], slice(3500)
    centres = np.stack([vectors[known][main[known] == code].mean(axis=0) for code in range(1, 58)])
    nearest = np.argmax(vectors[3500:] @ centres.T - (centres * centres).sum(axis=1) / 2, axis=1) + 1
    assert (nearest == main[3500:]).mean() > 0.15  # by chance 0.03
