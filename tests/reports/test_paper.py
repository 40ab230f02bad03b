import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from mmbatch.reports.paper import Paper, write_paper
from mmbatch.reports.paper_analysis import ModelPredictions, alone, corrections, modality_value, top_levels
from mmbatch.reports.paper_tables import CorrectionRow, LateFusionScores, ModelScore

HOSTILE = "=cmd|'/c calc'!A1\n| <b>Gras</b> | 전화기 *fin*"
GOLDEN = Path(__file__).parent / "paper.md"


def paper(*, categories: tuple[str, ...] = ("Livres > Romans", "Livres > BD", "Jouets > Poupées | 인형")) -> Paper:
    """The hand-worked case of four products and three models; the title of the second is hostile."""
    predictions = ModelPredictions(
        models=("camembert", "se_resnext", "concatenation"),
        modalities=("text", "image", "fused"),
        categories=categories,
        gold=np.array([0, 1, 2, 2]),
        fused=np.array([0, 1, 2, 0]),
        codes=np.array([[0, 1, 1], [2, 1, -1], [0, 2, 2], [2, 0, 0]]),
        contributions=np.array([[2.54, -0.5, 0.1], [-1.0, 3.25, np.nan], [0.5, 1.0, 2.0], [-0.5, 0.5, 1.5]]),
    )
    products = pa.table({"product_id": ["1", "-2", "3", "4"], "title": ["Le Rhino", HOSTILE, None, "x" * 200]})
    tops = top_levels(categories)
    found = corrections(predictions.gold, predictions.codes[:, 0], predictions.fused, tops)
    return Paper(
        predictor="rakuten2020@0f3c9a",
        run_id="20250314T020000-paper",
        scores=(
            ModelScore(group="Base models", model="camembert", split="test", rows=4, macro_f1=0.8921),
            ModelScore(group="Multi-modal", model="concatenation", split="test", rows=4, macro_f1=0.9093),
            ModelScore(group="Base models", model="se_resnext", split="test", rows=4, macro_f1=0.61441),
            ModelScore(group="Boosted", model="late fusion", split="test", rows=4, macro_f1=0.9053),
        ),
        late_fusion=LateFusionScores(honest=0.9, honest_rows=8_492, optimistic=0.9123, optimistic_rows=1_699),
        predictions=predictions,
        alone=alone(predictions, products),
        corrections=(CorrectionRow(base="camembert", fused="late fusion", corrections=found),),
        value=modality_value(predictions, {"text": "camembert", "image": "se_resnext"}),
    )


def written(folder: Path, shown: Paper) -> dict[str, str]:
    """The text files of a paper, by name."""
    uris = write_paper(str(folder), shown)
    return {Path(uri).name: Path(uri).read_bytes().decode() for uri in uris if not uri.endswith(".png")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return written(tmp_path_factory.mktemp("reports") / "runs" / "one", paper())


def cells(table: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(table, newline="")))


def section(page: str, heading: str) -> str:
    return page.split(f"## {heading}")[1].split("\n## ")[0]


def body(page: str, heading: str) -> list[list[str]]:
    """Cells of the last table below a heading, without its own headings."""
    lines = section(page, heading).split("| ---")[-1].splitlines()[1:]
    return [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines if line.startswith("|")]


def test_the_page_is_the_golden_one(files):
    assert files["paper.md"] == GOLDEN.read_text(encoding="utf-8")


def test_the_page_comes_last_and_all_that_it_links_to_is_there(tmp_path):
    uris = write_paper(f"{tmp_path}/a/", paper())
    assert uris[-1] == f"{tmp_path}/a/paper.md"
    links = re.findall(r"\]\(([\w.]+)\)", Path(uris[-1]).read_text(encoding="utf-8"))
    assert sorted(links) == sorted(Path(uri).name for uri in uris[:-1])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(Path(uri).name for uri in uris)
    assert (tmp_path / "a" / "figure_2.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_paper_gives_the_same_bytes(tmp_path):
    first, second = (
        {Path(uri).name: Path(uri).read_bytes() for uri in write_paper(str(tmp_path / name), paper())} for name in "ab"
    )
    assert first == second


def test_the_paper_goes_to_an_object_store():
    uris = write_paper("memory://lake/reports/paper", paper())
    filesystem = fsspec.filesystem("memory")
    assert uris[-1] == "memory://lake/reports/paper/paper.md"
    assert all(filesystem.size(uri) > 10 for uri in uris)


def test_table_1_keeps_groups_together_and_states_split_and_rows(files):
    assert cells(files["table_1.csv"]) == [
        ["group", "model", "split", "rows", "macro_f1_percent"],
        ["Base models", "camembert", "test", "4", "89.21"],
        ["Base models", "se_resnext", "test", "4", "61.441"],
        ["Multi-modal", "concatenation", "test", "4", "90.93"],
        ["Boosted", "late fusion", "test", "4", "90.53"],
    ]
    assert body(files["paper.md"], "Table 1")[1] == ["Base models", r"se\_resnext", "test", "4", "61.44"]


def test_honest_and_optimistic_stand_side_by_side_with_their_gap(files):
    found = section(files["paper.md"], "Late fusion, honest")
    assert [row[-2:] for row in body(files["paper.md"], "Late fusion, honest")] == [
        ["8,492", "90.00"],
        ["1,699", "91.23"],
    ]
    assert "The gap is +1.23 points." in found
    assert [row[2:] for row in cells(files["late_fusion.csv"])] == [
        ["rows", "macro_f1_percent"],
        ["8492", "90.0"],
        ["1699", "91.23"],
    ]


def test_table_2_shows_who_was_right_and_the_csv_what_each_said(files):
    assert body(files["paper.md"], "Table 2") == [
        ["camembert", "1", "Le Rhino", "Livres > Romans", "**✓ +2.54**", "✗ −0.50", "✗ +0.10"],
        [
            r"se\_resnext",
            "-2",
            r"=cmd\|'/c calc'!A1 \| &lt;b>Gras&lt;/b> \| 전화기 \*fin\*",
            "Livres > BD",
            "✗ −1.00",
            "**✓ +3.25**",
            "– –",
        ],
    ]
    headings, first, second = cells(files["table_2.csv"])
    assert headings[4:8] == [
        "camembert category",
        "camembert contribution_nats",
        "se_resnext category",
        "se_resnext contribution_nats",
    ]
    assert first[4:8] == ["Livres > Romans", "2.54", "Livres > BD", "-0.5"]
    assert second[1:4] == ["'-2", f"'{HOSTILE}", "Livres > BD"]
    assert second[-2:] == ["", ""]


def test_corrections_have_numbers_and_shares(files):
    headings, row = cells(files["corrections.csv"])
    assert dict(zip(headings, row, strict=True)) == {
        "base": "camembert",
        "fused": "late fusion",
        "wrong": "2",
        "corrected": "2",
        "top_level": "2",
        "top_level_percent": "100.0",
        "within": "0",
        "within_percent": "0.0",
        "not_scored": "0",
        "spoiled": "1",
    }


def test_modality_value_is_sorted_by_what_fusion_gains(files):
    rows = cells(files["modality_value.csv"])
    assert rows[0][:6] == [
        "category",
        "products",
        "text_accuracy_percent",
        "image_accuracy_percent",
        "fused_accuracy_percent",
        "gain_points",
    ]
    assert [row[:6] for row in rows[1:]] == [
        ["Jouets > Poupées | 인형", "2", "50.0", "50.0", "50.0", "0.0"],
        ["Livres > Romans", "1", "100.0", "0.0", "100.0", "0.0"],
        ["Livres > BD", "1", "0.0", "100.0", "100.0", "0.0"],
    ]
    assert body(files["paper.md"], "Which modality")[0][0] == r"Jouets > Poupées \| 인형"


def test_a_section_without_rows_is_left_out_with_its_file(tmp_path):
    nobody = tuple(replace(row, followed=0, examples=()) for row in paper().alone)
    files = written(tmp_path, replace(paper(), corrections=(), alone=nobody))
    assert {"corrections.csv", "table_2.csv"}.isdisjoint(files)
    assert "What fusion corrects" not in files["paper.md"]
    assert "table_2.csv" not in files["paper.md"]
    assert [row[1:] for row in body(files["paper.md"], "Table 2")] == [["2", "0"], ["1", "0"], ["0", "0"]]


def test_a_catalog_without_images_has_no_column_of_them(tmp_path):
    files = written(tmp_path, replace(paper(), value=modality_value(paper().predictions, {"text": "camembert"})))
    assert "image_accuracy_percent" not in files["modality_value.csv"]
    assert "Accuracy in percent: text by camembert, fused by late fusion." in files["paper.md"]


def test_thousands_of_categories_have_a_short_page_and_a_whole_file(tmp_path):
    classes = 4_000
    gold = np.arange(classes)
    many = ModelPredictions(
        models=("t", "i"),
        modalities=("text", "image"),
        categories=tuple(f"Haut {label // 100} > Milieu > Catégorie {label:04}" for label in range(classes)),
        gold=gold,
        fused=np.where(gold < 3_000, gold, 0),
        codes=np.stack([np.where(gold < 2_000, gold, 1), np.where(gold >= 3_990, gold, -1)], axis=1),
        contributions=np.ones((classes, 2)),
    )
    titles = pa.table({"product_id": gold.astype(str), "title": gold.astype(str)})
    value = modality_value(many, {"text": "t", "image": "i"})
    shown = replace(paper(), predictions=many, alone=alone(many, titles), value=value)
    files = written(tmp_path, shown)
    rows = body(files["paper.md"], "Which modality")
    assert len(rows) == 40
    assert rows[0][:2] == ["Haut 20 > Milieu > Catégorie 2000", "1"]
    assert rows[-1][5] == "−100.00"
    assert "Late fusion gains in 1,000 of 4,000 categories and loses in 10." in files["paper.md"]
    assert "Shown: the 40 categories of 4,000" in files["paper.md"]
    assert len(cells(files["modality_value.csv"])) == 4_001


@pytest.mark.parametrize("count", [39, 40, 41])
def test_no_category_is_shown_twice_or_forgotten_where_all_fit(tmp_path, count):
    gold = np.arange(count)
    some = ModelPredictions(
        models=("t",),
        modalities=("text",),
        categories=tuple(f"Kind {label:02}" for label in range(count)),
        gold=gold,
        fused=gold,
        codes=gold[:, None],
        contributions=np.ones((count, 1)),
    )
    titles = pa.table({"product_id": gold.astype(str), "title": gold.astype(str)})
    shown = replace(paper(), predictions=some, alone=alone(some, titles), value=modality_value(some, {"text": "t"}))
    page = written(tmp_path, shown)["paper.md"]
    names = [row[0] for row in body(page, "Which modality")]
    assert len(names) == len(set(names)) == min(count, 40)
    assert ("Shown: the 40 categories" in page) == (count > 40)


def test_a_hostile_predictor_and_model_stay_text(tmp_path):
    hostile = "=x](http://a)|<i>\n# T"
    bad = replace(paper().scores[0], model=hostile)
    files = written(tmp_path, replace(paper(), predictor=hostile, run_id=hostile, scores=(bad,)))
    assert files["paper.md"].splitlines()[0] == r"# What each model adds: =x\](http://a)\|&lt;i> # T"
    assert body(files["paper.md"], "Table 1") == [["Base models", r"=x\](http://a)\|&lt;i> # T", "test", "4", "89.21"]]
    assert cells(files["table_1.csv"])[1][1] == f"'{hostile}"


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"macro_f1": 91.96}, "camembert: found macro-F1 91.96, expected 0 to 1"),
        ({"macro_f1": float("nan")}, "camembert: found macro-F1 nan"),
        ({"rows": 0}, "camembert: found 0 rows, expected at least 1"),
    ],
)
def test_a_score_in_percent_or_of_no_rows_is_refused(score, message):
    with pytest.raises(ValueError, match=message):
        replace(paper().scores[0], **score)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"honest_rows": 0}, "late fusion, honest: found 0 rows"),
        ({"optimistic": -0.1}, "late fusion, optimistic: found macro-F1 -0.1"),
    ],
)
def test_late_fusion_scores_are_checked(score, message):
    with pytest.raises(ValueError, match=message):
        replace(paper().late_fusion, **score)


def test_a_page_without_scores_has_no_table_of_them(tmp_path: Path):
    files = write_paper(str(tmp_path), replace(paper(), scores=(), late_fusion=None))
    assert not {"table_1.csv", "late_fusion.csv"} & {Path(file).name for file in files}
    page = (tmp_path / "paper.md").read_text()
    assert "Table 1" not in page
    assert "optimistic" not in page
    assert "## Table 2" in page


def test_parts_that_do_not_belong_together_are_refused():
    whole = paper()
    with pytest.raises(ValueError, match=r"right alone: found models \('camembert', 'se_resnext'\)"):
        replace(whole, alone=whole.alone[:2])
    with pytest.raises(ValueError, match="value of modalities: found 5 products, expected 4"):
        replace(whole, value=replace(whole.value, products=whole.value.products + np.array([1, 0, 0])))
