"""Out-of-fold probabilities: no probe scores what it has seen, planted labels are found, parts do not matter."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmbatch.fusion.probe import fit_probe, unit
from mmbatch.models import Model
from mmbatch.pipelines import out_of_fold
from mmbatch.pipelines.out_of_fold import FOLDS, FoldRows, Suspected, suspected_labels, with_folds
from mmbatch.workspace import Settings, Workspace
from tests.stored_features import encoders, write_workspace

PRODUCTS = 603
WITHOUT = (1, 2)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> FoldRows:
    folder = tmp_path_factory.mktemp("stored") / "workspace"
    workspace = write_workspace(folder, products=PRODUCTS, without_vectors=WITHOUT)
    return labelled(workspace, encoders(workspace))


def labelled(workspace: Workspace, models: Sequence[Model]) -> FoldRows:
    rows = FoldRows.of(workspace, models)
    assert rows is not None
    return rows


def keys(products: int, **columns: list[str | None]) -> pa.Table:
    ids = [f"p{number:04}" for number in range(products)]
    texts, images = [f"t{id}" for id in ids], [f"i{id}" for id in ids]
    return pa.table({"product_id": ids, "text_hash": texts, "image_hash": images} | columns)


def planted(rows: FoldRows, *, share: float) -> tuple[FoldRows, np.ndarray]:
    """The rows with another code for a share of them, and which ones."""
    rng = np.random.default_rng(1)
    wrong = rng.random(len(rows.codes)) < share
    shift = rng.integers(1, len(rows.categories), len(wrong))
    codes = np.where(wrong, (rows.codes + shift) % len(rows.categories), rows.codes)
    place = rows.keys.schema.get_field_index("code")
    return replace(rows, keys=rows.keys.set_column(place, "code", pa.array(codes))), wrong


def found_in(rows: FoldRows, found: Suspected) -> np.ndarray:
    return np.isin(rows.keys["product_id"].to_pylist(), found.rows["product_id"].to_pylist())


def test_all_splits_are_there_in_about_equal_folds(rows: FoldRows) -> None:
    assert len(rows.codes) == PRODUCTS
    sizes = np.bincount(rows.folds, minlength=FOLDS)
    assert sizes.min() > 0.7 * PRODUCTS / FOLDS
    assert len(sizes) == FOLDS


def test_products_of_equal_content_are_in_one_fold() -> None:
    rng = np.random.default_rng(0)
    texts = [None if n % 9 == 0 else f"t{rng.integers(150)}" for n in range(400)]
    images = [None if n % 5 == 0 else f"i{rng.integers(900)}" for n in range(400)]
    folds = with_folds(keys(400, text_hash=texts, image_hash=images), seed=0)["fold"].to_numpy()
    for hashes in (texts, images):
        for shared in set(hashes) - {None}:
            assert len({fold for fold, one in zip(folds, hashes, strict=True) if one == shared}) == 1
    assert len(set(folds)) > 1


def test_folds_depend_on_ids_and_seed_and_on_no_order() -> None:
    table = keys(300)
    folds = dict(zip(table["product_id"].to_pylist(), with_folds(table, seed=0)["fold"].to_pylist(), strict=True))
    mixed = with_folds(table.take(pa.array(np.random.default_rng(0).permutation(300))), seed=0)
    assert dict(zip(mixed["product_id"].to_pylist(), mixed["fold"].to_pylist(), strict=True)) == folds
    assert with_folds(table, seed=1)["fold"].to_pylist() != list(folds.values())


def test_a_product_is_scored_by_probes_of_the_other_folds_averaged_in_log_space(rows: FoldRows) -> None:
    parts = list(rows.probabilities(rows.fit()))
    found = np.concatenate([probabilities for probabilities, _ in parts])
    np.testing.assert_array_equal(np.concatenate([codes for _, codes in parts]), rows.codes[rows.judged])
    whole = slice(0, PRODUCTS)
    vectors = [rows._vectors(model, whole) for model in rows.encoders]
    without_image = int(np.flatnonzero(~rows.present[rows.judged].all(axis=1))[0])
    for at in (without_image, 17, 300):
        row = rows.judged[at]
        logs = []
        for encoder, given in enumerate(vectors):
            if rows.present[row, encoder]:
                outside = rows.present[:, encoder] & (rows.folds != rows.folds[row])
                batch = [(given[outside], rows.codes[outside])]
                weight, bias = fit_probe(lambda batch=batch: batch, width=given.shape[1], classes=4)
                logits = unit(given[row : row + 1])[0] @ weight.T + bias
                logs.append(np.log(np.maximum(np.exp(logits) / np.exp(logits).sum(), 1e-6)))
        mean = np.exp(np.mean(logs, axis=0))
        np.testing.assert_allclose(found[at], mean / mean.sum(), atol=1e-3)


def test_a_label_does_not_reach_its_own_probability(rows: FoldRows) -> None:
    """Another given category changes nothing in what is said of the product itself and of its fold."""
    [before] = [probabilities for probabilities, _ in rows.probabilities(rows.fit())]
    row = int(rows.judged[5])
    codes = rows.codes.copy()
    codes[row] = (codes[row] + 1) % 4
    place = rows.keys.schema.get_field_index("code")
    other = replace(rows, keys=rows.keys.set_column(place, "code", pa.array(codes)))
    [after] = [probabilities for probabilities, _ in other.probabilities(other.fit())]
    same = rows.folds[rows.judged] == rows.folds[row]
    np.testing.assert_array_equal(before[same], after[same])
    assert np.abs(before[~same] - after[~same]).max() > 1e-4


def test_planted_wrong_labels_are_found(rows: FoldRows) -> None:
    spoilt, wrong = planted(rows, share=0.05)
    found = suspected_labels(spoilt)
    suspect = found_in(spoilt, found)
    precision, recall = wrong[suspect].mean(), suspect[spoilt.judged][wrong[spoilt.judged]].mean()
    assert precision > 0.7, "a seventh of the products has no image, and the text alone cannot tell which a they are"
    assert recall > 0.9
    suggested = dict(
        zip(found.rows["product_id"].to_pylist(), found.rows["suggested_category"].to_pylist(), strict=True)
    )
    truth = dict(zip(rows.keys["product_id"].to_pylist(), rows.codes, strict=True))
    planted_ids = np.array(spoilt.keys["product_id"].to_pylist())[wrong & suspect]
    right = [suggested[product] == rows.categories[truth[product]] for product in planted_ids]
    assert np.mean(right) > 0.9
    quality = found.rows["quality"].to_numpy()
    assert (np.diff(quality) >= 0).all()
    assert wrong[[spoilt.keys["product_id"].to_pylist().index(found.rows["product_id"][0].as_py())]].all()


def test_units_and_parts_do_not_matter(rows: FoldRows, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt, _ = planted(rows, share=0.05)
    whole = suspected_labels(spoilt)
    monkeypatch.setattr(out_of_fold, "UNIT_BYTES", 1)
    monkeypatch.setattr(out_of_fold, "SCORED", 4 * 2 * 50)
    streamed = suspected_labels(replace(spoilt))
    assert len(replace(spoilt).units) == 4
    assert streamed.rows["product_id"].to_pylist() == whole.rows["product_id"].to_pylist()
    np.testing.assert_allclose(streamed.rows["quality"].to_numpy(), whole.rows["quality"].to_numpy(), atol=1e-3)


def test_products_that_no_probe_can_know_are_not_judged(rows: FoldRows) -> None:
    found = suspected_labels(rows)
    assert (found.judged, found.unjudged) == (PRODUCTS - len(WITHOUT), len(WITHOUT))
    codes = rows.codes.copy()
    codes[10] = 4  # the only product of its category
    place = rows.keys.schema.get_field_index("code")
    alone = replace(rows, categories=[*rows.categories, "c"], keys=rows.keys.set_column(place, "code", pa.array(codes)))
    found = suspected_labels(alone)
    assert found.unjudged == len(WITHOUT) + 1
    assert rows.keys["product_id"][10].as_py() not in found.rows["product_id"].to_pylist()


def test_nothing_is_judged_without_vectors(tmp_path: Path) -> None:
    workspace = write_workspace(tmp_path / "w", products=40)
    others = [replace(model, id=f"{model.name}@2") for model in encoders(workspace)]
    found = suspected_labels(labelled(workspace, others))
    assert (found.rows.num_rows, found.judged, found.unjudged) == (0, 0, 40)


def test_without_labelled_products_there_is_nothing_to_judge(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=2, seed=0, buckets=4))
    assert FoldRows.of(workspace, encoders(workspace)) is None


def test_it_says_how_far_it_is(rows: FoldRows) -> None:
    lines: list[str] = []
    suspected_labels(rows, lines.append)
    assert len(lines) >= 1
    assert "10 / 10 probes" in lines[-1]
