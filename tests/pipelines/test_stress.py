"""The stress table: which products, what is removed from them, and what counts as wrong. Without Ray."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load

from mmbatch.catalog import Catalog
from mmbatch.encoders import encode
from mmbatch.encoders.ngram import NgramText
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.metrics import UNSCORED, f1_scores
from mmbatch.pipelines.extract import store_of
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.stress import draw, predicted, read_features, score, variants, without_descriptions
from mmbatch.prediction_rows import prediction_table
from mmbatch.predictor import EncoderPart, Features, Predictor, Scorer
from mmbatch.reports.evaluation import StressRow
from mmbatch.sources import Columns
from mmbatch.workspace import Settings, Workspace
from tests.made_predictor import predictor_of
from tests.pipelines.test_extract import publish

CATEGORIES = (("a",), ("b", "c"), ("b", "d"))
MODALITIES = {"img": "image", "txt": "text"}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    rng = np.random.default_rng(0)
    parts = (EncoderPart(id="img@1", modality="image", width=3), EncoderPart(id="txt@2", modality="text", width=2))
    probes = {
        part.name: (rng.normal(size=(3, part.width)).astype(np.float32), np.zeros(3, np.float32)) for part in parts
    }
    scorer = Scorer(encoders=parts, classifiers=probes, head=None, levels=Levels(Taxonomy(CATEGORIES)))
    return predictor_of(scorer, stored(60), np.arange(60) % 3)


def features(rows: int, width: int, *, seed: int, absent: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    present = ~np.isin(np.arange(rows), absent)
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float16)
    vectors[~present] = 0
    return vectors, present


def stored(rows: int, *, no_image: tuple[int, ...] = (), no_text: tuple[int, ...] = ()) -> Features:
    return {"img": features(rows, 3, seed=1, absent=no_image), "txt": features(rows, 2, seed=2, absent=no_text)}


def titles(rows: int, *, no_title: tuple[int, ...] = ()) -> Features:
    return {"txt": features(rows, 2, seed=3, absent=no_title)}


def labelled(rows: int) -> pd.DataFrame:
    numbers = np.arange(rows)
    splits = np.where(numbers % 2, "test", np.where(numbers % 4, "fusion", "train"))
    return pd.DataFrame({"product_id": [f"p{n:04d}" for n in numbers], "bucket": numbers // 2 % 4, "split": splits})


def test_only_test_products_are_drawn_from_as_few_buckets_as_suffice() -> None:
    rows = labelled(400)
    assert (set(draw(rows, seed=0, limit=1000)["split"]), len(draw(rows, seed=0, limit=1000))) == ({"test"}, 200)
    sample = draw(rows, seed=0, limit=70)
    assert sample["bucket"].tolist() == [0] * 50 + [1] * 20
    assert sample["product_id"].is_unique


def test_the_draw_depends_on_ids_and_seed_alone() -> None:
    rows = labelled(400)
    sample = draw(rows, seed=0, limit=70)["product_id"].tolist()
    assert draw(rows.sample(frac=1, random_state=0), seed=0, limit=70)["product_id"].tolist() == sample
    assert set(draw(rows, seed=1, limit=70)["product_id"]) != set(sample)
    assert sample[50:] != sorted(sample[50:]), "ids may be given in the order of the categories"


def test_titles_are_encoded_only_where_a_description_goes() -> None:
    vectors, present = features(6, 2, seed=2, absent=(2,))
    texts = pa.table(
        {  # of products 0, 1, 3, 4 and 5
            "title": ["both", "title", None, " ", "fails"],
            "description": ["words", None, "words", "words", "words"],
        }
    )
    asked: list[dict[str, str | None]] = []

    def encode(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        asked.extend(rows.to_pylist())
        return np.array([0]), np.full((1, 2), 7, np.float16)

    after, left = without_descriptions(vectors, present, texts, encode)
    assert asked == [{"title": title, "description": None} for title in ("both", None, " ", "fails")]
    assert left.tolist() == [True, True, False, False, False, False]
    np.testing.assert_array_equal(after, [[7, 7], vectors[1], [0, 0], [0, 0], [0, 0], [0, 0]])
    assert present.tolist() == [True, True, False, True, True, True], "what is stored stays as it is"


def test_no_encoder_runs_where_no_product_has_a_description() -> None:
    vectors, present = features(2, 2, seed=2)
    texts = pa.table({"title": ["one", "two"], "description": pa.nulls(2, pa.string())})
    after, left = without_descriptions(vectors, present, texts, encode=lambda _: pytest.fail("encoded"))
    np.testing.assert_array_equal(after, vectors)
    np.testing.assert_array_equal(left, present)


def test_each_variant_lacks_its_parts_and_keeps_the_others() -> None:
    whole, alone = stored(5, no_image=(1,)), titles(5, no_title=(4,))
    found = variants(whole, alone, MODALITIES)
    nothing = {name: (np.zeros_like(vectors), np.zeros_like(present)) for name, (vectors, present) in whole.items()}
    expected = {
        "all": whole,
        "no image": {"img": nothing["img"], "txt": whole["txt"]},
        "no text": {"img": whole["img"], "txt": nothing["txt"]},
        "no description": {"img": whole["img"], "txt": alone["txt"]},
        "title only": {"img": nothing["img"], "txt": alone["txt"]},
    }
    assert list(found) == list(expected)
    for name, given in expected.items():
        for encoder, arrays in given.items():
            for mine, wanted in zip(found[name][encoder], arrays, strict=True):
                np.testing.assert_array_equal(mine, wanted)


@pytest.mark.parametrize(
    ("whole", "alone", "expected"),
    [
        (stored(4), {"txt": stored(4)["txt"]}, ["all", "no image", "no text"]),
        (stored(4, no_image=(0, 1, 2, 3)), titles(4), ["all", "no text", "no description"]),
        (stored(4, no_text=(0, 1, 2, 3)), {}, ["all", "no image"]),
        (stored(4, no_text=(0, 1, 2, 3), no_image=(0, 1, 2, 3)), {}, ["all"]),
    ],
    ids=["no descriptions", "no images", "no texts", "no vectors"],
)
def test_a_variant_that_repeats_another_is_left_out(whole: Features, alone: Features, expected: list[str]) -> None:
    assert list(variants(whole, alone, MODALITIES)) == expected


def test_products_as_they_are_are_predicted_as_published_bit_for_bit(predictor: Predictor) -> None:
    given = stored(40, no_image=(1, 2))
    everything = variants(given, titles(40), MODALITIES)["all"]
    keys = {"product_id": [f"p{n}" for n in range(40)], "text_hash": ["t"] * 40, "image_hash": ["i"] * 40}
    published = prediction_table(pa.table(keys | {"bucket": [0] * 40}), given, predictor)
    _, joined = predictor.predict(everything)
    assert joined.max(axis=1).tobytes() == published["confidence"].to_numpy().tobytes()
    names = [" > ".join(CATEGORIES[code]) for code in predicted(everything, predictor)]
    assert names == published["category"].to_pylist()


def test_a_product_of_which_nothing_is_left_is_unscored_and_counts_as_wrong(predictor: Predictor) -> None:
    whole = stored(4, no_image=(1,), no_text=(3,))
    right = predicted(whole, predictor)
    gold = [" > ".join(CATEGORIES[code]) for code in right]
    found = variants(whole, titles(4, no_title=(0, 3)), MODALITIES)
    assert (predicted(found["no text"], predictor) == UNSCORED).tolist() == [False, True, False, False]
    assert (predicted(found["title only"], predictor) == UNSCORED).tolist() == [True, False, False, True]
    table = {row.input: row for row in score(found, predictor, gold)}
    assert (table["all"].macro, table["all"].micro) == (1.0, 1.0)
    assert {row.rows for row in table.values()} == {4}
    assert table["title only"].micro <= 0.5


def test_nothing_left_of_any_product_scores_nothing(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    found = variants(stored(3, no_image=(0, 1, 2)), {}, MODALITIES)
    monkeypatch.setattr(Predictor, "predict", lambda *_: pytest.fail("predicted from nothing"))
    assert [(row.input, row.macro) for row in score({"no text": found["no text"]}, predictor, ["a"] * 3)] == [
        ("no text", 0.0)
    ]


def test_a_row_holds_macro_and_micro_f1(predictor: Predictor) -> None:
    whole, gold = stored(40, no_image=(1,)), np.arange(40) // 2 % 3
    [row] = score({"all": whole}, predictor, [" > ".join(CATEGORIES[code]) for code in gold])
    expected = f1_scores(gold, predicted(whole, predictor))
    assert row == StressRow(input="all", rows=40, macro=expected.macro, micro=expected.micro)
    assert len({expected.macro, expected.micro, expected.weighted}) == 3


def test_a_category_that_the_predictor_does_not_know_is_wrong(predictor: Predictor) -> None:
    whole = stored(2)
    [code, _] = predicted(whole, predictor)
    [row] = score({"all": whole}, predictor, [" > ".join(CATEGORIES[code]), "of one product"])
    assert row.micro == 0.5


def test_every_product_gets_the_vector_of_its_own_title(tmp_path: Path, in_process: None) -> None:
    words = [{"id": f"p{n}", "title": f"title {n}", "text": f"words {n}" if n % 3 else None} for n in range(30)]
    pq.write_table(pa.Table.from_pylist(words), tmp_path / "source.parquet")
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=4))
    columns = Columns(id="id", title="title", description="text")
    ingest(workspace, source=str(tmp_path / "source.parquet"), columns=columns)
    encoder = NgramText.from_scratch(buckets=256, width=8, seed=0).eval()
    model = publish(workspace, encoder, "text", tmp_path / "text")
    catalog, store = Catalog(workspace=workspace), store_of(workspace, model)
    for bucket in range(1, 4):  # those of bucket 0 have no vector
        rows = catalog.table.read(buckets=[bucket]).combine_chunks()
        vectors = encode(encoder, encoder.prepare(rows).inputs, "cpu")
        entry = store.write(rows["product_id"].chunk(0), rows["text_hash"].chunk(0), vectors, bucket=bucket)
        store.table.commit([entry], app_id=f"test-{bucket}")
    sample = draw(catalog.keys().to_pandas().assign(split="test"), seed=0, limit=100)
    [done] = read_features({"number": 0}, catalog=catalog.pinned(), models=[model], sample=sample)
    found, by_id = load(done["arrays"]), {row["id"]: row for row in words}
    assert found["title_present"].tolist() == found["present"].tolist() == (sample["bucket"] > 0).tolist()
    for prefix, described in (("", True), ("title_", False)):
        rows = [by_id[product] for product in sample["product_id"]]
        texts = pa.table(
            {
                "title": [row["title"] for row in rows],
                "description": pa.array([row["text"] if described else None for row in rows], pa.string()),
            }
        )
        expected = encode(encoder, encoder.prepare(texts).inputs, "cpu") * found["present"][:, None]
        np.testing.assert_allclose(found[f"{prefix}vectors"], expected, atol=2e-3)
