import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, ByT5Tokenizer

from mmbatch.encoders import collate_all, encode, row_sizes, to_tensors
from mmbatch.encoders.text import TransformersText
from mmbatch.errors import InputError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def encoder(small_weights: str) -> TransformersText:
    return TransformersText.from_pretrained("org/tiny-bert", max_length=24, weights=small_weights).eval()


def table(titles: list[str | None], descriptions: list[str | None]) -> pa.Table:
    return pa.table({"title": pa.array(titles, pa.string()), "description": pa.array(descriptions, pa.string())})


def test_equals_the_masked_mean_of_plain_transformers(real_weights: str, products: pa.Table) -> None:
    encoder = TransformersText.from_pretrained(MINILM, max_length=32, weights=real_weights).eval()
    vectors = encode(encoder, encoder.prepare(products).inputs, "cpu").astype(np.float32)
    folder = Path(real_weights) / MINILM.replace("/", "--")
    texts = [f"{row['title']}. {row['description']}" for row in products.to_pylist()]
    tokens = AutoTokenizer.from_pretrained(folder)(
        texts, truncation=True, max_length=32, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    expected = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()
    cosines = (vectors * expected).sum(axis=1) / np.linalg.norm(vectors, axis=1)
    assert cosines.min() > 0.9999


def test_related_products_are_closer_than_others(real_weights: str) -> None:
    encoder = TransformersText.from_pretrained(MINILM, max_length=32, weights=real_weights).eval()
    batch = table(["Ceramic coffee mug", "Porcelain tea cup", "Men's running shoes"], [None] * 3)
    vectors = encode(encoder, encoder.prepare(batch).inputs, "cpu").astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_a_vector_does_not_depend_on_its_batch(encoder: TransformersText, products: pa.Table) -> None:
    together = encode(encoder, encoder.prepare(products).inputs, "cpu")
    alone = [encode(encoder, encoder.prepare(products.slice(row, 1)).inputs, "cpu") for row in range(len(products))]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-3)


def test_rows_without_title_or_description(encoder: TransformersText) -> None:
    batch = table(["red mug", None, None, "red mug"], [None, None, "red mug", "soft lamp"])
    prepared = encoder.prepare(batch)
    assert prepared.good.tolist() == [0, 2, 3]
    assert prepared.failures == [(1, "no_text", "title and description are both empty")]
    title_only, description_only, both = encode(encoder, prepared.inputs, "cpu")
    np.testing.assert_array_equal(title_only, description_only)
    assert np.abs(title_only - both).max() > 0.01


def test_tokens_are_cut_at_max_length_and_hold_no_padding(encoder: TransformersText, products: pa.Table) -> None:
    inputs = encoder.prepare(products).inputs
    assert {name: array.dtype for name, array in inputs.items()} == {"ids": np.int32, "offsets": np.int64}
    assert encoder.sizes(inputs).tolist() == [
        min(24, 10 + 3 * row) for row in range(12)
    ]  # [CLS] 3 words . 4 words [SEP]
    assert inputs["ids"].shape == (encoder.sizes(inputs).sum(),)


def test_rows_are_padded_to_the_longest_of_them(encoder: TransformersText, products: pa.Table) -> None:
    inputs = encoder.prepare(products).inputs
    together = encoder.collate(inputs, np.array([2, 0]))
    assert {name: array.dtype for name, array in together.items()} == {
        "input_ids": np.int32,
        "attention_mask": np.uint8,
    }
    assert together["attention_mask"].tolist() == [[1] * 16, [1] * 10 + [0] * 6]
    alone = [encoder.collate(inputs, np.array([row]))["input_ids"][0].tolist() for row in (2, 0)]
    assert together["input_ids"].tolist() == [alone[0], [*alone[1], *[encoder._pad_id] * 6]]


def test_a_text_of_all_positions_of_the_backbone_is_encoded(small_weights: str, products: pa.Table) -> None:
    encoder = TransformersText.from_pretrained("org/tiny-bert", max_length=44, weights=small_weights).eval()
    inputs = encoder.prepare(products).inputs
    assert encoder.sizes(inputs).max() == 43
    assert encode(encoder, inputs, "cpu").shape == (12, 32)


def test_lengths_are_tokens(encoder: TransformersText, products: pa.Table) -> None:
    batch = pa.concat_tables([products.select(encoder.columns), table([None], [None])])
    lengths = row_sizes(encoder, batch)
    assert lengths.dtype == np.int64
    assert lengths[:12].tolist() == [min(24, 10 + 3 * row) for row in range(12)]
    assert lengths[12] == 0


def test_computes_in_float32_whatever_the_file_holds(encoder: TransformersText) -> None:
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_every_weight_is_trained(small_weights: str, products: pa.Table) -> None:
    encoder = TransformersText.from_pretrained("org/tiny-bert", max_length=24, weights=small_weights).train()
    inputs = collate_all(encoder, encoder.prepare(products).inputs)
    encoder(**to_tensors(inputs, "cpu")).square().sum().backward()
    assert [name for name, weight in encoder.named_parameters() if weight.grad is None] == []


def test_config_tells_apart_what_changes_the_vectors(encoder: TransformersText, small_weights: str) -> None:
    longer = TransformersText.from_pretrained("org/tiny-bert", max_length=25, weights=small_weights)
    again = TransformersText.from_pretrained("org/tiny-bert", max_length=24, weights=small_weights)
    assert longer.config() != encoder.config()
    assert again.config() == encoder.config()


@pytest.mark.parametrize("max_length", [0, 45])
def test_max_length_must_fit_the_model(small_weights: str, max_length: int) -> None:
    with pytest.raises(InputError, match=rf"org/tiny-bert: max_length is {max_length}, expected 1 to 44 tokens"):
        TransformersText.from_pretrained("org/tiny-bert", max_length=max_length, weights=small_weights)


def test_a_tokenizer_without_fast_version_is_refused(small_weights: str, tmp_path: Path) -> None:
    folder = tmp_path / "org--bytes"
    shutil.copytree(Path(small_weights) / "org--tiny-bert", folder, ignore=shutil.ignore_patterns("tokenizer*"))
    ByT5Tokenizer().save_pretrained(folder)
    with pytest.raises(InputError, match="org/bytes: has no fast tokenizer"):
        TransformersText.from_pretrained("org/bytes", max_length=24, weights=str(tmp_path))


def test_weights_that_lack_a_layer_are_refused(small_weights: str, tmp_path: Path) -> None:
    folder = tmp_path / "org--tiny-bert"
    shutil.copytree(Path(small_weights) / "org--tiny-bert", folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name and "layer.1.output" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"tiny-bert: weights do not fit .*encoder\.layer\.1\.output\.dense\.weight"):
        TransformersText.from_pretrained("org/tiny-bert", max_length=24, weights=str(tmp_path))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("size", [0, 100])
def test_a_torn_file_is_an_input_error(small_weights: str, tmp_path: Path, file: str, size: int) -> None:
    folder = tmp_path / "org--tiny-bert"
    shutil.copytree(Path(small_weights) / "org--tiny-bert", folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:size])
    with pytest.raises(InputError, match="tiny-bert: cannot be loaded: "):
        TransformersText.from_pretrained("org/tiny-bert", max_length=24, weights=str(tmp_path))
