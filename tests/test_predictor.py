from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmbatch import schema
from mmbatch.errors import InputError
from mmbatch.fusion.head import ConcatenationHead, CrossAttentionHead
from mmbatch.fusion.late import LateFusion
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.prediction_rows import TOP_K, prediction_table
from mmbatch.predictor import EncoderPart, Predictor, Scorer
from mmbatch.taxonomy_history import TaxonomyHistory
from tests.made_predictor import predictor_of

CATEGORIES = (("a",), ("b", "c"), ("b", "d"))
PARTS = (EncoderPart(id="img@1", modality="image", width=3), EncoderPart(id="txt@2", modality="text", width=2))


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    classifiers = {
        part.name: (rng.normal(size=(3, part.width)).astype(np.float32), np.zeros(3, np.float32)) for part in PARTS
    }
    head = ConcatenationHead(
        widths={"img": 3, "txt": 2},
        modalities={"img": "image", "txt": "text"},
        classes=[3],
        hidden=4,
        dropout=0.5,
        modality_dropout=0.3,
    ).eval()
    scorer = Scorer(encoders=PARTS, classifiers=classifiers, head=head, levels=Levels(Taxonomy(CATEGORIES)))
    scores = scorer.scores(features(60))[:, 1]
    unsure = np.argsort(scores.max(axis=1))[:8]  # there the text is wrong, elsewhere right
    codes = scores.argmax(axis=1)
    codes[unsure] = (codes[unsure] + 1) % 3
    return predictor_of(scorer, features(60), codes, target=0.9)


def features(rows: int, *, without_image: tuple[int, ...] = ()) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    present = np.ones(rows, bool)
    present[list(without_image)] = False
    image = rng.normal(size=(rows, 3)).astype(np.float16)
    return {"img": (image, present), "txt": (rng.normal(size=(rows, 2)).astype(np.float16), np.ones(rows, bool))}


def test_a_model_without_its_modality_has_no_score_and_the_product_still_has_a_prediction(predictor: Predictor) -> None:
    scores, joined = predictor.predict(features(5, without_image=(2,)))
    assert predictor.scorer.models == ("img", "txt", "fusion-head")
    assert np.isnan(scores[2]).all(axis=1).tolist() == [True, False, False]
    assert not np.isnan(scores[[0, 1, 3, 4]]).any()
    np.testing.assert_allclose(joined.sum(axis=1), 1, atol=1e-5)


def test_a_predictor_comes_back_from_its_files_whole(predictor: Predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    loaded = Predictor.load(tmp_path)
    given = features(20, without_image=(3,))
    for before, after in zip(predictor.predict(given), loaded.predict(given), strict=True):
        np.testing.assert_array_equal(before, after)
    assert loaded.categories == CATEGORIES


@pytest.fixture
def over_sequences(predictor: Predictor) -> Predictor:
    """Its head reads sequences; what of them is stored is 8 numbers a product."""
    torch.manual_seed(0)
    modalities = {"img": "image", "txt": "text"}
    head = CrossAttentionHead(
        widths={"img": 5, "txt": 4}, modalities=modalities, classes=[3], blocks=1, heads=2, dropout=0.5
    )
    return replace(predictor, scorer=replace(predictor.scorer, head=head.eval(), joined="fusion-head@3"))


def joined(rows: int, *, without: tuple[int, ...] = ()) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    present = ~np.isin(np.arange(rows), without)
    return {"fusion-head": (np.random.default_rng(2).normal(size=(rows, 8)).astype(np.float16), present)}


def test_a_head_over_sequences_scores_by_its_stored_embeddings(over_sequences: Predictor, tmp_path: Path) -> None:
    given = features(6, without_image=(2,)) | joined(6, without=(4,))
    scores = over_sequences.scorer.scores(given)
    embeddings = torch.from_numpy(given["fusion-head"][0].astype(np.float32))
    assert over_sequences.scorer.head is not None
    expected = over_sequences.scorer.head.classifier(embeddings).softmax(dim=1).detach().numpy()
    expected[4] = np.nan
    np.testing.assert_allclose(scores[:, 2], expected, atol=1e-6)
    over_sequences.save(tmp_path)
    loaded = Predictor.load(tmp_path)
    assert (loaded.scorer.joined, loaded.scorer.joined_width) == ("fusion-head@3", 8)
    np.testing.assert_array_equal(loaded.scorer.scores(given), scores)


def test_a_product_without_its_embedding_yet_is_predicted_and_will_be_again(over_sequences: Predictor) -> None:
    keys = pa.table({"product_id": ["p0", "p1"], "text_hash": ["t"] * 2, "image_hash": ["i"] * 2, "bucket": [0] * 2})
    rows = prediction_table(keys, features(2) | joined(2, without=(1,)), over_sequences)
    assert rows["text_hash"].to_pylist() == ["t", None]
    assert rows["image_hash"].to_pylist() == ["i", None]
    assert rows["category"].null_count == 0


def test_prediction_rows_agree_with_the_scores(predictor: Predictor) -> None:
    given = features(4, without_image=(1,))
    keys = pa.table(
        {"product_id": ["p0", "p1", "p2", "p3"], "text_hash": ["t"] * 4, "image_hash": ["i"] * 4, "bucket": [0] * 4}
    )
    rows = prediction_table(keys, given, predictor)
    assert rows.schema.equals(schema.PREDICTIONS)
    scores, joined = predictor.predict(given)
    for i, row in enumerate(rows.to_pylist()):
        best = CATEGORIES[joined[i].argmax()]
        assert (row["label"], row["category"]) == (list(best), " > ".join(best))
        assert row["confidence"] == row["top_probabilities"][0] == joined[i].max()
        assert row["top_probabilities"] == sorted(row["top_probabilities"], reverse=True)
        assert len(row["top_categories"]) == min(TOP_K, 3)
        models = dict(row["model_categories"])
        assert ("img" in models) == (i != 1)
        assert models["txt"] == " > ".join(CATEGORIES[scores[i, 1].argmax()])
        assert dict(row["model_probabilities"])["txt"] == scores[i, 1].max()
    assert rows["image_hash"].to_pylist() == ["i", None, "i", "i"]


def test_decisions_and_contributions_stand_beside_the_category(predictor: Predictor) -> None:
    given = features(60, without_image=(1,))
    rows = prediction_table(keys_of(60), given, predictor).to_pylist()
    decided = predictor.decide(predictor.predict(given)[1])
    assert {row["decision"] for row in rows} >= {"accepted", "review"}
    for row, node in zip(rows, decided.node, strict=True):
        expected = " > ".join(predictor.abstaining.nodes[node]) if node >= 0 else None
        assert row["decided_category"] == expected
        assert (expected is None) == (row["decision"] == "review")
        assert (expected == row["category"]) == (row["decision"] == "accepted")
    of_model = predictor.explain(predictor.score(given))
    for row, values in zip(rows, of_model.tolist(), strict=True):
        assert [row["modality_image"], row["modality_text"], row["modality_fused"]] == pytest.approx(values, abs=1e-4)


def test_only_what_changed_or_goes_to_review_is_explained(predictor: Predictor) -> None:
    rows = prediction_table(keys_of(60), features(60), predictor)
    before = rows["category"].to_pylist()
    before[0], before[1] = "another", None
    some = prediction_table(keys_of(60), features(60), predictor, before=pa.array(before, pa.string()))
    for at, (row, explained) in enumerate(zip(some.to_pylist(), rows.to_pylist(), strict=True)):
        wanted = at == 0 or row["decision"] == "review"
        assert row["modality_text"] == (pytest.approx(explained["modality_text"], abs=1e-4) if wanted else None)
        assert row["category"] == explained["category"]


def test_a_predictor_that_lacks_a_model_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    (tmp_path / "calibration.json").rename(tmp_path / "aside")
    with pytest.raises(InputError, match=r"^no predictor in .*calibration\.json"):
        Predictor.load(tmp_path)
    (tmp_path / "aside").rename(tmp_path / "calibration.json")
    (tmp_path / "head.json").unlink()
    with pytest.raises(InputError, match=r"found models \['img', 'txt'\], the late fusion joins .*'fusion-head'"):
        Predictor.load(tmp_path)


def keys_of(rows: int) -> pa.Table:
    ids = [f"p{row}" for row in range(rows)]
    return pa.table({"product_id": ids, "text_hash": ["t"] * rows, "image_hash": ["i"] * rows, "bucket": [0] * rows})


def test_edits_come_after_the_late_fusion(predictor: Predictor) -> None:
    edits = {("a",): (("b", "c"),), ("b", "d"): (("e",),)}
    given = features(20, without_image=(3,))
    edited = predictor.edited(TaxonomyHistory((edits,)))
    assert edited.categories == (("b", "c"), ("e",))
    for before, after in zip(predictor.predict(given), edited.predict(given), strict=True):
        assert after.dtype == np.float32
        np.testing.assert_allclose(after[..., 0], before[..., 0] + before[..., 1], rtol=1e-5)
        np.testing.assert_allclose(after[..., 1], before[..., 2], rtol=1e-5)


def test_where_a_category_is_removed_the_others_compete(predictor: Predictor) -> None:
    _, before = predictor.predict(features(20))
    _, after = predictor.edited(TaxonomyHistory(({("a",): ()},))).predict(features(20))
    np.testing.assert_allclose(after, before[:, 1:] / before[:, 1:].sum(axis=1, keepdims=True), rtol=1e-5)


def test_a_model_that_is_sure_of_a_removed_category_says_nothing_worse_than_a_tie(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LateFusion, "predict", lambda *_: np.array([[1, 0, 0]], np.float32))
    _, after = predictor.edited(TaxonomyHistory(({("a",): ()},))).predict(features(1))
    np.testing.assert_allclose(after, [[0.5, 0.5]])


def test_edits_of_other_categories_change_no_bit(predictor: Predictor) -> None:
    edited = predictor.edited(TaxonomyHistory(({("z",): ()}, {("y",): (("x",),)})))
    assert edited is predictor
    assert predictor.edited(TaxonomyHistory()) is predictor


def test_what_nothing_in_the_tree_can_take_has_no_category(predictor: Predictor) -> None:
    split = TaxonomyHistory(({("a",): (("f",), ("g",))},))
    given = features(40, without_image=(1,))
    before = prediction_table(keys_of(40), given, predictor).to_pylist()
    after = prediction_table(keys_of(40), given, predictor.edited(split)).to_pylist()
    assert {row["category"] for row in before} > {"a"}
    for old, new in zip(before, after, strict=True):
        review = old["category"] == "a"
        assert (new["category"], new["label"]) == ((None, None) if review else (old["category"], old["label"]))
        assert new["top_categories"] == [None if name == "a" else name for name in old["top_categories"]]
        assert new["confidence"] == pytest.approx(old["confidence"], rel=1e-5)
        expected = {model: None if name == "a" else name for model, name in old["model_categories"]}
        assert dict(new["model_categories"]) == expected
