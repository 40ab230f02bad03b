"""docs/predictions.md names every column of the two tables with its type, and its examples run."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from mmbatch import schema
from tests.conftest import ROOT
from tests.published_tables import new_workspace, prediction, publish

TEXT = (ROOT / "docs" / "predictions.md").read_text()
NAMES = {pa.string(): "string", pa.int64(): "long", pa.int32(): "integer", pa.float32(): "float"}
"""Arrow type -> Delta's name of it."""


def delta_name(type: pa.DataType) -> str:
    if pa.types.is_list(type):
        return f"array<{delta_name(type.value_type)}>"
    if pa.types.is_map(type):
        return f"map<{delta_name(type.key_type)},{delta_name(type.item_type)}>"
    return NAMES[type]


def documented(heading: str) -> list[tuple[str, ...]]:
    """Cells of the table below a heading."""
    section = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    [found] = [part for part in section if part.startswith(f"{heading}\n")]
    lines = [line for line in found.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


@pytest.mark.parametrize(("heading", "columns"), [("predictions", schema.PREDICTIONS), ("changes", schema.CHANGES)])
def test_every_column_is_documented_with_its_type(heading: str, columns: pa.Schema) -> None:
    rows = documented(heading)
    assert [(row[0], row[1]) for row in rows] == [
        (f"`{field.name}`", f"`{delta_name(field.type)}`") for field in columns
    ]
    assert [row[0] for row in rows if len(row) != 5 or not row[3] or not row[4]] == []


EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda code: code.split("\n")[0])
def test_the_examples_run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = new_workspace(tmp_path)
    publish(workspace, prediction("p"))
    publish(workspace, prediction("q"), app_id="two")
    (tmp_path / "ws").symlink_to(workspace.uri)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/predictions.md", "exec"), {})


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 4
    assert all("ws/predictions" in example for example in EXAMPLES)
