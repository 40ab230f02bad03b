import csv
import gzip
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmbatch.errors import InputError
from mmbatch.sources import Columns, plan_units, read_unit

COLUMNS = Columns(id="id", title="title")


def read(path, columns=COLUMNS, batch_rows=1000):
    """Rows and rejects of a file, as lists of dicts."""
    batches = [
        batch for unit in plan_units([str(path)], columns) for batch in read_unit(unit, columns, batch_rows=batch_rows)
    ]
    rows = [row for batch in batches for row in batch.rows.to_pylist()]
    return rows, [reject for batch in batches for reject in batch.rejects.to_pylist()]


def read_text(folder, content, name="a.csv", columns=COLUMNS, **options):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(path, columns, **options)


def brief(rows, *names):
    return [tuple(row[name] for name in names or ("position", "product_id", "title")) for row in rows]


def reasons(rejects):
    return brief(rejects, "position", "product_id", "modality", "reason")


def test_csv_keeps_text_as_it_is_written(tmp_path):
    rows, rejects = read_text(tmp_path, 'id,title\n007,nan\n1.50,NULL\n3,"say ""hi"", twice"\n')
    assert brief(rows) == [(0, "007", "nan"), (1, "1.50", "NULL"), (2, "3", 'say "hi", twice')]
    assert rejects == []


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_csv_newlines_blank_lines_and_a_last_line_without_end(tmp_path, newline):
    rows, _ = read_text(tmp_path, newline.join(["", "id,title", "1,a", "", "2,b"]))
    assert brief(rows) == [(0, "1", "a"), (1, "2", "b")]


def test_csv_newline_inside_quotes(tmp_path):
    rows, _ = read_text(tmp_path, 'id,title\n1,"a\nb"\n2,c\n')
    assert brief(rows) == [(0, "1", "a\nb"), (1, "2", "c")]


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "|"), ("a.tsv", "\t")])
def test_csv_separator_is_found_in_the_header(tmp_path, name, separator):
    content = separator.join(["id", '"title, with; other | marks"', "z"]) + "\n" + separator.join("1at") + "\n"
    columns = Columns(id="id", title="title, with; other | marks")
    rows, _ = read_text(tmp_path, content, name=name, columns=columns)
    assert brief(rows) == [(0, "1", "a")]


def test_csv_byte_order_mark(tmp_path):
    rows, _ = read_text(tmp_path, b"\xef\xbb\xbfid,title\n1,a\n")
    assert brief(rows) == [(0, "1", "a")]


def test_csv_compressed(tmp_path):
    rows, _ = read_text(tmp_path, gzip.compress(b"id\ttitle\n1\ta\n"), name="a.tsv.gz")
    assert brief(rows) == [(0, "1", "a")]


def test_csv_rows_of_another_width_are_rejected_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("mmbatch.source_csv.BLOCK_BYTES", 256)  # positions must hold across many blocks
    lines = [f'{number},"t\n{number}"' + (",more" if number % 7 == 0 else "") for number in range(500)]
    rows, rejects = read_text(tmp_path, "\n".join(["id,title", *lines]))
    assert [row["position"] for row in rows] == [number for number in range(500) if number % 7]
    assert all(row["product_id"] == str(row["position"]) for row in rows)
    assert [reject["position"] for reject in rejects] == list(range(0, 500, 7))
    assert {reject["reason"] for reject in rejects} == {"malformed_row"}
    assert rejects[1]["message"] == "3 columns, expected 2: '7,\"t\\n7\",more'"


@pytest.mark.parametrize("seed", range(20))
def test_csv_of_mixed_rows_in_blocks_of_any_size(tmp_path, monkeypatch, seed):
    generator = random.Random(seed)
    monkeypatch.setattr("mmbatch.source_csv.BLOCK_BYTES", generator.choice([200, 333, 1000]))
    titles = ["x", "café", "a,b", "line\nbreak", 'q"q', "中" * 7]
    lines, expected_rows, expected_rejects = [b"id,title"], [], []
    for position in range(generator.randrange(1, 200)):
        line, title = io.StringIO(), generator.choice(titles)
        csv.writer(line).writerow([position, title.replace("\n", "\r\n")])
        damage = generator.choice([b"", b"", b"", b"", b",extra", b",extra\xff", b"\xe9"])
        lines.append(line.getvalue().removesuffix("\r\n").encode() + damage)
        if damage:
            expected_rejects.append((position, "malformed_row" if b"," in damage else "undecodable_text"))
        else:
            expected_rows.append((position, str(position), title.replace("\n", " \n")))
    rows, rejects = read_text(tmp_path, b"\r\n".join([*lines, b""][: len(lines) + seed % 2]))
    assert brief(rows) == expected_rows
    assert sorted(brief(rejects, "position", "reason")) == expected_rejects


def test_csv_with_malformed_rows_only(tmp_path):
    rows, rejects = read_text(tmp_path, b"id,title\n1\n2,\xff,c\n")
    assert (rows, [reject["position"] for reject in rejects]) == ([], [0, 1])


def test_csv_quote_that_is_never_closed_is_refused_not_read_short(tmp_path):
    with pytest.raises(InputError, match=r"a\.csv: a quote opened at or after row 1 is never closed"):
        read_text(tmp_path, 'id,title\n1,a\n2,"b\n3,c\n4,d\n')


def test_csv_row_longer_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr("mmbatch.source_csv.BLOCK_BYTES", 1 << 20)
    with pytest.raises(InputError, match="a row is longer than 1 MiB, as when a quote is never closed"):
        read_text(tmp_path, 'id,title\n1,a\n2,"b\n' + "3,c\n" * (1 << 20))


def test_file_cut_inside_its_compression(tmp_path):
    content = gzip.compress(b"id,title\n" + b"".join(b"%d,%d\n" % (n, n * 7919) for n in range(150_000)))
    with pytest.raises(InputError, match=r"a\.csv\.gz: cannot be read"):
        read_text(tmp_path, content[:-1000], name="a.csv.gz")


def test_csv_undecodable_text_rejects_only_its_row(tmp_path):
    rows, rejects = read_text(tmp_path, b"id,title,x\n1,caf\xe9,\xff\n2,caf\xc3\xa9,\xff\n\xff,a,\n")
    assert brief(rows) == [(1, "2", "café")]  # a column that is not read need not be readable
    assert reasons(rejects) == [(0, "1", None, "undecodable_text"), (2, None, None, "undecodable_text")]
    assert rejects[0]["message"] == "not UTF-8: column 'title'"


def test_flipkart_rows(tmp_path):
    columns = Columns(
        id="uniq_id",
        title="product_name",
        description="description",
        image="image",
        label=("product_category_tree",),
        label_separator=" >> ",
    )
    header = "uniq_id,product_name,product_category_tree,image,description\n"
    row = '{0},Shorts,"[""Clothing >> Women\'s Clothing >> Shorts""]","[""http://img.example/a.jpeg"", ""b""]",Text\n'
    bad = '{0},Shorts,"[""Clothing >> ",[],Text\n'
    rows, rejects = read_text(tmp_path, header + row.format("c2d7") + bad.format("c2d8"), columns=columns)
    assert brief(rows, "product_id", "label", "image", "image_uri") == [
        ("c2d7", ["Clothing", "Women's Clothing", "Shorts"], None, None),
        ("c2d8", None, None, None),
    ]
    assert reasons(rejects) == [(0, "c2d7", "image", "image_forbidden"), (1, "c2d8", "label", "bad_label")]
    assert rejects[0]["message"].endswith("below a place that --images-from names: 'http://img.example/a.jpeg'")


def test_jsonl_values(tmp_path):
    lines = ['{"id": 1, "title": "a"}', '{"id": 2.0, "title": null}', "", '{"id": "003", "title": "x", "more": []}']
    rows, rejects = read_text(tmp_path, "\ufeff" + "\n".join(lines), name="a.jsonl")
    assert brief(rows) == [(0, "1", "a"), (3, "003", "x")]
    assert reasons(rejects) == [(1, "2", None, "no_content")]


def test_jsonl_compressed_and_in_small_batches(tmp_path):
    content = "".join(json.dumps({"id": number, "title": "t"}) + "\n" for number in range(2500))
    rows, _ = read_text(tmp_path, gzip.compress(content.encode()), name="a.ndjson.gz", batch_rows=7)
    assert [row["product_id"] for row in rows] == [str(number) for number in range(2500)]


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        (b'{"id": 1, "title"', "malformed_row", "the line is not JSON"),
        (b'[1, "a"]', "malformed_row", "a JSON list, expected an object"),
        (b"[" * 100_000, "malformed_row", "the line is not JSON"),
        (b'{"id": 1, "title": ["a"]}', "malformed_row", "column 'title' holds a JSON list, expected text"),
        (b'{"id": true, "title": "a"}', "malformed_row", "column 'id' holds a JSON bool, expected text"),
        (b'{"id": 1, "title": "caf\xe9"}', "undecodable_text", "the line is not UTF-8"),
        (b'{"id": 1, "title": "\\ud800"}', "undecodable_text", "not UTF-8: column 'title'"),
        (b'{"id": NaN, "title": "a"}', "no_id", "column 'id' is empty"),
    ],
)
def test_jsonl_bad_line_is_rejected_alone(tmp_path, line, reason, message):
    rows, rejects = read_text(tmp_path, b'{"id": 0, "title": "a"}\n' + line + b'\n{"id": 2, "title": "b"}\n', "a.jsonl")
    assert brief(rows) == [(0, "0", "a"), (2, "2", "b")]
    assert brief(rejects, "position", "reason") == [(1, reason)]
    assert rejects[0]["message"].startswith(message)


def test_jsonl_line_that_is_too_long_is_skipped_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("mmbatch.source_jsonl.MAX_LINE_BYTES", 1000)
    long = json.dumps({"id": 1, "title": "x" * 5000})
    rows, rejects = read_text(tmp_path, f'{long}\n{{"id": 2, "title": "b"}}\n', "a.jsonl")
    assert brief(rows) == [(1, "2", "b")]
    assert reasons(rejects) == [(0, None, None, "malformed_row")]


def test_jsonl_label_lists_and_image_lists(tmp_path):
    columns = Columns(id="id", title="title", label=("label",), image="image")
    lines = [
        {"id": 1, "title": "a", "label": ["A", "B"], "image": ["http://x/1.jpg"]},
        {"id": 2, "title": "a", "label": "A", "image": {"path": "none.jpg"}},
        {"id": 3, "title": "a", "label": ["A", None, "C"], "image": []},
        {"id": 4, "title": "a"},
    ]
    rows, rejects = read_text(tmp_path, "\n".join(map(json.dumps, lines)), "a.jsonl", columns=columns)
    assert brief(rows, "label") == [(["A", "B"],), (["A"],), (None,), (None,)]
    assert reasons(rejects) == [
        (0, "1", "image", "image_forbidden"),
        (1, "2", "image", "image_missing"),
        (2, "3", "label", "bad_label"),
    ]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([1, 12, None], pa.int64()), ["1", "12"]),
        (pa.array([1.0, 12.0, None], pa.float64()), ["1", "12"]),
        (pa.array([1.5, float("nan"), 1e20]), ["1.5", "1e+20"]),
        (pa.array([2**63, 7, None], pa.uint64()), ["9223372036854775808", "7"]),
        (pa.array(["007", " 8 ", ""]), ["007", "8"]),
        (pa.array(["007", "8", None], pa.large_string()), ["007", "8"]),
        (pa.array([b"007", b"8", None]), ["007", "8"]),
        (pa.array(["007", "8", None]).dictionary_encode(), ["007", "8"]),
        (pa.array([1, 12, None], pa.int64()).cast(pa.decimal128(20, 0)), ["1", "12"]),
    ],
)
def test_parquet_ids_of_any_type_become_text(tmp_path, ids, expected):
    pq.write_table(pa.table({"id": ids, "title": ["a", "b", "c"]}), tmp_path / "a.parquet")
    rows, rejects = read(tmp_path / "a.parquet")
    assert [row["product_id"] for row in rows] == expected
    assert {reject["reason"] for reject in rejects} <= {"no_id"}
    assert len(rows) + len(rejects) == 3


def test_parquet_undecodable_text_rejects_only_its_row(tmp_path):
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"]).buffers())
    labels = pa.ListArray.from_arrays([0, 1, 2], bad)
    pq.write_table(pa.table({"id": [1, 2], "title": ["a", "b"], "label": labels}), tmp_path / "a.parquet")
    rows, rejects = read(tmp_path / "a.parquet", Columns(id="id", title="title", label=("label",)))
    assert brief(rows, "product_id", "label") == [("1", ["ok"])]
    assert reasons(rejects) == [(1, "2", None, "undecodable_text")]


def test_parquet_with_damaged_data(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": range(5000), "title": [f"{n * 7919}" for n in range(5000)]}), path)
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read"):
        read(path)
