"""Files for other programs: what is written is read back, and a file is there whole or not at all."""

import csv
import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmbatch import file_writers
from mmbatch.errors import InputError
from mmbatch.file_writers import ending_of, json_texts, table_file

SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("number", pa.int64()),
        ("share", pa.float32()),
        ("list", pa.list_(pa.string())),
        ("shares", pa.list_(pa.float32())),
        ("map", pa.map_(pa.string(), pa.float32())),
    ]
)
NOTHING = dict.fromkeys(SCHEMA.names)
NASTY = 'Zwölf "Gläser", \\초록\n\t\x00\x1f</b>\u2028🙂'
ROWS: list[dict[str, Any]] = [
    {"text": NASTY, "number": 2**62 + 1, "share": 0.5, "list": [NASTY, None, ""], "shares": [0.25], "map": [("a", 1)]},
    NOTHING,
    NOTHING | {"text": "", "list": [], "shares": [], "map": []},
    NOTHING | {"text": "x", "number": -1, "share": 1e-9, "map": [(NASTY, None), ("b", 1e20)]},
]


def table(rows: list[dict[str, Any]] = ROWS) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write(file: Path, *parts: pa.Table) -> Path:
    with table_file(str(file), parts[0].schema, named="--out f") as append:
        for part in parts:
            append(part)
    return file


def content(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


def plain(rows: pa.Table) -> list[dict[str, Any]]:
    """The rows as JSON has them."""
    found: list[dict[str, Any]] = rows.to_pylist(maps_as_pydicts="strict")
    return found


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "A.JSONL"])
def test_json_lines_are_what_the_json_module_reads(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_writers, "JSON_ROWS", 2)
    rows = pa.concat_tables([table(), table()[1:3], table().slice(3)])
    file = write(tmp_path / name, rows.slice(0, 5), rows.slice(5, 0), rows.slice(5))
    lines = content(file).decode().split("\n")
    assert lines.pop() == ""
    read = [json.loads(line) for line in lines]
    for row in read:  # the shortest digits of a float32, which read as that float32
        row["share"] = pa.scalar(row["share"], pa.float32()).as_py()
    for row in read:
        row["map"] = pa.scalar(row["map"] and list(row["map"].items()), SCHEMA.field("map").type)
        row["map"] = row["map"].as_py(maps_as_pydicts="strict")
    assert read == plain(rows)
    assert list(read[0]) == SCHEMA.names


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_lists_and_maps_are_json_text_in_csv(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, table([ROWS[0] | {"text": "a,\r\nb"}, *ROWS[1:3]]))
    first, empty, blank = csv.DictReader(io.StringIO(content(file).decode(), newline=""))
    assert (first["text"], first["number"], first["share"]) == ("a,\r\nb", str(2**62 + 1), "0.5")
    assert [json.loads(first[key]) for key in ("list", "shares", "map")] == [[NASTY, None, ""], [0.25], {"a": 1}]
    assert set(empty.values()) == {""}
    assert (blank["list"], blank["shares"], blank["map"]) == ("[]", "[]", "{}")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_no_cell_of_csv_is_a_formula(tmp_path: Path, start: str) -> None:
    evil = f"{start}cmd|' /C calc'!A0"
    file = write(tmp_path / "a.csv", table([ROWS[0] | {"text": evil, "number": -5}]))
    [row] = csv.DictReader(io.StringIO(content(file).decode(), newline=""))
    assert (row["text"], row["number"]) == (f"'{evil}", "-5")
    assert json.loads(write(tmp_path / "a.jsonl", table([NOTHING | {"text": evil}])).read_text())["text"] == evil


def test_parquet_has_native_lists_and_maps(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", table(), table())
    assert pq.read_schema(file).equals(SCHEMA)
    assert pq.read_table(file).equals(pa.concat_tables([table(), table()]))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.gz"])
def test_no_rows_is_a_file_too_and_equal_rows_are_equal_bytes(tmp_path: Path, name: str) -> None:
    empty = write(tmp_path / name, table([]))
    assert content(empty) == {"csv": b'"text","number","share","list","shares","map"\n', "jsonl": b""}.get(
        name.split(".")[1], content(empty)
    )
    (tmp_path / "b").mkdir()
    assert write(tmp_path / name, table()).read_bytes() == write(tmp_path / "b" / name, table()).read_bytes()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.parquet"])
def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"earlier")

    def fail() -> None:
        with table_file(str(file), SCHEMA, named="--out f") as append:
            append(table())
            assert file.read_bytes() == b"earlier"
            raise FileNotFoundError(2, "what was to be read is gone")

    with pytest.raises(FileNotFoundError, match="to be read"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert file.read_bytes() == b"earlier"
    write(file, table())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert file.read_bytes() != b"earlier"


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--out f: cannot be written: No such file or directory$"):
        write(tmp_path / "none" / "a.csv", table())
    with pytest.raises(InputError, match=r"^--out f: cannot be written: No space left on device$"):
        write_to_full_disk(tmp_path / "a.jsonl")


def write_to_full_disk(file: Path) -> None:
    """`/dev/full` refuses what is written, as a full disk does."""
    with table_file(str(file), SCHEMA, named="--out f") as append:
        [aside] = file.parent.iterdir()
        [descriptor] = [link for link in Path("/proc/self/fd").iterdir() if link.resolve() == aside]
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, int(descriptor.name))
        os.close(full)
        append(table([ROWS[0]] * 10_000))


@pytest.mark.parametrize("name", ["a", "a.xlsx", "a.gz", "a.parquet.gz", "csv"])
def test_an_ending_that_says_nothing(name: str) -> None:
    with pytest.raises(
        InputError, match=r"^--out x: expected a name that ends in \.csv, \.parquet, \.jsonl, \.csv\.gz"
    ):
        ending_of(name, named="--out x")


def test_what_is_no_number_is_null_in_json() -> None:
    values = pa.array([float("nan"), float("inf"), -0.5, None], pa.float64())
    assert json_texts(values).to_pylist() == ["null", "null", "-0.5", "null"]
    assert json_texts(pa.array([[1], None, [None, 2]], pa.list_(pa.int64())))[1:].to_pylist() == ["null", "[null,2]"]
