import csv
import io

import numpy as np
import pytest

from mmbatch.reports.plain_tables import (
    Column,
    counts,
    csv_bytes,
    markdown_table,
    markdown_text,
    nats,
    percents,
    points,
    signed,
    texts,
)


def test_a_signed_figure_has_its_sign_and_a_dash_where_there_is_none():
    assert [signed(2.537), signed(-0.2), signed(float("nan"))] == ["+2.54", "−0.20", "–"]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a|b", r"a\|b"),
        ("two\nlines\r\nand\ttabs", "two lines and tabs"),
        ("null\x00 and escape\x1b[31m", r"null and escape \[31m"),
        ("<script>alert(1)</script> & co", "&lt;script>alert(1)&lt;/script> &amp; co"),
        ("[click](https://example.org)", r"\[click\](https://example.org)"),
        ("*bold* _it_ `code` ~no~ $x$ a\\b", r"\*bold\* \_it\_ \`code\` \~no\~ \$x\$ a\\b"),
        ("Téléphone à cadran, 한국어 이름", "Téléphone à cadran, 한국어 이름"),
        ("Books > Novels", "Books > Novels"),
        ("", "–"),
        (" \n", "–"),
        (None, "–"),
    ],
)
def test_a_markdown_cell_is_one_line_of_plain_text(text, cell):
    assert markdown_text(text) == cell


TABLE = [
    texts("model", "The | model", ["a", "=b\nc", None]),
    counts("rows", "Rows", np.array([1, 20_000, 3])),
    percents("macro", "Macro", [0.91964, np.float64(0.07), float("nan")]),
    points("gain", "Gain", [-0.0125, 0.0, float("nan")]),
    nats("size", "Size", [1.5, float("nan"), 0.25]),
    Column(None, "Page only", ["x", "y", "z"], str, right=True),
    Column("file only", None, [-0.5, None, "-0.5"], str, right=True),
]


def test_markdown_shows_what_has_a_heading_with_figures_at_the_right():
    assert markdown_table(TABLE).splitlines() == [
        r"| The \| model | Rows | Macro | Gain | Size | Page only |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| a | 1 | 91.96 | −1.25 | 1.50 | x |",
        "| =b c | 20,000 | 7.00 | +0.00 | – | y |",
        "| – | 3 | – | – | 0.25 | z |",
    ]


def test_markdown_shows_the_rows_that_are_asked_for():
    assert [line.split(" | ")[0] for line in markdown_table(TABLE, [2, 0]).splitlines()[2:]] == ["| –", "| a"]
    assert len(markdown_table(TABLE, []).splitlines()) == 2


def test_csv_holds_what_has_a_name_with_numbers_as_numbers_and_nothing_where_there_is_none():
    assert csv_bytes(TABLE).decode() == (
        "model,rows,macro_percent,gain_points,size_nats,file only\r\n"
        "a,1,91.964,-1.25,1.5,-0.5\r\n"
        '"\'=b\nc",20000,7.0,0.0,,\r\n'
        ",3,,,0.25,'-0.5\r\n"
    )


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe(first):
    hostile = f"{first}HYPERLINK(1)"
    written = csv_bytes([texts(hostile, "Name", [hostile, "a" + hostile])]).decode()
    assert list(csv.reader(io.StringIO(written, newline=""))) == [[f"'{hostile}"], [f"'{hostile}"], ["a" + hostile]]


@pytest.mark.parametrize("text", ["a\r=1+1", "a\n=1+1", 'say "=1+1"', "a,=1+1"])
def test_no_part_of_a_text_passes_for_a_cell_of_its_own(text):
    written = csv_bytes([texts("name", "Name", [text])]).decode()
    assert written == 'name\r\n"' + text.replace('"', '""') + '"\r\n'


def test_columns_of_different_lengths_are_no_table():
    with pytest.raises(ValueError, match="zip"):
        csv_bytes([texts("a", "A", ["x"]), texts("b", "B", [])])
