from pathlib import Path

import pytest

from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy_edits import check_edits, edits_to_json, moved, read_edits

PATHS = (("Home", "Sofa"), ("Home", "Lamp"), ("Toys",), ("Fax",))
EDITS = {("Home", "Sofa"): (("Home", "Couch"),), ("Toys",): (("Games",), ("Dolls",)), ("Fax",): ()}


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_edits_are_read_from_json(tmp_path):
    text = '{"Home > Sofa": "Home > Couch", "Toys": ["Games", "Dolls"], "Fax": null}'
    assert read_edits(written(tmp_path, "edits.json", text)) == EDITS


def test_edits_are_read_from_csv_as_a_spreadsheet_writes_it(tmp_path):
    text = "\ufeffold,new\r\nHome > Sofa,Home > Couch\r\nToys,Games\r\n\r\nFax,\r\nToys,Dolls\r\n"
    assert read_edits(written(tmp_path, "edits.CSV", text)) == EDITS


def test_no_edit_is_an_edit(tmp_path):
    assert read_edits(written(tmp_path, "none.json", "{}")) == {}
    assert read_edits(written(tmp_path, "none.csv", "old,new\n")) == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.txt", "", "ending in '.txt', expected .json or .csv"),
        ("e.json", "{", "not JSON"),
        ("e.json", '["Toys"]', "expected one JSON object"),
        ("e.json", '"Toys"', "expected one JSON object"),
        ("e.json", '{"Toys": 3}', "new path of 'Toys' is 3, expected a path, a list of paths, or null"),
        ("e.json", '{"Toys": ["Games", 3]}', "expected a path"),
        ("e.json", '{"Toys": {"a": "b"}}', "expected a path"),
        ("e.json", '{"Toys": []}', "empty list, expected null where it is removed"),
        ("e.json", '{"Toys": ""}', "path '' has an empty name"),
        ("e.json", '{"Toys": "Home >  > Doll"}', "path 'Home >  > Doll' has an empty name"),
        ("e.json", '{"Toys": "A", "Toys": "B"}', "old path 'Toys' appears 2 times"),
        ("e.json", '{"Toys": ["A", "B", "A"]}', "'Toys': new path 'A' appears 2 times"),
        ("e.csv", "", "found header"),
        ("e.csv", "from,to\na,b\n", r"found header \[\['from', 'to'\]\], expected \['old', 'new'\]"),
        ("e.csv", "old,new\nToys,Games,Dolls\n", "found row .* expected an old and a new path"),
        ("e.csv", "old,new\nToys,Games\nToys,\n", "'Toys' has 2 rows, one without a new path"),
        ("e.csv", "old,new\n,Games\n", "path '' has an empty name"),
        ("e.csv", 'old,new\n"Toys,Games\n', "cannot be split into rows"),
        ("e.csv", "old,new\nToys,A\nToys,A\n", "'Toys': new path 'A' appears 2 times"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_edits(written(tmp_path, name, text))
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"edits.json: no such file"):
        read_edits(str(tmp_path / "edits.json"))
    (tmp_path / "bytes.csv").write_bytes(b"old,new\nToys,\xff\n")
    with pytest.raises(InputError, match=r"bytes.csv: cannot be read: .*utf-8"):
        read_edits(str(tmp_path / "bytes.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder.csv: cannot be read"):
        read_edits(str(tmp_path / "folder.csv"))


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({("Home", "Bed"): ()}, "old path 'Home > Bed' is unknown"),
        ({("Toys",): ((),)}, "'Toys' gets an empty new path"),
        ({("Toys",): (("Games", ""),)}, "'Toys' gets an empty new path"),
        ({("Toys",): (("Games",), ("Games",))}, "'Toys': new path 'Games' appears 2 times"),
        ({("Home",): (("House",), ("Flat",))}, "'Home' is split but has categories below it, which would have 2 par"),
        ({("Toys",): (("Fax",),), ("Fax",): (("Toys",),)}, "cycle '(Toys|Fax)' -> '(Toys|Fax)' -> '(Toys|Fax)'; expec"),
    ],
)
def test_edits_that_do_not_fit_the_tree_are_refused(edits, message):
    with pytest.raises(InputError, match=message):
        check_edits(edits, paths=PATHS)


def test_edits_that_fit_pass():
    check_edits(EDITS, paths=PATHS)
    check_edits({("Home",): (("House",),), ("Home", "Sofa"): (("Couch",),)}, paths=PATHS)
    check_edits({("Toys",): (("Toys",), ("Dolls",))}, paths=PATHS)
    check_edits({("Toys",): (("Fax",),), ("Fax",): (("Phone",),)}, paths=PATHS)


def test_the_deepest_edited_node_decides():
    edits = {("Home",): (("House",),), ("Home", "Sofa"): (("Couch",),)}
    assert moved(("Home", "Lamp", "Desk"), edits) == (("House", "Lamp", "Desk"),)
    assert moved(("Home", "Sofa", "Bed"), edits) == (("Couch", "Bed"),)
    assert moved(("Toys",), edits) == (("Toys",),)
    assert moved(("Home", "Lamp"), {("Home",): ()}) == ()


def test_a_path_that_is_there_already_stays():
    edits = {("Home",): (("Home", "Indoors"),), ("Toys",): (("Toys",), ("Toys", "Dolls"))}
    assert moved(("Home", "Lamp"), edits) == (("Home", "Indoors", "Lamp"),)
    assert moved(("Home", "Indoors", "Lamp"), edits) == (("Home", "Indoors", "Lamp"),)
    assert moved(("Toys",), edits) == (("Toys",), ("Toys", "Dolls"))
    assert moved(("Toys", "Dolls"), edits) == (("Toys", "Dolls"),)


def test_written_edits_are_read_again(tmp_path):
    for edits in (EDITS, {}, {("소파",): (("가구", "소파"),)}):
        assert read_edits(written(tmp_path, "again.json", edits_to_json(edits))) == edits
