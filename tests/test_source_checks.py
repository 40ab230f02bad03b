import io
import os

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmbatch.errors import InputError
from mmbatch.image_access import ImageAccess
from mmbatch.image_files import read_images
from mmbatch.images import ImageError
from mmbatch.source_checks import check_rows
from mmbatch.source_images import ImageReader
from mmbatch.source_types import RawBatch
from mmbatch.sources import Columns, plan_units, read_unit


def jpeg(width=32, height=24, seed=0):
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


JPEG = jpeg()


def check_batches(columns, folder="/nowhere", **content):
    table = pa.table(content)
    raw = RawBatch(table, pa.array(range(100, 100 + table.num_rows), pa.int64()), [])
    access = ImageAccess(places=("gs://bucket", "memory://pictures")).beside(str(folder))
    with ImageReader(access, folder=str(folder)) as reader:
        return list(check_rows(raw, columns, reader=reader))


def check(columns, folder="/nowhere", **content):
    """Rows and rejects of a batch, as lists of dicts."""
    batches = check_batches(columns, folder, **content)
    rows = [row for batch in batches for row in batch.rows.to_pylist()]
    return rows, [reject for batch in batches for reject in batch.rejects.to_pylist()]


def check_text(**content):
    return check(Columns(id="id", title="title", description="description"), **content)


def check_label(*values, separator=None, kind=None, no_label=None, **more):
    columns = Columns(id="id", title="id", label=("label", *more), label_separator=separator, no_label=no_label)
    ids = [str(number) for number in range(len(values))]
    rows, rejects = check(
        columns, id=ids, label=pa.array(values, kind), **{name: pa.array(more[name]) for name in more}
    )
    assert {(reject["modality"], reject["reason"]) for reject in rejects} <= {("label", "bad_label")}
    return [row["label"] for row in rows], {reject["product_id"]: reject["message"] for reject in rejects}


def check_image(values, folder="/nowhere"):
    """URIs of the images that are used, and (reason, message) of the others; every row has a title."""
    columns = Columns(id="id", title="id", image="image")
    ids = [str(number) for number in range(len(values))]
    rows, rejects = check(columns, folder, id=ids, image=values)
    assert [row["product_id"] for row in rows] == ids
    assert all(reject["modality"] == "image" for reject in rejects)
    return rows, [(reject["reason"], reject["message"]) for reject in rejects]


def test_empty_and_blank_texts_are_null():
    rows, _ = check_text(id=["1", "2"], title=["", "a"], description=["b", " \t\n\u00a0 "])
    assert [(row["title"], row["description"]) for row in rows] == [(None, "b"), ("a", None)]


def test_control_characters_become_spaces_but_newline_and_tab_stay():
    rows, _ = check_text(id=["\x001\x00"], title=["a\x00b\x1fc\x7fd\x85e\rf"], description=["a\nb\tc"])
    assert (rows[0]["product_id"], rows[0]["title"], rows[0]["description"]) == ("1", "a b c d e f", "a\nb\tc")


def test_text_that_looks_like_a_missing_value_stays():
    rows, _ = check_text(id=["nan", "None"], title=["nan", "NULL"], description=["N/A", "null"])
    assert [row["title"] for row in rows] == ["nan", "NULL"]


def test_row_without_an_id():
    rows, rejects = check_text(id=["1", " ", None], title=["a", "b", "c"], description=[None, None, None])
    assert [row["position"] for row in rows] == [100]
    assert [tuple(reject.values()) for reject in rejects] == [
        (position, None, None, "no_id", "column 'id' is empty") for position in (101, 102)
    ]


def test_row_without_content():
    rows, rejects = check_text(id=["1", "2"], title=[None, "b"], description=["", None])
    assert [row["product_id"] for row in rows] == ["2"]
    assert [tuple(reject.values()) for reject in rejects] == [
        (100, "1", None, "no_content", "no title, no description, no image")
    ]


def test_row_whose_only_content_is_a_bad_image_says_why():
    columns = Columns(id="id", title="title", image="image", label=("label",))
    rows, (reject,) = check(columns, id=["1", "2"], title=[None] * 2, image=[b"<html>", JPEG], label=["a > b", "x"])
    assert [row["product_id"] for row in rows] == ["2"]
    assert (reject["modality"], reject["reason"]) == (None, "no_content")
    assert reject["message"].startswith(
        "no title, no description, its image cannot be used (image_unknown_format): starts with b'<html>'"
    )


def test_undecodable_text_is_named_with_every_column():
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    columns = Columns(id="id", title="title", description="description", image="image", label=("a", "b"))
    rows, (reject,) = check(columns, id=["1"], title=bad, description=["x"], image=bad, a=["x"], b=bad)
    assert rows == []
    assert (reject["reason"], reject["message"]) == ("undecodable_text", "not UTF-8: column 'title', 'a, b', 'image'")


def test_label_as_one_name():
    assert check_label("A", " B ", "", None) == ([["A"], ["B"], None, None], {})


def test_label_as_numbers():
    assert check_label(2583, 10, None)[0] == [["2583"], ["10"], None]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string())])
def test_label_as_a_list(kind):
    labels = pa.array([["A", "B"], [], None, ["A", "", None], ["C"]], kind)
    assert check_label(*labels.to_pylist(), kind=kind)[0] == [["A", "B"], None, None, ["A"], ["C"]]


def test_label_joined_by_a_separator():
    found, bad = check_label("A >> B>>C", "A", "A >> ", None, ">> B", "A >>  >> C", separator=">>")
    assert found == [["A", "B", "C"], ["A"], ["A"], None, None, None]
    assert bad == dict.fromkeys(("4", "5"), "an empty level in the category path")


def test_label_as_json_of_a_list():
    values = ['["A >> B"]', '["A", "B >> C"]', "[]", "[Sale] >> A", '["A', '["\\ud800"]', "[null]"]
    found, bad = check_label(*values, separator=" >> ")
    assert found == [["A", "B"], ["A", "B", "C"], None, ["[Sale]", "A"], None, None, None]
    assert set(bad) == {"4", "5"}
    assert bad["4"].startswith("not a JSON list: Unterminated string")


def test_label_in_level_columns():
    found, bad = check_label("A", "A", None, "A", None, b=["B", None, None, None, "B"], c=["C", None, None, "C", None])
    assert found == [["A", "B", "C"], ["A"], None, None, None]
    assert bad == dict.fromkeys(("3", "4"), "an empty level in the category path")


def test_label_that_stands_for_none():
    levels = {"b": [12, -1, 12, -1], "c": pa.array([-1.0, -1.0, 3.0, 3.0])}
    found, bad = check_label(1, 2, 3, 4, no_label="-1", **levels)
    assert found == [["1", "12"], ["2"], ["3", "12", "3"], None]
    assert bad == {"3": "an empty level in the category path"}
    assert check_label("A >> -1", "-1", separator=" >> ", no_label="-1")[0] == [["A"], None]
    assert check_label(-1)[0] == [["-1"]]


def test_label_with_the_path_separator_inside_a_name():
    found, bad = check_label("A > B", "A >B")
    assert found == [None, ["A >B"]]
    assert bad == {"0": "level 'A > B' contains ' > ' in the category path"}
    assert check_label("A > B", separator=" > ") == ([["A", "B"]], {})


def test_image_bytes():
    values = [JPEG, None, b"", JPEG[:-40], b"<html>"]
    rows, rejects = check_image(pa.array(values, pa.large_binary()))
    assert [row["image"] for row in rows] == [JPEG, None, None, None, None]
    assert [row["image_uri"] for row in rows] == [None] * 5
    assert [reason for reason, _ in rejects] == ["image_empty", "image_truncated", "image_unknown_format"]


def test_image_in_a_struct_of_bytes_and_path(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(seed=1))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [
        {"bytes": JPEG, "path": "shown.jpg"},
        {"bytes": None, "path": "a.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    rows, rejects = check_image(pa.array(values, kind), tmp_path)
    assert [row["image"] for row in rows] == [JPEG, jpeg(seed=1), None, None]
    assert [row["image_uri"] for row in rows] == [None, f"{tmp_path}/a.jpg", None, None]
    assert rejects == []


def test_image_paths(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a b.jpg").write_bytes(JPEG)
    (tmp_path / "empty.jpg").write_bytes(b"")
    fsspec.filesystem("memory").pipe("/pictures/m.jpg", JPEG)
    absolute = f"{tmp_path}/images/a b.jpg"
    good = ["images/a b.jpg", "./images/a b.jpg", absolute, f"file://{absolute}", "memory://pictures/m.jpg"]
    bad = ["images/none.jpg", "memory://pictures/none.jpg", "images", "empty.jpg", None, ""]
    rows, rejects = check_image([*good, *bad], tmp_path)
    assert [row["image"] for row in rows] == [JPEG] * 5 + [None] * 6
    assert [row["image_uri"] for row in rows[:5]] == [absolute] * 4 + good[4:]
    assert all(row["image_uri"] is None for row in rows[5:])
    assert [reason for reason, _ in rejects] == ["image_missing", "image_missing", "image_unreadable", "image_empty"]
    assert rejects[0][1] == f"no such file: '{tmp_path}/images/none.jpg'"


def test_image_lists_use_the_first(tmp_path):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    for values in (
        pa.array([["a.jpg", "b.jpg"], [], None, [None, "a.jpg"]]),
        ['["a.jpg", "b.jpg"]', "[]", None, "[null]"],
    ):
        rows, rejects = check_image(values, tmp_path)
        assert [row["image"] is not None for row in rows] == [True, False, False, False]
        assert rejects == []


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("http://169.254.169.254/latest", "image_forbidden"),
        ("HTTPS://img.example/a.jpg", "image_forbidden"),
        ("//img.example/a.jpg", "image_forbidden"),
        ("https://user:secret@img.example/a.jpg", "image_forbidden"),
        ("s3://key:secret@bucket/a.jpg", "image_forbidden"),
        ("s3://bucket/a.jpg", "image_forbidden"),
        ("/etc/passwd", "image_forbidden"),
        ("../etc/passwd", "image_forbidden"),
        ("ftp://img.example/a.jpg", "image_forbidden"),
        ("data:image/png;base64,AAAA", "image_forbidden"),
        ("simplecache::http://img.example/a.jpg", "image_forbidden"),
        ("zip://a.jpg::http://img.example/a.zip", "image_forbidden"),
        ("[broken json", "image_missing"),
        ('["a\\u0000b.jpg"]', "image_missing"),
        ("x" * 5000, "image_unreadable"),
    ],
)
def test_image_reference_that_is_not_read(reference, reason):
    _, ((found, message),) = check_image([reference])
    assert found == reason
    assert len(message) < 400
    assert "secret" not in message


def test_image_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    _, ((reason, message),) = check_image(["pipe.jpg"], tmp_path)
    assert (reason, "not a regular file" in message) == ("image_unreadable", True)


def test_image_file_over_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("mmbatch.image_files.MAX_IMAGE_BYTES", 1 << 20)
    (tmp_path / "big.jpg").write_bytes(JPEG + bytes(1 << 20))
    assert check_image(["big.jpg"], tmp_path)[1] == [("image_too_large", f"more than 1 MiB: '{tmp_path}/big.jpg'")]


def test_fetched_images_are_handed_on_in_runs_that_fit_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("mmbatch.source_images._RUN_BYTES", 1000)
    (tmp_path / "a.jpg").write_bytes(JPEG)
    ids, labels = [str(number) for number in range(200)], ["A" if number % 50 else "A > B" for number in range(200)]
    paths = ["none.jpg" if number % 100 == 99 else "a.jpg" for number in range(200)]
    raw = RawBatch(pa.table({"id": ids, "image": paths, "label": labels}), pa.array(range(200), pa.int64()), [])
    columns = Columns(id="id", title="id", image="image", label=("label",))
    with ImageReader(ImageAccess().beside(str(tmp_path)), folder=str(tmp_path)) as reader:
        batches = list(check_rows(raw, columns, reader=reader))
    assert [batch.rows.num_rows for batch in batches] == [64, 64, 64, 8]
    rows = pa.concat_tables(batch.rows for batch in batches)
    assert rows["position"].to_pylist() == list(range(200))
    assert rows["image"].null_count == 2
    rejects = pa.concat_tables(batch.rejects for batch in batches).to_pylist()
    assert [(reject["position"], reject["reason"]) for reject in rejects] == [
        (0, "bad_label"),
        (50, "bad_label"),
        (99, "image_missing"),
        (100, "bad_label"),
        (150, "bad_label"),
        (199, "image_missing"),
    ]


def test_one_row_can_lose_its_image_and_its_label():
    columns = Columns(id="id", title="id", image="image", label=("label",))
    (row,), rejects = check(columns, id=["1"], image=[b"<html>"], label=["A > B"])
    assert (row["image"], row["label"]) == (None, None)
    assert [reject["modality"] for reject in rejects] == ["image", "label"]


def test_read_images(tmp_path):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    fsspec.filesystem("memory").pipe("/pictures/m.jpg", b"m")
    uris = [f"{tmp_path}/a.jpg", None, "memory://pictures/m.jpg", "memory://pictures/none.jpg", "https://h/a.jpg"] * 20
    found = read_images(uris)
    assert found[:3] == [JPEG, None, b"m"]
    assert [error.reason for error in found if isinstance(error, ImageError)] == [
        "image_missing",
        "image_forbidden",
    ] * 20
    assert read_images([]) == []


def test_scheme_whose_package_is_missing_stops_the_run(monkeypatch):
    def missing(uri):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(InputError, match=r"gs://: cannot be read: Please install gcsfs"):
        check_image(["gs://bucket/a.jpg"])


def test_images_beside_a_parquet_file(tmp_path):
    (tmp_path / "img").mkdir()
    for number in range(3):
        (tmp_path / f"img/{number}.jpg").write_bytes(jpeg(seed=number))
    pq.write_table(pa.table({"id": [0, 1, 2], "image": [f"img/{n}.jpg" for n in range(3)]}), tmp_path / "a.parquet")
    columns = Columns(id="id", image="image")
    (unit,) = plan_units([f"{tmp_path}/a.parquet"], columns)
    (batch,) = read_unit(unit, columns)
    assert batch.rows["image"].to_pylist() == [jpeg(seed=number) for number in range(3)]


def check_feed(**content):
    columns = Columns(id="id", title="title", image="image", label=("label",), operation="op")
    (checked,) = check_batches(columns, **content)
    return checked


def test_rows_of_a_feed():
    checked = check_feed(
        id=["a", "b", "c", None, "e", None],
        op=["U", "delete", "merge", "d", "update_preimage", "update_preimage"],
        title=["t", "t", "t", "t", "t", "t"],
        image=["none.jpg", "none.jpg", None, None, "none.jpg", None],
        label=["l > m", "l > m", "l", "l", "l", "l"],
    )
    assert checked.rows.select(["product_id", "title", "image_uri", "label", "deleted"]).to_pylist() == [
        {"product_id": "a", "title": "t", "image_uri": None, "label": None, "deleted": False},
        {"product_id": "b", "title": None, "image_uri": None, "label": None, "deleted": True},
    ]
    found = [(row["position"], row["product_id"], row["reason"]) for row in checked.rejects.to_pylist()]
    assert sorted(found, key=str) == [
        (100, "a", "bad_label"),
        (100, "a", "image_missing"),
        (102, "c", "bad_operation"),
        (103, None, "no_id"),
    ]
    assert checked.skipped == 2


def test_a_delete_needs_nothing_but_an_id_that_can_be_read():
    bad = pa.array([b"\xff", b"t", b"t"], pa.binary())
    checked = check_feed(
        id=pa.array([b"a", b"\xff", b"c"], pa.binary()),
        op=pa.array([b"d", b"d", b"\xff"], pa.binary()),
        title=bad,
        image=[None] * 3,
        label=bad,
    )
    assert checked.rows["product_id"].to_pylist() == ["a"]
    messages = checked.rejects["message"].to_pylist()
    assert messages == ["not UTF-8: column 'id'", "not UTF-8: column 'op'"]
