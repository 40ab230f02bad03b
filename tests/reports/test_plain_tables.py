import csv
import io

import numpy as np
import pytest

from mmbatch.reports.plain_tables import csv_bytes, markdown_table, markdown_text, percent, signed


def test_figures_have_their_digits_and_a_dash_where_there_is_none():
    assert [percent(0.91964), percent(1.0), percent(float("nan"))] == ["91.96", "100.00", "–"]
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


def test_a_markdown_table_puts_figures_to_the_right():
    assert markdown_table(("Model", "Rows"), [("a", "1"), ("b", "20")], figures=1) == (
        "| Model | Rows |\n| --- | ---: |\n| a | 1 |\n| b | 20 |"
    )


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe(first):
    hostile = f"{first}HYPERLINK(1)"
    rows = list(csv.reader(io.StringIO(csv_bytes(["name"], [[hostile]]).decode(), newline="")))
    assert rows == [["name"], [f"'{hostile}"]]


def test_a_heading_that_a_spreadsheet_would_run_gets_one_too():
    assert csv_bytes(["=cmd|1"], []) == b"'=cmd|1\r\n"


def test_numbers_stay_numbers_and_what_is_missing_is_empty():
    row = [-0.25, np.float64(-1.5), 3, float("nan"), None, "-0.25", "a=b"]
    assert csv_bytes(list("abcdefg"), [row]) == b"a,b,c,d,e,f,g\r\n-0.25,-1.5,3,,,'-0.25,a=b\r\n"


@pytest.mark.parametrize("text", ["a\r=1+1", "a\n=1+1", 'say "=1+1"', "a,=1+1"])
def test_no_part_of_a_text_passes_for_a_cell_of_its_own(text):
    written = csv_bytes(["name"], [[text]]).decode()
    assert written == 'name\r\n"' + text.replace('"', '""') + '"\r\n'
