import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmbatch.confidence_metrics import reliability, risk_coverage
from mmbatch.image_vectors import to_npy
from mmbatch.metrics import UNSCORED, confusion, f1_scores, per_class
from mmbatch.reports.confidence import Confidence, DecisionRow
from mmbatch.reports.evaluation import (
    SCORED,
    Evaluation,
    Example,
    LevelRow,
    ScoreRow,
    StressRow,
    table_text,
    write_report,
)
from mmbatch.reports.figures import most_confused, stress_png

SKILL = {"text-minilm": 0.8, "text-glove": 0.7, "image-effnet": 0.6, "concatenation": 0.86, "lightgbm": 0.9}
ROLE = {
    "text-minilm": "text encoder",
    "text-glove": "text encoder",
    "image-effnet": "image encoder",
    "concatenation": "fusion head",
    "lightgbm": "late fusion",
}
HOSTILE = "<script>alert('x')</script> & $10 off {{ 7 * 7 }}"


def picture(rng: np.random.Generator, mode: str = "RGB") -> bytes:
    """A JPEG, or PNG with transparency, of a coloured disc."""
    image = Image.new(mode, (320, 240), (0, 0, 0, 0) if mode == "RGBA" else "white")
    ImageDraw.Draw(image).ellipse((60, 20, 260, 220), fill=tuple(rng.integers(40, 220, 3).tolist()))
    written = io.BytesIO()
    image.save(written, "PNG" if mode == "RGBA" else "JPEG")
    return written.getvalue()


def confidence(gold: np.ndarray, predicted: np.ndarray, rng: np.random.Generator) -> Confidence:
    """Confidences that are nearly right after the temperature, and too high before."""
    right = gold == predicted
    after = np.clip(0.6 + 0.3 * right + rng.uniform(-0.1, 0.1, len(gold)), 0, 1)
    return Confidence(
        before=reliability(np.sqrt(after), right),
        after=reliability(after, right),
        curve=risk_coverage(after, right),
        target=0.95,
        thresholds="a precision of 95 % with 95 % confidence on 600 calibration rows: 80 % accepted",
        decisions=(
            DecisionRow(decision="accepted", products=1_500, share=0.75, precision=0.9613),
            DecisionRow(decision="backed_off", products=0, share=0.0, precision=None),
            DecisionRow(decision="review", products=500, share=0.25, precision=None),
        ),
    )


def demo(*, classes: int, rows: int, seed: int = 0, absent: tuple[int, ...] = ()) -> Evaluation:
    """An evaluation of random predictions; `absent` classes have no test products. Neighbours are confused most."""
    rng = np.random.default_rng(seed)
    names = tuple(f"Top {label // 4} > Middle > Kind {label}" for label in range(classes))
    frequency = np.where(np.isin(np.arange(classes), absent), 0, 1 / (1 + np.arange(classes)) ** 0.6)
    gold = rng.choice(classes, size=rows, p=frequency / frequency.sum())
    table, predicted = [], {}
    ease = rng.uniform(-0.25, 0.1, size=classes)
    for split, bonus in zip(SCORED, (0.09, 0.02, 0.0), strict=True):
        for model, skill in SKILL.items():
            right = rng.random(rows) < np.clip(skill + bonus + ease[gold], 0, 1)
            wrong = np.clip(gold + rng.choice([-2, -1, 1, 2, 3], size=rows), 0, classes - 1)
            guess = np.where(right, gold, wrong)
            predicted[model] = guess
            table.append(ScoreRow(model=model, role=ROLE[model], split=split, **f1_scores(gold, guess)._asdict()))
    predicted["image-effnet"][::50] = UNSCORED
    shown = ("lightgbm", "text-minilm", "image-effnet")
    examples = [
        Example(
            product_id=f"SKU-{row}",
            title=HOSTILE if row == 0 else f"Product {row} in a fine box, with everything that belongs to it",
            image=(None, b"no image at all", picture(rng, "RGBA"))[row] if row < 3 else picture(rng),
            gold=names[gold[row]],
            predicted=names[predicted["lightgbm"][row]] if row else "nothing",
            confidence=0.999 if row == 0 else float(rng.uniform(0.4, 0.99)),
            model_categories={name: names[of[row]] for name, of in predicted.items() if of[row] != UNSCORED},
        )
        for row in range(min(rows, 60))
    ]
    return Evaluation(
        workspace="s3://lake/mmbatch",
        predictor="sample@0f3c9a",
        run_id="20250314T020000-evaluate",
        classes=names,
        table=tuple(table),
        confusion=confusion(gold, predicted["lightgbm"], classes),
        per_class={model: per_class(gold, predicted[model], classes) for model in shown},
        counts={"catalog products": 12_345, "labelled": 12_000, "without image": 45, "quarantined: image_truncated": 3},
        late_fusion={
            "boosting rounds": 187,
            "cross-validated log-loss": np.float64(0.2471),
            "weight of each model": {"text-minilm": 0.51, "image-effnet": 0.29, "concatenation": 0.2},
        },
        levels=(LevelRow(model="late fusion", rows=40, accuracies=(0.9, 0.75), hierarchical_f1=0.8125, kakao=None),),
        confidence=confidence(gold, predicted["lightgbm"], rng),
        stress=tuple(
            StressRow(input=name, rows=1_234, macro=macro, micro=macro + 0.0123)
            for name, macro in (("all", 0.9), ("no image", 0.8111), ("no text", 0.5222), ("title only", 0.7333))
        ),
        examples=tuple(examples),
        timings={"read": 3.21, "score": 71.0, "SHAP": 3723.0},
    )


class Page(HTMLParser):
    """Elements, and every address that a browser would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "srcset", "href", "action", "data"}]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return demo(classes=24, rows=2000)


@pytest.fixture(scope="module")
def small() -> Evaluation:
    return demo(classes=3, rows=60)


@pytest.fixture(scope="module")
def folder(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "runs" / "one"
    assert write_report(str(folder), evaluation) == f"{folder}/report.html"
    return folder


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def assert_drawn(png: bytes) -> tuple[int, int]:
    """The PNG decodes and holds ink: more than one colour, in all thirds of its height. Its size in pixels."""
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("L"))
    assert all(third.std() > 1 for third in np.array_split(pixels, 3))
    return pixels.shape[1], pixels.shape[0]


def test_the_table_has_every_figure_in_its_place(evaluation):
    lines = table_text(evaluation).splitlines()
    assert re.split(r"\s{3,}", lines[1].strip()) == ["train (2,000 rows)", "fusion (2,000 rows)", "test (2,000 rows)"]
    for model in SKILL:
        cells = next(line for line in lines if f"  {model} " in line).split(model)[1].split()
        rows = {row.split: row for row in evaluation.table if row.model == model}
        expected = [
            figure for split in SCORED for figure in (rows[split].macro, rows[split].micro, rows[split].weighted)
        ]
        assert cells == [f"{100 * figure:.2f}" for figure in expected]
    assert "only the test column is an honest estimate" in " ".join(lines)
    assert max(map(len, lines)) <= 120


def test_the_table_shows_a_dash_for_what_was_not_scored(evaluation):
    table = tuple(row for row in evaluation.table if row.model != "lightgbm" or row.split == "test")
    text = table_text(replace(evaluation, table=table))
    cells = next(line for line in text.splitlines() if "lightgbm" in line).split("lightgbm")[1].split()
    assert cells[:6] == ["–"] * 6
    assert "–" not in cells[6:]


def test_the_levels_stand_between_and_are_in_the_page_and_in_json(evaluation, folder, html):
    lines = table_text(evaluation).splitlines()
    start = lines.index("Accuracy in percent on each level, test products; hF1: hierarchical F1")
    assert lines[start + 1].split() == ["model", "level", "1", "level", "2", "hF1"]
    assert lines[start + 3].split() == ["late", "fusion", "90.00", "75.00", "81.25"]
    assert "level 2" in Page(html).text
    assert json.loads((folder / "metrics.json").read_text())["levels"] == [
        {"model": "late fusion", "rows": 40, "accuracies": [0.9, 0.75], "hierarchical_f1": 0.8125, "kakao": None}
    ]


def test_four_levels_have_the_arenas_score_and_one_level_has_no_table(evaluation):
    row = LevelRow(model="m", rows=9, accuracies=(0.9, 0.8, 0.7, float("nan")), hierarchical_f1=0.8, kakao=1.0321)
    text = table_text(replace(evaluation, levels=(row,)))
    line = next(line for line in text.splitlines() if line.startswith("m "))
    assert line.split() == ["m", "90.00", "80.00", "70.00", "–", "80.00", "1.0321"]
    assert "level 1" not in table_text(replace(evaluation, levels=()))


def test_the_stress_table_stands_below_and_is_in_the_page_and_in_json(evaluation, folder, html):
    lines = table_text(evaluation).splitlines()
    start = lines.index("F1 in percent of late fusion on test products with parts removed")
    assert lines[start - 1] == ""
    assert [re.split(r"\s{2,}", line) for line in lines[start + 3 :]] == [
        ["all", "90.00", "91.23", "1,234"],
        ["no image", "81.11", "82.34", "1,234"],
        ["no text", "52.22", "53.45", "1,234"],
        ["title only", "73.33", "74.56", "1,234"],
    ]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", html.split("When a part is missing")[1])
    assert cells[:5] == ["all", "90.00", "91.23", "1,234", "no image"]
    assert (len(cells), "The same 1,234 test products" in html) == (16, True)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["stress"] == [vars(row) for row in evaluation.stress]


def test_the_stress_figure_changes_with_its_figures():
    whole = stress_png({"all": 0.9, "no image": 0.8})
    assert_drawn(whole)
    assert whole != stress_png({"all": 0.9, "no image": 0.7})


def test_the_page_states_the_facts(evaluation, html):
    page = Page(html)
    fused = next(row for row in evaluation.table if row.model == "lightgbm" and row.split == "test")
    single = max(row.macro for row in evaluation.table if row.role.endswith("encoder") and row.split == "test")
    gain = f"{100 * (fused.macro - single):+.2f}"
    golden = [f"{100 * fused.macro:.2f} %", gain, "12,345", "quarantined: image_truncated", "187", "0.2471", "0.51"]
    golden += ["s3://lake/mmbatch", "sample@0f3c9a", "20250314T020000-evaluate", "1 min 11 s", "1 h 02 min", "3.2 s"]
    golden += [f"{100 * row.weighted:.2f}" for row in evaluation.table]
    assert [fact for fact in golden if fact not in page.text] == []


def test_the_page_loads_nothing_and_runs_nothing(html):
    page = Page(html)
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert not re.search(r"https?://|url\(|@import", html)


def test_foreign_text_is_escaped(html):
    assert HOSTILE in Page(html).text
    assert "<script" not in html.lower()


def test_the_page_embeds_the_figures_that_lie_beside_it(folder, html):
    embedded = [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^\"]+)", html)]
    names = ["confusion_matrix.png", "per_class_f1.png", "modalities.png", "risk_coverage.png", "reliability.png"]
    names.append("stress.png")
    assert embedded == [(folder / name).read_bytes() for name in names]
    for png in embedded:
        assert min(assert_drawn(png)) > 350
    assert {path.name for path in folder.iterdir()} == {*names, "metrics.json", "report.html"}


def test_galleries_hold_confident_mistakes_and_what_fusion_saved(evaluation, html):
    mistakes, saved = (
        re.findall(r"SKU-\d+", part) for part in html.split("The most confident mistakes")[1].split("Right together")
    )
    by_id = {example.product_id: example for example in evaluation.examples}
    confidences = [by_id[product].confidence for product in mistakes]
    assert mistakes[0] == "SKU-0"
    assert confidences == sorted(confidences, reverse=True)
    assert all(by_id[product].predicted != by_id[product].gold for product in mistakes)
    assert len(saved) == 12
    for example in (by_id[product] for product in saved):
        assert example.predicted == example.gold
        opinions = [example.model_categories.get(model, example.gold) for model in SKILL if "-" in model]
        assert any(opinion != example.gold for opinion in opinions)


def test_an_image_that_came_as_a_vector_is_said(small, tmp_path):
    (vector,) = to_npy(np.ones((1, 2048))).to_pylist()
    example = replace(small.examples[3], predicted="nothing", image=vector)
    write_report(str(tmp_path), replace(small, examples=(example,)))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("image given as a vector") == 1
    assert "data:image/jpeg" not in html


def test_missing_and_broken_images_are_said_and_others_are_small_jpegs(small, tmp_path):
    wrong = tuple(replace(example, predicted="nothing") for example in small.examples[:4])
    write_report(str(tmp_path), replace(small, examples=wrong))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("no image</div>") == 1
    assert html.count("image cannot be read") == 1
    thumbnails = [base64.b64decode(found) for found in re.findall(r"data:image/jpeg;base64,([^\"]+)", html)]
    assert len(thumbnails) == 2
    for thumbnail in thumbnails:
        with Image.open(io.BytesIO(thumbnail)) as image:
            assert image.size == (240, 180)
            assert min(image.convert("L").getpixel((1, 1)), 250) == 250, "a transparent corner is white"


def test_metrics_json_holds_the_figures(evaluation, folder):
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["classes"] == list(evaluation.classes)
    assert metrics["table"][0] == vars(evaluation.table[0])
    assert metrics["per_class"]["lightgbm"]["f1"] == evaluation.per_class["lightgbm"].f1.tolist()
    assert sum(cell["products"] for cell in metrics["confusion"]) == evaluation.confusion.sum()
    assert metrics["late_fusion"]["cross-validated log-loss"] == 0.2471


def test_one_class(tmp_path):
    write_report(str(tmp_path), demo(classes=1, rows=30))
    for png in tmp_path.glob("*.png"):
        assert_drawn(png.read_bytes())


def test_four_hundred_classes_stay_readable(tmp_path):
    write_report(str(tmp_path), demo(classes=400, rows=6000))
    assert (
        "Of 400 categories the 40 of the most frequent confusions are shown" in (tmp_path / "report.html").read_text()
    )
    for png in tmp_path.glob("*.png"):
        assert max(assert_drawn(png.read_bytes())) < 4000


def test_the_most_confused_classes_are_shown_in_pairs():
    matrix = np.diag(np.arange(100))
    for count, (gold, predicted) in enumerate([(3, 90), (7, 8), (1, 60)], start=1):
        matrix[gold, predicted] = count
    shown = most_confused(matrix)
    assert shown[:6] == [1, 60, 7, 8, 3, 90]
    assert shown[6:] == [*range(99, 90, -1), *range(89, 64, -1)]
    assert most_confused(matrix[:7, :7]) == list(range(7))


def test_classes_without_test_products_have_no_figure(tmp_path):
    write_report(str(tmp_path), demo(classes=7, rows=300, absent=(2, 5)))
    for png in tmp_path.glob("*.png"):
        assert_drawn(png.read_bytes())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["per_class"]["text-minilm"]["support"][5] == 0
    assert metrics["per_class"]["text-minilm"]["recall"][5] is None


def test_no_examples(small, tmp_path):
    write_report(str(tmp_path), replace(small, examples=()))
    assert (tmp_path / "report.html").read_text().count("None among the examples.") == 2


def test_a_predictor_of_one_modality(small, tmp_path):
    table = tuple(row for row in small.table if row.role != "image encoder")
    scores = {model: scores for model, scores in small.per_class.items() if model != "image-effnet"}
    examples = small.examples[:1]
    write_report(str(tmp_path), replace(small, table=table, per_class=scores, examples=examples))
    assert_drawn((tmp_path / "modalities.png").read_bytes())
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "points of macro-F1 over text-" in text
    assert "image-effnet:" not in text


def test_category_names_are_text_not_formulas(small, tmp_path):
    names = ("Under $x_{ > $10", "소파 > 의자", "<b>Bold</b> " + "long " * 40)
    write_report(str(tmp_path), replace(small, classes=names))
    for png in tmp_path.glob("*.png"):
        assert max(assert_drawn(png.read_bytes())) < 3000


def test_the_page_is_written_only_after_everything_else(small, tmp_path):
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_report(str(tmp_path), small)
    assert not (tmp_path / "report.html").exists()


def test_the_report_goes_to_an_object_store(small):
    uri = write_report("memory://reports/run", small)
    assert uri == "memory://reports/run/report.html"
    with fsspec.open(uri, "rb") as file:
        assert file.read().startswith(b"<!doctype html>")


def test_confidences_and_decisions_are_shown(folder: Path, evaluation: Evaluation) -> None:
    text = table_text(evaluation)
    start = text.index("Decisions on test products, in percent; precision to reach: 95")
    lines = text[start:].splitlines()
    assert lines[3].split() == ["accepted", "1,500", "75.00", "96.13"]
    assert lines[4].split() == ["backed_off", "0", "0.00", "–"]
    assert lines[6].startswith("expected calibration error ")
    page = Page((folder / "report.html").read_text())
    assert "on 600 calibration rows: 80 % accepted" in page.text
    assert "backed off" in page.text
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["decisions"][0] == {"decision": "accepted", "products": 1500, "share": 0.75, "precision": 0.9613}
    assert sum(metrics["reliability"]["after"]["products"]) == 2000
    assert (folder / "reliability.png").stat().st_size > 10_000
    assert (folder / "risk_coverage.png").stat().st_size > 10_000
