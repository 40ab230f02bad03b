"""Bad flags and bad input: one clear line and exit code 2, before any work starts and with no workspace left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbatch.workspace import Settings, Workspace
from tests.conftest import ROOT, run_job

JOBS = [path.stem for path in sorted((ROOT / "jobs").glob("[a-z]*.py"))]
COLUMNS = ("--columns", "id=id", "title=title", "label=label")


def rows(count: int = 30, classes: int = 2) -> list[dict]:
    return [{"id": i, "title": f"thing {i}", "label": f"class {i % classes}"} for i in range(count)]


def refused(*command: object) -> str:
    done = run_job(*command)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("job", [job for job in JOBS if job != "drill"])  # that one makes its own workspace
def test_help_explains_every_flag(job: str) -> None:
    done = run_job(job, "--help", COLUMNS="200")
    assert done.returncode == 0
    assert "--workspace" in done.stdout
    assert "Root of the workspace" in done.stdout


def test_an_unknown_flag_and_a_wrong_type_are_refused() -> None:
    assert run_job("ingest", "--workspace", "w", "--sorce", "x").returncode == 2
    assert run_job("pipeline", "--workspace", "w", "--rows", "many").returncode == 2


@pytest.mark.parametrize("job", [job for job in JOBS if job not in ("drill", "ingest", "pipeline")])
def test_a_workspace_that_is_not_there(job: str, tmp_path: Path) -> None:
    flags = ("--out", tmp_path / "all.csv") if job == "export" else ()
    assert "no workspace.json there" in refused(job, "--workspace", tmp_path / "none", *flags)


def test_a_misspelt_column_names_the_likely_one(tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    file = write_csv(rows())
    line = refused("ingest", "--workspace", tmp_path / "w", "--source", file, "--columns", "id=id", "title=titel")
    assert "no column 'titel', did you mean 'title'?" in line
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["name=x"], "expected role=column with a role of id, title"),
        (["title="], "expected role=column"),
        (["title=title"], "id=COLUMN is missing"),
        (["id=id"], "none of title, description, image and image_vector is named"),
    ],
)
def test_columns_that_make_no_catalog(
    columns: list[str], found: str, tmp_path: Path, write_csv: Callable[..., Path]
) -> None:
    file = write_csv(rows())
    assert found in refused("ingest", "--workspace", tmp_path / "w", "--source", file, "--columns", *columns)


def test_a_snapshot_is_no_feed(tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    source = write_csv([{"sku": 1, "name": "a", "op": "c"}])
    flags = ("--workspace", tmp_path / "w", "--source", source, "--snapshot")
    line = refused("ingest", *flags, "--columns", "id=sku", "title=name", "operation=op")
    assert "--snapshot with --columns operation=op: a feed of changes does not name the whole catalog" in line
    assert not (tmp_path / "w").exists()


def test_a_source_that_is_not_there_or_empty(tmp_path: Path) -> None:
    assert "none.csv" in refused("ingest", "--workspace", tmp_path / "w", "--source", tmp_path / "none.csv", *COLUMNS)
    (tmp_path / "empty.csv").write_text("")
    flags = ("ingest", "--workspace", tmp_path / "w", *COLUMNS, "--source")
    assert "zero bytes" in refused(*flags, tmp_path / "empty.csv")
    (tmp_path / "header.csv").write_text("id,title,label\n")
    assert "no rows" in refused(*flags, tmp_path / "header.csv")
    assert "--source is missing" in refused("ingest", "--workspace", tmp_path / "w")


def test_a_wrong_separator_is_named(tmp_path: Path) -> None:
    (tmp_path / "wrong.tsv").write_text("id,title,label\n1,a,b\n")
    line = refused("ingest", "--workspace", tmp_path / "w", "--source", tmp_path / "wrong.tsv", *COLUMNS)
    assert "wrong.tsv" in line
    assert "separat" in line


def test_unknown_preset_encoder_and_predictor(tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    source = ("--source", write_csv(rows()))
    assert "only flipkart, flipkart-small, kakao, rakuten2020, sample" in refused(
        "ingest", "--workspace", tmp_path / "w", *source, "--preset", "x"
    )
    workspace = Workspace.create(str(tmp_path / "v"), Settings(preset="sample", level=1, seed=0, buckets=4))
    line = refused("finetune_encoder", "--workspace", workspace.uri, "--encoder", "bert")
    assert "preset sample has none of that name, only ngram-text, small-image" in line
    assert "no predictor p@1" in refused("predict", "--workspace", workspace.uri, "--predictor", "p@1")
    assert "no encoder there" in refused("extract_features", "--workspace", workspace.uri)


def test_a_workspace_made_with_other_settings(tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=4))
    line = refused(
        "ingest",
        "--workspace",
        tmp_path / "w",
        "--source",
        write_csv(rows()),
        *COLUMNS,
        "--seed",
        5,
        "--top-classes",
        2,
    )
    assert "made with other settings (seed is 0, asked for 5; top_classes is 0, asked for 2)" in line


def test_a_workspace_that_cannot_be_made(tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    source = ("--source", write_csv(rows()), *COLUMNS)
    assert "Protocol not known: ftq" in refused("ingest", "--workspace", "ftq://bucket/w", *source)
    (tmp_path / "file").write_text("")
    assert "cannot make this folder" in refused("ingest", "--workspace", tmp_path / "file" / "w", *source)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("not json", "workspace.json is not JSON"),
        ("[]", "workspace.json has not the keys"),
        ('{"format": 99}', "of format 99, this mmbatch reads and writes format 3"),
    ],
)
def test_a_workspace_file_of_another_kind(tmp_path: Path, content: str, line: str) -> None:
    (tmp_path / "workspace.json").write_text(content)
    assert line in refused("predict", "--workspace", tmp_path)


@pytest.mark.parametrize("flags", [("--level", 0), ("--seed", -1), ("--top-classes", -1)])
def test_numbers_out_of_range(flags: tuple, tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    line = refused("ingest", "--workspace", tmp_path / "w", "--source", write_csv(rows()), *COLUMNS, *flags)
    assert f"{flags[0]} {flags[1]}: expected" in line
    assert not (tmp_path / "w").exists()


def test_dry_run_says_what_it_would_do_and_does_nothing(tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    flags = ("--workspace", tmp_path / "w", "--source", write_csv(rows()), *COLUMNS, "--dry-run", "--json")
    done = run_job("ingest", *flags)
    assert done.returncode == 0
    assert json.loads(done.stdout)["work"]["files"] == 1
    assert not (tmp_path / "w").exists()
