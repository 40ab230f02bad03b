import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from mmbatch import schema
from mmbatch.errors import InputError
from mmbatch.sources import (
    REJECTS,
    Columns,
    Unit,
    check_kind,
    fingerprint_files,
    list_files,
    newest_change,
    plan_units,
    read_unit,
    source_folder,
)

SHARED_DATA = Path(__file__).resolve().parents[1] / "../shared/data"
COLUMNS = Columns(id="id", title="title")
CSV = "id,title\n1,a\n"


def write(folder, **files):
    """Files named by keyword, `__` standing for the dot."""
    paths = []
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        paths.append(str(path))
    return paths


def write_parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def test_lists_one_file_a_folder_and_a_glob(tmp_path):
    write(tmp_path, b__csv=CSV, a__JSONL="{}", c__tsv__gz=b"x", notes__txt="x", _temporary__csv=CSV, __hidden__csv=CSV)
    write(tmp_path / "deep/er", d__parquet=b"x", e__ndjson="{}")
    everything = [f"{tmp_path}/{name}" for name in ("a.JSONL", "b.csv", "c.tsv.gz", "deep/er/d.parquet")]
    assert list_files(str(tmp_path)) == [*everything, f"{tmp_path}/deep/er/e.ndjson"]
    assert list_files(f"{tmp_path}/b.csv") == [f"{tmp_path}/b.csv"]
    assert list_files(f"{tmp_path}/*.csv") == sorted(str(path) for path in tmp_path.glob("*.csv"))
    assert list_files(f"{tmp_path}/**/d.*") == [f"{tmp_path}/deep/er/d.parquet"]


def test_lists_a_relative_path_as_an_absolute_one(tmp_path, monkeypatch):
    write(tmp_path, a__csv=CSV)
    monkeypatch.chdir(tmp_path)
    assert list_files("a.csv") == [f"{tmp_path}/a.csv"]


def test_the_folder_of_a_source(tmp_path):
    for name in ("a/x.csv", "a/deep/y.csv", "[b]/z.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("id\n1\n")
    fsspec.filesystem("memory").pipe("/feeds/day/a.csv", b"id\n1\n")
    sources = {
        f"{tmp_path}/a/x.csv": f"{tmp_path}/a",
        f"{tmp_path}/a/": f"{tmp_path}/a",
        f"{tmp_path}/a/*/y.csv": f"{tmp_path}/a",
        f"{tmp_path}/*/x.csv": str(tmp_path),
        f"{tmp_path}/[b]": f"{tmp_path}/[b]",
        f"{tmp_path}/[b]/z.csv": f"{tmp_path}/[b]",
        "memory://feeds/": "memory:///feeds",
        "memory://feeds/day/a.csv": "memory:///feeds/day",
        "memory://feeds/*/a.csv": "memory:///feeds",
    }
    for source, folder in sources.items():
        assert source_folder(source, list_files(source)) == folder


def test_lists_a_remote_folder():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/shop/a.csv": CSV.encode(), "/shop/more/b.csv": CSV.encode()})
    assert list_files("memory://shop") == ["memory:///shop/a.csv", "memory:///shop/more/b.csv"]
    assert list_files("memory://shop/*.csv") == ["memory:///shop/a.csv"]
    (unit,) = plan_units(list_files("memory://shop/a.csv"), COLUMNS)
    assert [batch.rows["title"].to_pylist() for batch in read_unit(unit, COLUMNS)] == [["a"]]


@pytest.mark.parametrize("source", ["{}/none.csv", "{}/*.csv", "{}/empty", "zzz://shop/a.csv"])
def test_nothing_there(tmp_path, source):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no such file or folder|Protocol not known: zzz"):
        list_files(source.format(tmp_path))


def test_no_known_format(tmp_path):
    write(tmp_path, a__xlsx="x", b__pdf="x")
    with pytest.raises(InputError, match=r"found \.pdf, \.xlsx, expected \.parquet, \.csv"):
        list_files(str(tmp_path))
    with pytest.raises(InputError, match=r"found \.xlsx"):
        list_files(f"{tmp_path}/a.xlsx")


def test_file_of_zero_bytes(tmp_path):
    write(tmp_path, a__csv=CSV, b__csv="")
    with pytest.raises(InputError, match=r"b\.csv: the file has zero bytes"):
        list_files(str(tmp_path))


def test_delta_table_is_not_a_folder_of_files(tmp_path):
    write_parquet(tmp_path / "part.parquet", {"id": [1]})
    write(tmp_path / "_delta_log", x__json="{}")
    with pytest.raises(InputError, match="a Delta table"):
        list_files(str(tmp_path))


def test_fingerprint_tells_content_and_names_apart(tmp_path):
    one, two = write(tmp_path, a__csv=CSV, b__csv=CSV)
    first = fingerprint_files([one, two])
    assert first == fingerprint_files([two, one])
    assert first != fingerprint_files([one])
    os.utime(one, ns=(0, 10**18))
    assert first != fingerprint_files([one, two])


def test_fingerprint_of_remote_files_follows_a_rewrite_of_the_same_size():
    memory = fsspec.filesystem("memory")
    memory.pipe("/prints/a.csv", b"12")
    first = fingerprint_files(["memory:///prints/a.csv"])
    assert first == fingerprint_files(["memory:///prints/a.csv"])
    memory.pipe("/prints/a.csv", b"34")
    assert first != fingerprint_files(["memory:///prints/a.csv"])


def test_newest_change_of_local_and_remote_files(tmp_path):
    one, two = write(tmp_path, a__csv=CSV, b__csv=CSV)
    os.utime(one, (0, 1_700_000_000))
    os.utime(two, (0, 1_600_000_000))
    assert newest_change([one, two]) == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    began = datetime.now(UTC)
    fsspec.filesystem("memory").pipe("/times/a.csv", CSV.encode())
    assert began <= newest_change(["memory:///times/a.csv"]) <= datetime.now(UTC)


def test_a_file_system_that_does_not_say_when_a_file_changed(tmp_path, monkeypatch):
    def modified(self, path):
        raise NotImplementedError

    (one,) = write(tmp_path, a__csv=CSV)
    monkeypatch.setattr(LocalFileSystem, "modified", modified)
    assert newest_change([one]) is None


def test_a_feed_may_be_empty_and_a_catalog_may_not(tmp_path):
    (file,) = write(tmp_path, a__csv="id,title,op\n")
    assert plan_units([file], Columns(id="id", title="title", operation="op")) == []
    with pytest.raises(InputError, match=r"no rows in 1 file\(s\), only headers"):
        plan_units([file], COLUMNS)


def test_a_snapshot_is_no_feed():
    feed = Columns(id="id", title="title", operation="op")
    check_kind(feed, snapshot=False)
    check_kind(COLUMNS, snapshot=True)
    with pytest.raises(InputError, match="--snapshot with --columns operation=op: a feed of changes does not name"):
        check_kind(feed, snapshot=True)


def test_fingerprint_of_a_file_that_is_gone(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv: cannot be read"):
        fingerprint_files([f"{tmp_path}/gone.csv"])


def test_row_groups_with_rows_and_text_files_are_units(tmp_path):
    table = pa.table({"id": range(10), "title": ["x"] * 10})
    with pq.ParquetWriter(tmp_path / "b.parquet", table.schema) as writer:
        writer.write_table(table.slice(0, 6), row_group_size=4)
        writer.write_table(table.slice(0, 0))
        writer.write_table(table.slice(6))
    first, last = write(tmp_path, a__csv=CSV, c__csv="id,title\n")
    parquet = f"{tmp_path}/b.parquet"
    units = plan_units([first, parquet, last], COLUMNS)
    groups = [(unit.file, unit.index, unit.rows) for unit in units]
    assert groups == [(first, 0, None), (parquet, 1, 4), (parquet, 2, 2), (parquet, 3, 4)]
    positions = [row for unit in units[1:] for batch in read_unit(unit, COLUMNS) for row in batch.rows["position"]]
    assert [position.as_py() for position in positions] == list(range(10))


def test_missing_column_names_what_there_is_and_the_closest(tmp_path):
    (file,) = write(tmp_path, a__csv="Id,titel,price\n1,a,2\n")
    with pytest.raises(InputError, match=r"a\.csv: no column 'id', did you mean 'Id'\? it has 'Id', 'titel', 'price'"):
        plan_units([file], COLUMNS)
    with pytest.raises(InputError, match=r"no column 'title', did you mean 'titel'\?"):
        plan_units([file], Columns(id="Id", title="title"))
    with pytest.raises(InputError, match=r"no column 'image'; it has 'Id'"):
        plan_units([file], Columns(id="Id", image="image"))


def test_missing_column_in_every_format(tmp_path):
    parquet = write_parquet(tmp_path / "a.parquet", {"id": [1], "name": ["x"]})
    (jsonl,) = write(tmp_path, a__jsonl='{"id": 1}\n{"id": 2, "name": "x"}\n')
    for file in (parquet, jsonl):
        with pytest.raises(InputError, match=r"no column 'title'.* it has 'id', 'name'"):
            plan_units([file], COLUMNS)


def test_wrong_separator_is_noticed(tmp_path):
    (file,) = write(tmp_path, a__tsv="id,title\n1,a\n")
    with pytest.raises(InputError, match=r"split at '\\t' the header is one column, 'id,title'"):
        plan_units([file], COLUMNS)


def test_column_that_appears_twice(tmp_path):
    (file,) = write(tmp_path, a__csv="id,title,title\n1,a,b\n")
    with pytest.raises(InputError, match="column 'title' appears 2 times"):
        plan_units([file], COLUMNS)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("id,title\n".encode("utf-16"), "is UTF-16; expected UTF-8"),
        (b"id,title,caf\xe9\n1,a,b\n", "the header is not UTF-8"),
    ],
)
def test_header_in_another_encoding(tmp_path, content, match):
    (file,) = write(tmp_path, a__csv=content)
    with pytest.raises(InputError, match=match):
        plan_units([file], COLUMNS)


def test_files_that_are_not_what_their_name_says(tmp_path):
    files = write(tmp_path, a__parquet=b"PAR1 no", b__csv__gz=b"\x1f\x8b\x08 cut", c__jsonl="[1, 2]\n")
    for file, match in zip(files, ["cannot be read", "cannot be read", "no JSON object in the first 1"], strict=True):
        with pytest.raises(InputError, match=match):
            plan_units([file], COLUMNS)


def test_no_rows_anywhere(tmp_path):
    empty = write_parquet(tmp_path / "c.parquet", {"id": pa.array([], pa.int64()), "title": pa.array([], pa.string())})
    files = [*write(tmp_path, a__csv="id,title\n", b__jsonl="\n\n"), empty]
    with pytest.raises(InputError, match=r"a\.csv.*: no rows in 3 file\(s\), only headers"):
        plan_units(files, COLUMNS)


def test_columns_that_make_no_catalog():
    with pytest.raises(InputError, match="none of title, description, image and image_vector is named"):
        plan_units([], Columns(id="id"))
    for separator, label in ((" > ", ("a", "b")), (" > ", ()), ("", ("a",))):
        with pytest.raises(InputError, match="label_separator"):
            plan_units([], Columns(id="id", title="t", label=label, label_separator=separator))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("id", [["a"]]),
        ("title", [True]),
        ("label", [{"a": 1}]),
        ("image", [{"path": "x"}]),
    ],
)
def test_parquet_column_of_an_unusable_type(tmp_path, column, values):
    content = {"id": [1], "title": ["x"], "label": ["x"], "image": ["x"]} | {column: values}
    file = write_parquet(tmp_path / "a.parquet", content)
    columns = Columns(id="id", title="title", label=("label",), image="image")
    with pytest.raises(InputError, match=f"column '{column}' is of type .*; expected"):
        plan_units([file], columns)


def test_batches_have_the_exact_schema_and_size(tmp_path):
    lines = [f"{number},t" if number % 5 else f"{number},t,x" for number in range(25)]
    (file,) = write(tmp_path, a__csv="\n".join(["id,title", *lines, ""]))
    batches = list(read_unit(Unit(file, None, 0), COLUMNS, batch_rows=8))
    assert [batch.rows.num_rows for batch in batches] == [8, 8, 4]
    assert all(batch.rows.schema.equals(schema.SOURCE) and batch.rejects.schema.equals(REJECTS) for batch in batches)
    assert pa.concat_tables(batch.rejects for batch in batches)["position"].to_pylist() == [0, 5, 10, 15, 20]


def test_a_long_csv_streams_in_bounded_batches(tmp_path):
    row = '{0:07d},"Product, number {0}",A >> B >> C{1}\n'
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write("id,title,label\n")
        file.writelines(row.format(number, number % 97) for number in range(200_000))
    columns = Columns(id="id", title="title", label=("label",), label_separator=" >> ")
    (unit,) = plan_units([str(path)], columns)
    rows, held = 0, pa.total_allocated_bytes()
    for batch in read_unit(unit, columns):
        assert batch.rows.num_rows <= 1000
        assert batch.rejects.num_rows == 0
        assert batch.rows["position"][0].as_py() == rows
        assert pa.total_allocated_bytes() - held < 64 << 20
        rows += batch.rows.num_rows
    assert rows == 200_000
    assert batch.rows["product_id"][-1].as_py() == "0199999"


def test_large_images_make_smaller_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("mmbatch.source_parquet.BATCH_BYTES", 1 << 20)
    blobs = [bytes([number]) * (200 << 10) for number in range(20)]
    file = write_parquet(tmp_path / "a.parquet", {"id": range(20), "title": ["x"] * 20, "image": blobs})
    columns = Columns(id="id", title="title", image="image")
    sizes = [batch.rows.num_rows for unit in plan_units([file], columns) for batch in read_unit(unit, columns)]
    assert sum(sizes) == 20
    assert max(sizes) <= 6


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the real catalogs are not beside the project")
def test_real_catalog():
    columns = Columns(
        id="product_id", title="title", description="description", image="image", label=("category_path",)
    )
    units = plan_units(list_files(str(SHARED_DATA / "flipkart_1050.parquet")), columns)
    batches = [batch for unit in units for batch in read_unit(unit, columns)]
    rows = pa.concat_tables(batch.rows for batch in batches)
    assert sum(unit.rows or 0 for unit in units) == rows.num_rows == 1050
    assert sum(batch.rejects.num_rows for batch in batches) == 0
    assert rows["image"].null_count == 3
    assert rows["image_uri"].null_count == 1050
    assert rows["position"].to_pylist() == list(range(1050))
    assert set(Counter(path[0] for path in rows["label"].to_pylist()).values()) == {150}
