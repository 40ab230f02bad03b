import numpy as np
import pyarrow as pa
import pytest
import torch

from mmbatch.encoders import collate_all, encode, row_sizes, to_tensors
from mmbatch.encoders.ngram import NgramText


@pytest.fixture(scope="module")
def encoder() -> NgramText:
    return NgramText.from_scratch(buckets=2048, width=16, seed=0).eval()


def titles(*texts: str) -> pa.Table:
    return pa.table({"title": texts, "description": pa.nulls(len(texts), pa.string())})


def test_case_and_accents_do_not_count(encoder: NgramText) -> None:
    inputs = encoder.prepare(titles("Étagère CHÊNE", "etagere chene", "etagere pin")).inputs
    accented, plain, other = encode(encoder, inputs, "cpu")
    np.testing.assert_array_equal(accented, plain)
    assert np.abs(plain - other).max() > 0.01


def test_a_misspelt_word_stays_close(encoder: NgramText) -> None:
    vectors = encode(encoder, encoder.prepare(titles("smartphone", "smartphne", "cookbook")).inputs, "cpu")
    word, misspelt, other = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]
    assert word @ misspelt > word @ other + 0.2


def test_each_bag_has_length_one_whatever_the_text_is_long(encoder: NgramText) -> None:
    inputs = encoder.prepare(titles("mug", "a mug and another mug and a lamp " * 20)).inputs
    assert {name: array.dtype for name, array in inputs.items()} == {
        "ids": np.int64,
        "offsets": np.int64,
        "weights": np.float32,
    }
    assert inputs["ids"].max() < 2048
    np.testing.assert_allclose(np.add.reduceat(inputs["weights"] ** 2, inputs["offsets"][:-1]), 1.0, rtol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(encoder: NgramText, products: pa.Table) -> None:
    together = encode(encoder, encoder.prepare(products).inputs, "cpu")
    alone = [encode(encoder, encoder.prepare(products.slice(row, 1)).inputs, "cpu") for row in range(len(products))]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-3)


def test_a_text_without_any_letter_is_encoded(encoder: NgramText) -> None:
    assert encode(encoder, encoder.prepare(titles("mug", "!")).inputs, "cpu").shape == (2, 16)


def test_random_weights_come_from_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (NgramText.from_scratch(buckets=64, width=8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.embedding.weight, second.embedding.weight)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_learns_to_tell_products_apart() -> None:
    encoder = NgramText.from_scratch(buckets=2048, width=16, seed=0)
    classifier = torch.nn.Linear(16, 2)
    seen = encoder.prepare(titles("red mug", "blue mug", "tea mugs", "red lamp", "floor lamp", "lamps")).inputs
    optimiser = torch.optim.AdamW([*encoder.parameters(), *classifier.parameters()], lr=1e-2)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(
            classifier(encoder(**to_tensors(collate_all(encoder, seen), "cpu"))), torch.tensor([0, 0, 0, 1, 1, 1])
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    new = encoder.prepare(titles("green mug", "green lamp")).inputs
    assert classifier(encoder(**to_tensors(collate_all(encoder, new), "cpu"))).argmax(dim=1).tolist() == [0, 1]


def test_a_text_costs_its_distinct_ngrams_and_no_text_nothing(encoder: NgramText) -> None:
    batch = pa.table({"title": ["mug", None, "mug red"], "description": [None, None, "mug red"]})
    one, none, more = row_sizes(encoder, batch).tolist()
    assert none == 0 < one < more
