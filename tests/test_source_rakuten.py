import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import ingest
from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.quarantine import quarantine_table
from mmbatch.runs import last_run
from mmbatch.source_rakuten import COMBINED, combine
from mmbatch.source_rakuten_files import ENS, SIGIR, find_challenge
from mmbatch.storage import filesystem_of
from mmbatch.workspace import Workspace
from tests.rakuten_files import (
    CODES,
    TOP_OF,
    Form,
    Item,
    make_items,
    photo_name,
    read_rows,
    write_challenge,
    write_rows,
)

FORMS: tuple[Form, ...] = ("tsv", "csv")
TRAIN, TEST = 2 * len(CODES), 5
LABELLED, TO_PREDICT = make_items(train=TRAIN, test=TEST)


def challenge(folder: Path, form: Form = "tsv", **layout: Any) -> Path:
    return write_challenge(folder / "challenge", LABELLED, TO_PREDICT, form=form, **layout)


def combined(folder: Path | str, target: Path) -> str:
    found = find_challenge(str(folder))
    assert found is not None
    return combine(found, str(target))


def rewrite(file: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
    header, *rows = change(read_rows(file))
    write_rows(file, header, rows)


def expected_row(item: Item, photos: Path, path: list[str] | None) -> dict[str, Any]:
    image = str(photos / photo_name(item))
    texts = {"designation": item.title, "description": item.description}
    return {"productid": str(item.product), **texts, "image": image, "prdtypecode": path}


@pytest.mark.parametrize("photos", ["", "images"])
@pytest.mark.parametrize("form", FORMS)
def test_every_product_is_one_row(form: Form, photos: str, tmp_path: Path) -> None:
    folder = challenge(tmp_path, form, photos=photos)
    table = pq.read_table(combined(folder, tmp_path / "made"))
    assert table.schema.equals(COMBINED)
    train = folder / photos / ("image_training" if form == "tsv" else "image_train")
    tops = {item.number: [TOP_OF[item.code]] if form == "tsv" else [] for item in LABELLED}
    rows = [expected_row(item, train, [*tops[item.number], item.code]) for item in LABELLED]
    rows += [expected_row(item, folder / photos / "image_test", None) for item in TO_PREDICT]
    assert table.to_pylist() == rows
    assert len({tuple(path) for path in table["prdtypecode"].drop_null().to_pylist()}) == len(CODES)
    assert all(Path(uri).is_file() for uri in table["image"].to_pylist())


@pytest.mark.parametrize("form", FORMS)
def test_columns_come_in_any_order_and_case_and_codes_in_any_order(form: Form, tmp_path: Path) -> None:
    folder = challenge(tmp_path, form)
    before = pq.read_table(combined(folder, tmp_path / "made"))
    for file in sorted(folder.glob("*.?sv")):
        rewrite(file, lambda rows: [[name.upper() for name in rows[0][::-1]], *(row[::-1] for row in rows[1:])])
    labels = folder / (SIGIR if form == "tsv" else ENS).labels
    rewrite(labels, lambda rows: [rows[0], *Random(0).sample(rows[1:], len(rows) - 1)])
    assert pq.read_table(combined(folder, tmp_path / "made")).equals(before)


def test_the_file_is_named_by_its_content(tmp_path: Path) -> None:
    folder, target = challenge(tmp_path), tmp_path / "made"
    uri = combined(folder, target)
    written = Path(uri).stat().st_mtime_ns
    assert combined(folder, target) == uri
    assert Path(uri).stat().st_mtime_ns == written
    rewrite(folder / "X_train.tsv", lambda rows: [rows[0], [rows[1][0], "Autre titre", *rows[1][2:]], *rows[2:]])
    assert combined(folder, target) != uri
    assert Path(uri).stat().st_mtime_ns == written


def test_without_the_file_of_top_levels_a_path_is_the_code(tmp_path: Path) -> None:
    uri = combined(challenge(tmp_path, taxonomy=False), tmp_path)
    assert pq.read_table(uri)["prdtypecode"].to_pylist()[:2] == [[item.code] for item in LABELLED[:2]]


def test_both_phases_and_none(tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    test = folder / "x_test_task1_phase1.tsv"
    header, *rows = read_rows(test)
    write_rows(test, header, rows[:2])
    write_rows(folder / "x_test_task1_phase2.tsv", header, rows[2:])
    found = pq.read_table(combined(folder, tmp_path))
    assert found["productid"].to_pylist()[TRAIN:] == [str(item.product) for item in TO_PREDICT]
    for file in folder.glob("x_test*"):
        file.unlink()
    assert pq.read_table(combined(folder, tmp_path)).num_rows == TRAIN


def test_a_product_without_an_image_id_has_no_image(tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    rewrite(folder / "X_train.tsv", lambda rows: [rows[0], [*rows[1][:3], " ", rows[1][4]], *rows[2:]])
    images = pq.read_table(combined(folder, tmp_path))["image"]
    assert (images[0].as_py(), images.null_count) == (None, 1)


def test_a_folder_in_an_object_store(tmp_path: Path) -> None:
    folder = f"memory://{tmp_path.name}"
    store, root = filesystem_of(folder)
    store.put(str(challenge(tmp_path)), root, recursive=True)
    table = pq.read_table(combined(f"{folder}/", tmp_path))
    assert table["image"][0].as_py() == f"{folder}/image_training/{photo_name(LABELLED[0])}"
    assert table.num_rows == TRAIN + TEST


@pytest.mark.usefixtures("in_process")
def test_text_that_is_not_utf8_is_rejected_alone(tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    content = (folder / "X_train.tsv").read_bytes()
    title = LABELLED[4].title.encode()
    assert content.count(title) >= 1
    (folder / "X_train.tsv").write_bytes(content.replace(title, b"Caf\xe9", 1))
    workspace = ingested(folder, tmp_path / "w")
    rejected = quarantine_table(workspace).read(["product_id", "reason"]).to_pylist()
    assert [row["reason"] for row in rejected] == ["undecodable_text"]
    assert Catalog(workspace=workspace).table.rows() == TRAIN + TEST - 1


def test_another_folder_is_none_of_the_challenge(tmp_path: Path) -> None:
    (tmp_path / "catalog_english_taxonomy.tsv").write_text("Prdtypecode\tTop level category\n")
    assert find_challenge(str(tmp_path)) is None
    assert find_challenge(str(tmp_path / "none")) is None
    (tmp_path / "X_train.tsv").write_text("")
    assert find_challenge(str(tmp_path / "X_train.tsv")) is None


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("X_train.tsv", "no X_train.tsv; found Y_train.tsv, x_test_task1_phase1.tsv, expected X_train.tsv beside"),
        ("Y_train.tsv", "no Y_train.tsv; found X_train.tsv, x_test_task1_phase1.tsv, expected Y_train.tsv beside"),
    ],
)
def test_a_folder_without_x_or_y(remove: str, message: str, tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    (folder / remove).unlink()
    with pytest.raises(InputError, match=f"^{re.escape(f'{folder}: {message}')}$"):
        find_challenge(str(folder))


def test_both_issues_in_one_folder(tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    write_rows(folder / "Y_train_CVw08PX.csv", ["", "prdtypecode"], [(0, "10")])
    with pytest.raises(InputError, match=r"both issues of the challenge, X_train.tsv, .*Y_train_CVw08PX.csv; expected"):
        find_challenge(str(folder))


def without(rows: list[list[str]], name: str) -> list[list[str]]:
    at = rows[0].index(name)
    return [row[:at] + row[at + 1 :] for row in rows]


def renamed(rows: list[list[str]], name: str, other: str) -> list[list[str]]:
    return [[other if cell == name else cell for cell in rows[0]], *rows[1:]]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "X_train.tsv",
            lambda rows: without(rows, "Description"),
            "column 'Description' is missing or comes twice; found ['Integer_id', 'Title', 'Image_id', 'Product_id'],"
            " expected ['Integer_id', 'Title', 'Description', 'Image_id', 'Product_id']",
        ),
        (
            "X_train.tsv",
            lambda rows: renamed(rows, "Image_id", "title"),
            "column 'Title', 'Image_id' is missing or comes twice; found",
        ),
        (
            "Y_train.tsv",
            lambda rows: without(rows, "Prdtypecode"),
            "column 'Prdtypecode' is missing or comes twice; found",
        ),
        (
            "x_test_task1_phase1.tsv",
            lambda rows: without(rows, "Product_id"),
            "column 'Product_id' is missing or comes twice; found",
        ),
        ("X_train.tsv", lambda rows: rows[:1], "found no rows, only a header; expected"),
        ("Y_train.tsv", lambda rows: rows[:1], "found no rows, only a header; expected"),
        ("X_train.tsv", lambda rows: [*rows, rows[3]], "found 1 ids (2) twice as 'Integer_id'; expected each once"),
        ("Y_train.tsv", lambda rows: [*rows, rows[1]], "found 1 ids (0) twice as 'Integer_id'; expected each once"),
        (
            "Y_train.tsv",
            lambda rows: [rows[0], *rows[5:], ["99", "10"]],
            "found 4 ids (0, 1, 2, ...) of X_train.tsv left out and 1 ids (99) unknown there; expected the same"
            " 'Integer_id' in both",
        ),
        (
            "Y_train.tsv",
            lambda rows: [*rows, ["99", "10"]],
            "found none of X_train.tsv left out and 1 ids (99) unknown there; expected the same",
        ),
        (
            "Y_train.tsv",
            lambda rows: [*rows[:2], [rows[2][0], ""], *rows[3:]],
            f"1 of {TRAIN} rows have no usable 'Prdtypecode'",
        ),
        ("X_train.tsv", lambda rows: [*rows, ["77", "a title"]], f"row {TRAIN} has 2 columns, expected 5"),
        (
            "catalog_english_taxonomy.tsv",
            lambda rows: [row for row in rows if row[0] not in ("10", "2280")],
            "found 25 codes, without 2 ids (10, 2280) of Y_train.tsv; expected every code, or no such file",
        ),
        ("catalog_english_taxonomy.tsv", lambda rows: [*rows, ["10", "Books"]], "found 1 ids (10) twice as"),
    ],
)
def test_a_file_that_cannot_be_used(
    file: str, change: Callable[[list[list[str]]], list[list[str]]], message: str, tmp_path: Path
) -> None:
    folder = challenge(tmp_path)
    rewrite(folder / file, change)
    with pytest.raises(InputError, match=f"^{re.escape(f'{folder}/{file}: {message}')}") as caught:
        combined(folder, tmp_path / "made")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_a_column_of_the_reissue_without_its_name(tmp_path: Path) -> None:
    folder = challenge(tmp_path, "csv")
    rewrite(folder / ENS.labels, lambda rows: renamed(rows, "", "row"))
    with pytest.raises(
        InputError, match=r"CVw08PX.csv: column '' \(the one without a name\) is missing or comes twice; found \['row"
    ):
        combined(folder, tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_zero_bytes(form: Form, tmp_path: Path) -> None:
    folder = challenge(tmp_path, form)
    file = folder / (SIGIR if form == "tsv" else ENS).products
    file.write_text("")
    with pytest.raises(InputError, match=f"^{file}: the file is empty; expected columns "):
        combined(folder, tmp_path)


@pytest.mark.parametrize(
    ("file", "found"), [("x_test_task1_phase1.tsv", "X_train.tsv, x_test_task1_phase1.tsv"), ("X_train.tsv", None)]
)
def test_a_product_id_that_comes_twice(file: str, found: str | None, tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    product = str(LABELLED[0].product)
    rewrite(folder / file, lambda rows: [*rows[:-1], [*rows[-1][:4], product]])
    where = f"found 1 ids ({product}) twice as 'Product_id' in {found or file}; expected each product once"
    with pytest.raises(InputError, match=re.escape(f"{folder}: {where}")):
        combined(folder, tmp_path)


def ingested(folder: Path, workspace: Path) -> Workspace:
    ingest.main(ingest.Ingest(workspace=str(workspace), source=str(folder), preset="rakuten2020"))
    return Workspace.open(str(workspace))


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("form", FORMS)
def test_a_missing_photo_leaves_the_text(form: Form, tmp_path: Path) -> None:
    folder = challenge(tmp_path, form)
    for item in (LABELLED[3], TO_PREDICT[1]):
        next(folder.rglob(photo_name(item))).unlink()
    workspace = ingested(folder, tmp_path / "w")
    rejected = quarantine_table(workspace).read(["product_id", "modality", "reason"]).to_pylist()
    missing = {"modality": "image", "reason": "image_missing"}
    assert sorted(rejected, key=str) == [
        {"product_id": str(item.product), **missing} for item in (LABELLED[3], TO_PREDICT[1])
    ]
    keys = Catalog(workspace=workspace).keys()
    assert (keys.num_rows, keys["image_hash"].null_count, keys["text_hash"].null_count) == (TRAIN + TEST, 2, 0)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("form", FORMS)
def test_all_codes_are_learned_and_products_to_predict_have_none(form: Form, tmp_path: Path) -> None:
    workspace = ingested(challenge(tmp_path, form), tmp_path / "w")
    labels = Catalog(workspace=workspace).labels()
    categories = {str(item.product): item.code for item in LABELLED}
    if form == "tsv":
        categories = {product: f"{TOP_OF[code]} > {code}" for product, code in categories.items()}
    found = dict(zip(labels["product_id"].to_pylist(), labels["category"].to_pylist(), strict=True))
    assert found == categories
    assert len(set(found.values())) == len(CODES)
    assert not quarantine_table(workspace).read().num_rows
    assert Catalog(workspace=workspace).table.rows() == TRAIN + TEST


@pytest.mark.usefixtures("in_process")
def test_the_same_folder_again_is_nothing_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = challenge(tmp_path)
    ingested(folder, tmp_path / "w")
    (folder / "Y_train.tsv").touch()
    workspace = ingested(folder, tmp_path / "w")
    assert "nothing new in" in capsys.readouterr().err
    rewrite(folder / "x_test_task1_phase1.tsv", lambda rows: [*rows[:-1], [rows[-1][0], "Neuf", *rows[-1][2:]]])
    ingested(folder, tmp_path / "w")
    run = last_run(workspace, "ingest")
    assert run is not None
    assert (run["counts"]["new"], run["counts"]["edited"]) == (0, 1)


@pytest.mark.usefixtures("in_process")
def test_a_table_of_ones_own_is_read_with_the_preset(tmp_path: Path) -> None:
    header = ["productid", "designation", "description", "image", "prdtypecode"]
    (tmp_path / "own").mkdir()
    write_rows(tmp_path / "own" / "table.csv", header, [(1, "Roman", "", "", "10"), (2, "Lampe", "", "", "2060")])
    labels = Catalog(workspace=ingested(tmp_path / "own", tmp_path / "w")).labels()
    assert labels["category"].to_pylist() == ["10", "2060"]


def test_a_bad_folder_leaves_no_workspace(tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    rewrite(folder / "Y_train.tsv", lambda rows: rows[:-1])
    with pytest.raises(InputError, match=r"Y_train\.tsv: found 1 ids"):
        ingested(folder, tmp_path / "w")
    assert not (tmp_path / "w").exists()
