import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest

from jobs import submission as job
from mmbatch import schema
from mmbatch.errors import InputError
from mmbatch.predictions import Predictions
from mmbatch.submission import challenge_to_predict, submission, write_submission
from mmbatch.workspace import Settings, Workspace
from tests.conftest import run_job, run_json
from tests.rakuten_files import CODES, TOP_OF, Form, make_items, read_rows, write_challenge, write_rows

LABELLED, TO_PREDICT = make_items(train=len(CODES), test=6)
CODE_OF = {str(item.product): item.code for item in TO_PREDICT}
OTHER = {str(item.product): item.code for item in LABELLED}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    settings = Settings(preset="rakuten2020", level=2, seed=0, buckets=2)
    return Workspace.create(str(tmp_path / "w"), settings)


def challenge(folder: Path, form: Form = "tsv") -> Path:
    return write_challenge(folder / "challenge", LABELLED, TO_PREDICT, form=form)


def publish(workspace: Workspace, categories: Mapping[str, str | None]) -> None:
    """One version of the published predictions, of the products in no useful order."""
    ids = sorted(categories, reverse=True)
    rows = [
        dict.fromkeys(schema.PREDICTIONS.names)
        | {"product_id": key, "category": categories[key], "bucket": int(bucket)}
        for key, bucket in zip(ids, schema.bucket_of(ids, workspace.settings.buckets), strict=True)
    ]
    table = Predictions(workspace=workspace).table
    entries = table.write_buckets(pa.Table.from_pylist(rows, schema=schema.PREDICTIONS))
    table.commit(entries, app_id="published")


def written(workspace: Workspace, source: Path, out: Path) -> list[list[str]]:
    job.main(job.Submission(workspace=workspace.uri, source=str(source), out=str(out)))
    return read_rows(out)


def test_the_tsv_issue_gets_its_own_rows_and_the_code(workspace: Workspace, tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    publish(workspace, {key: f"{TOP_OF[code]} > {code}" for key, code in (OTHER | CODE_OF).items()})
    header, *rows = read_rows(folder / "x_test_task1_phase1.tsv")
    expected = [[*header, "Prdtypecode"], *([*row, CODE_OF[row[4]]] for row in rows)]
    assert written(workspace, folder, tmp_path / "out.tsv") == expected


def test_the_reissue_gets_the_columns_of_y(workspace: Workspace, tmp_path: Path) -> None:
    folder = challenge(tmp_path, "csv")
    publish(workspace, OTHER | CODE_OF)
    expected = [["", "prdtypecode"], *([str(item.number), item.code] for item in TO_PREDICT)]
    assert written(workspace, folder, tmp_path / "out.csv") == expected
    assert (tmp_path / "out.csv").read_text().startswith(f",prdtypecode\n{len(LABELLED)},")


def test_rows_keep_the_order_of_the_file(workspace: Workspace, tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    publish(workspace, CODE_OF)
    header, *rows = read_rows(folder / "x_test_task1_phase1.tsv")
    order = [3, 0, 5, 1, 4, 2]
    write_rows(folder / "x_test_task1_phase1.tsv", header[::-1], [rows[at][::-1] for at in order])
    found = written(workspace, folder, tmp_path / "out.tsv")
    assert found == [[*header[::-1], "Prdtypecode"], *([*rows[at][::-1], TO_PREDICT[at].code] for at in order)]


@pytest.mark.parametrize("left_out", [True, False])  # or published without a category: to be reviewed
def test_a_product_without_a_prediction_is_named_and_nothing_is_written(
    left_out: bool, workspace: Workspace, tmp_path: Path
) -> None:
    folder, out = challenge(tmp_path), tmp_path / "out.tsv"
    out.write_text("the last submission")
    left = sorted(CODE_OF)[2:4]
    decided = {key: code for key, code in CODE_OF.items() if key not in left}
    publish(workspace, decided if left_out else decided | dict.fromkeys(left))
    message = f"2 of 6 products have no published category in {workspace.uri} ({', '.join(left)}); expected one of each"
    with pytest.raises(InputError, match=re.escape(f"{folder}/x_test_task1_phase1.tsv: {message}")):
        written(workspace, folder, out)
    assert out.read_text() == "the last submission"
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.tsv"]


def test_nothing_is_published(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"6 of 6 products have no published category .*, \.\.\.\)"):
        written(workspace, challenge(tmp_path), tmp_path / "out.tsv")


def test_a_category_that_is_no_code_of_the_challenge(workspace: Workspace, tmp_path: Path) -> None:
    publish(workspace, CODE_OF | {sorted(CODE_OF)[1]: "Books"})
    with pytest.raises(InputError, match=r"1 products are published as no code of Y_train\.tsv, such as 'Books'"):
        written(workspace, challenge(tmp_path), tmp_path / "out.tsv")


def test_one_of_two_phases_is_named_by_its_file(workspace: Workspace, tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    publish(workspace, CODE_OF)
    header, *rows = read_rows(folder / "x_test_task1_phase1.tsv")
    write_rows(folder / "x_test_task1_phase1.tsv", header, rows[:2])
    write_rows(folder / "x_test_task1_phase2.tsv", header, rows[2:])
    with pytest.raises(InputError, match=r"phase1\.tsv, .*phase2\.tsv; expected to be told of one"):
        written(workspace, folder, tmp_path / "out.tsv")
    found = written(workspace, folder / "x_test_task1_phase2.tsv", tmp_path / "out.tsv")
    assert [row[-1] for row in found[1:]] == [item.code for item in TO_PREDICT[2:]]


def test_a_source_without_products_to_predict(tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    with pytest.raises(InputError, match=f"^--source {tmp_path}: found no file of the Rakuten challenge; expected its"):
        challenge_to_predict(str(tmp_path))
    with pytest.raises(InputError, match="expected to be told of one"):
        challenge_to_predict(str(folder / "X_train.tsv"))
    (folder / "x_test_task1_phase1.tsv").unlink()
    with pytest.raises(InputError, match="found files of products to predict: none; expected"):
        challenge_to_predict(str(folder))


def test_bytes_that_are_not_utf8_are_not_written(workspace: Workspace, tmp_path: Path) -> None:
    file = challenge(tmp_path) / "x_test_task1_phase1.tsv"
    publish(workspace, CODE_OF)
    file.write_bytes(file.read_bytes().replace(TO_PREDICT[0].title.encode(), b"Caf\xe9", 1))
    with pytest.raises(InputError, match=f"^{file}: cannot be read: "):
        submission(workspace, *challenge_to_predict(str(file)))


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    table, out = pa.table({"": ["1"], "prdtypecode": ["10"]}), tmp_path / "none" / "out.csv"
    with pytest.raises(InputError, match=f"^--out {out}: cannot be written: No such file or directory$"):
        write_submission(table, str(out), separator=",")


def test_the_job_writes_exits_and_says_so(workspace: Workspace, tmp_path: Path) -> None:
    folder, out = challenge(tmp_path, "csv"), tmp_path / "out.csv"
    flags = ("--workspace", workspace.uri, "--source", folder, "--out", out)
    done = run_job("submission", *flags)
    assert (done.returncode, out.exists()) == (2, False)
    assert done.stderr.startswith(f"error: {folder}/X_test_update.csv: 6 of 6 products have no published category")
    publish(workspace, CODE_OF)
    assert run_job("submission", *flags, "--dry-run").returncode == 0
    assert not out.exists()
    found = run_json("submission", *flags)
    assert found == {"file": f"{folder}/X_test_update.csv", "rows": 6, "out": str(out)}
    assert read_rows(out)[1] == [str(TO_PREDICT[0].number), TO_PREDICT[0].code]
    missing = run_job("submission", *flags[:4])
    assert (missing.returncode, "--source or --out is missing" in missing.stderr) == (2, True)
    own = run_job("submission", *flags[:4], "--out", f"{folder}/X_test_update.csv")
    assert (own.returncode, "found the challenge's own file, expected another" in own.stderr) == (2, True)
