"""Sequences of drawn products: which are drawn, how they are cut by their lengths, and that a head learns from them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from mmbatch.catalog import Catalog
from mmbatch.encoders import encode_sequences, load_encoder
from mmbatch.fusion.levels import Levels
from mmbatch.models import fetch_model
from mmbatch.pipelines import sequence_rows
from mmbatch.pipelines.dealing import CPU
from mmbatch.pipelines.head_loop import Trained
from mmbatch.pipelines.head_run import HeadTask
from mmbatch.pipelines.keep_sequences import _units, shape_of
from mmbatch.pipelines.rows import Labels, training_labels
from mmbatch.pipelines.sequence_rows import SequenceRows, cut, draw
from mmbatch.stale import Unit, hashes_of
from mmbatch.training import HeadRecipe
from tests.conftest import do_in_process
from tests.stored_products import Stored, write_products

RECIPE = HeadRecipe(
    kinds=("cross-attention",),
    hidden=8,
    attention_heads=2,
    dropout=0.0,
    modality_dropout=0.0,
    epochs=20,
    batch_size=8,
    learning_rate=0.01,
    weight_decay=0.0,
    sequences=True,
)


def labels_of(rows: int) -> Labels:
    numbers = np.arange(rows)
    splits = np.where(numbers % 10 == 9, "test", np.where(numbers % 10 == 0, "fusion", "train"))
    columns = {
        "product_id": [f"p{n:04}" for n in numbers],
        "code": np.where(numbers % 7 == 0, -1, numbers % 3),
        "text_hash": [f"t{n}" for n in numbers],
        "image_hash": [None if n % 5 == 0 else f"i{n}" for n in numbers],
        "split": splits,
        "bucket": numbers % 4,
    }
    return Labels(pd.DataFrame(columns), ("a", "b", "c"))


def test_train_and_fusion_rows_are_drawn_in_proportion_and_a_larger_draw_holds_a_smaller_one() -> None:
    labels = labels_of(1000)
    known = labels.rows[(labels.rows["code"] >= 0) & (labels.rows["split"] != "test")]
    few, more, every = (draw(labels, limit=limit, seed=0) for limit in (100, 300, 5000))
    assert sum(table.num_rows for table in every.values()) == len(known)
    assert 98 <= sum(table.num_rows for table in few.values()) <= 100
    share = (known["split"] == "fusion").mean()
    assert few["fusion"].num_rows == int(100 * share)
    for split in ("train", "fusion"):
        wanted = set(few[split]["text_hash"].to_pylist())
        assert wanted < set(more[split]["text_hash"].to_pylist())
        assert few[split]["bucket"].to_pylist() == sorted(few[split]["bucket"].to_pylist())
    other = draw(labels, limit=100, seed=1)["train"]
    assert set(other["text_hash"].to_pylist()) != set(few["train"]["text_hash"].to_pylist())
    shuffled = replace(labels, rows=labels.rows.sample(frac=1, random_state=0))
    assert draw(shuffled, limit=100, seed=0)["train"].equals(few["train"])
    codes = dict(zip(labels.rows["text_hash"], labels.rows["code"], strict=True))
    assert [codes[name] for name in few["train"]["text_hash"].to_pylist()] == few["train"]["code"].to_pylist()
    assert few["train"]["image_hash"].null_count


def test_units_stay_below_the_bytes_and_the_rows_and_leave_nothing_out() -> None:
    sizes = np.array([5, 5, 5, 30, 1, 1, 1, 1])
    assert cut(sizes, most_bytes=10, most_rows=3) == [range(2), range(2, 3), range(3, 4), range(4, 7), range(7, 8)]
    assert cut(np.zeros(0, np.int64), most_bytes=10, most_rows=3) == []


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    with pytest.MonkeyPatch.context() as patch:
        do_in_process(patch)
        return write_products(tmp_path_factory.mktemp("stored"), products=80)


@pytest.fixture(scope="module")
def rows(stored: Stored) -> SequenceRows:
    """All train and fusion rows, their sequences stored."""
    labels = training_labels(Catalog(workspace=stored.workspace))
    drawn = draw(labels, limit=1000, seed=0)
    widths = {model.name: shape_of(model).width for model in stored.encoders}
    rows = SequenceRows(stored.workspace, stored.encoders, labels.categories, drawn, widths)
    store_sequences(stored, rows)
    return rows.stored()


def lacking(rows: SequenceRows) -> list[Unit]:
    return [unit for model in rows.encoders for unit in _units(rows, model.card["modality"], [model])]


def store_sequences(stored: Stored, rows: SequenceRows) -> None:
    """Encode and commit what is lacking."""
    catalog = Catalog(workspace=stored.workspace)
    for model in rows.encoders:
        encoder, store = load_encoder(fetch_model(model)), rows.stores[model.name]
        for unit in _units(rows, model.card["modality"], [model]):
            content = catalog.content(unit.modality, unit.bucket, hashes_of(unit.contents))
            found = encode_sequences(encoder, encoder.prepare(content).inputs, "cpu")
            ids, hashes = (content[name].combine_chunks() for name in ("product_id", "content_hash"))
            entry = store.write(ids, hashes, found, bucket=unit.bucket)
            store.table.commit([entry], app_id=f"{unit.bucket}-{store.table.version()}")


def test_what_is_stored_is_not_encoded_again_and_what_no_encoder_could_take_not_at_all(
    stored: Stored, rows: SequenceRows
) -> None:
    assert lacking(rows) == []
    more = replace(rows, rows={"train": pa.table({"bucket": [0], "text_hash": ["ab" * 16], "image_hash": ["cd" * 16]})})
    assert lacking(more) == [], "it has no vector: it is in quarantine"


def test_a_row_weighs_what_its_sequences_take(stored: Stored, rows: SequenceRows) -> None:
    shapes = {model.name: shape_of(model) for model in stored.encoders}
    assert shapes["image"].longest == 4, "64 pixels over a stride of 32"
    image = 2 * shapes["image"].width * shapes["image"].longest
    table = pa.concat_tables(rows.rows.values())
    for row in table.to_pylist():
        text = row["bytes"] - (image if row["image_hash"] else 0)
        assert text % (2 * shapes["text"].width) == 0
        assert 0 <= text // (2 * shapes["text"].width) <= shapes["text"].longest
    assert len(set(table["bytes"].to_pylist())) > 3


@pytest.mark.parametrize(("workers", "unit_bytes"), [(1, 512 << 20), (1, 9000), (3, 512 << 20), (2, 1)])
def test_every_row_is_loaded_once_with_its_own_sequences(
    rows: SequenceRows, workers: int, unit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence_rows, "UNIT_BYTES", unit_bytes)
    shared, place = replace(rows, workers=workers), 0
    for unit, size in enumerate(shared.sizes("train")):
        found = shared.load("train", unit)
        part = rows.rows["train"].slice(place, size)
        assert found.codes.tolist() == part["code"].to_pylist()
        taken = sum(2 * one.states.shape[1] * one.lengths for one in found.sequences.values())
        assert taken.tolist() == part["bytes"].to_pylist()
        assert size == 1 or taken.sum() <= unit_bytes
        place += size
    assert place == rows.rows["train"].num_rows
    assert len(shared.sizes("train")) >= workers


def test_batches_are_padded_to_their_longest_and_a_missing_image_is_empty(rows: SequenceRows) -> None:
    found = rows.load("train", 0)
    without = np.flatnonzero(found.sequences["image"].lengths == 0)
    assert len(without) == 1, "product 2 alone"
    features, present = found.inputs(np.array([int(without[0]), 0, 1]), CPU)
    longest = found.sequences["text"].lengths[[without[0], 0, 1]].max()
    assert features["text"].shape == (3, longest, rows.widths["text"])
    assert present["image"].tolist()[0] == [False] * 4
    assert present["image"][1].all()
    assert features["image"].dtype == torch.float32


def test_a_head_learns_from_sequences_what_the_last_word_says(stored: Stored, rows: SequenceRows) -> None:
    labels = training_labels(Catalog(workspace=stored.workspace))
    task, done = HeadTask(rows, Levels.of(labels.taxonomy, ()), RECIPE, "digest"), Trained("cross-attention")
    loop = task.loop()
    head = loop.run(done, keep=lambda _: None)
    gold, said = loop.fusion_scores(head)
    assert len(gold) == rows.rows["fusion"].num_rows > 0
    assert (gold == said).mean() > 0.5
    assert done.log_loss < 0.45, "guessing has 0.69"
