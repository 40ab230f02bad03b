"""Sequences of every kind of encoder: real positions alone, whatever batch they were computed in."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from transformers import AutoModel

from mmbatch.encoders import Encoder, encode, encode_sequences, encode_states
from mmbatch.encoders.base import without_weights
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.ngram import NgramText
from mmbatch.encoders.precomputed import PrecomputedImage
from mmbatch.encoders.recurrent import RecurrentText
from mmbatch.encoders.text import TransformersText
from mmbatch.image_vectors import to_npy
from mmbatch.sequences import Sequences
from tests.encoders.conftest import WORDS

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def transformer(model: str, pooling: str = "mean", fields: str = "joined") -> Callable[[str], Encoder]:
    return lambda weights: TransformersText.from_pretrained(
        f"org/{model}", max_length=24, pooling=pooling, fields=fields, weights=weights
    )


SMALL: dict[str, Callable[[str], Encoder]] = {
    "bert": transformer("tiny-bert"),
    "bert-pair": transformer("tiny-bert", "pooler", "pair"),
    "camembert": transformer("tiny-camembert", "flatten"),
    "flaubert": transformer("tiny-flaubert", "first"),
    "recurrent": lambda _: RecurrentText.from_words(
        words=WORDS[:9], vectors=None, word_width=6, hidden=5, width=8, max_length=12, weights=None, seed=0
    ),
    "ngram": lambda _: NgramText.from_scratch(buckets=512, width=16, seed=0),
    "resnet": lambda _: TimmImage.from_scratch("test_resnet", size=64, seed=0),
    "vit": lambda _: TimmImage.from_scratch("test_vit", size=64, seed=0),
}
WIDTHS = {"bert": 32, "bert-pair": 32, "camembert": 32, "flaubert": 32, "recurrent": 10, "ngram": 16}
WIDTHS |= {"resnet": 96, "vit": 64}


@pytest.fixture(scope="module")
def products(products: pa.Table) -> pa.Table:
    """Every second text is one word, so that a text of letters is not always cut at the same length."""
    rows = products.to_pylist()
    for number, row in enumerate(rows[::2]):
        row |= {"title": WORDS[number], "description": None}
    return pa.Table.from_pylist(rows, products.schema)


@pytest.fixture(scope="module")
def encoders(small_weights: str) -> dict[str, Encoder]:
    return {name: make(small_weights).eval() for name, make in SMALL.items()}


def rows_of(sequences: Sequences) -> list[np.ndarray]:
    return np.split(sequences.states.astype(np.float32), sequences.offsets[1:-1])


def means(sequences: Sequences) -> np.ndarray:
    return np.stack([row.mean(axis=0) for row in rows_of(sequences)])


@pytest.mark.parametrize("name", SMALL)
def test_states_do_not_depend_on_the_batch_they_were_padded_in(
    encoders: dict[str, Encoder], products: pa.Table, name: str
) -> None:
    encoder = encoders[name]
    together = encode_sequences(encoder, encoder.prepare(products).inputs, "cpu")
    assert together.states.dtype == np.float16
    assert together.states.shape == (together.offsets[-1], encoder.sequence_width)
    assert encoder.sequence_width == WIDTHS[name]
    for row, states in enumerate(rows_of(together)):
        alone = encode_sequences(encoder, encoder.prepare(products.slice(row, 1)).inputs, "cpu")
        np.testing.assert_allclose(alone.states.astype(np.float32), states, atol=2e-3)


@pytest.mark.parametrize("name", ["bert", "bert-pair", "camembert", "flaubert", "recurrent"])
def test_a_text_has_one_state_for_each_of_its_tokens(
    encoders: dict[str, Encoder], products: pa.Table, name: str
) -> None:
    inputs = encoders[name].prepare(products).inputs
    lengths = encode_sequences(encoders[name], inputs, "cpu").lengths
    assert len(set(lengths.tolist())) > 3
    assert lengths.tolist() == encoders[name].sizes(inputs).tolist()


def test_the_mean_of_a_texts_states_is_its_vector(encoders: dict[str, Encoder], products: pa.Table) -> None:
    inputs = encoders["bert"].prepare(products).inputs
    found = means(encode_sequences(encoders["bert"], inputs, "cpu"))
    np.testing.assert_allclose(found, encode(encoders["bert"], inputs, "cpu"), atol=2e-3)


def test_states_are_the_last_hidden_ones_of_plain_transformers(
    encoders: dict[str, Encoder], small_weights: str, products: pa.Table
) -> None:
    encoder = encoders["camembert"]
    inputs = encoder.prepare(products.slice(3, 1)).inputs
    with torch.inference_mode():
        plain = AutoModel.from_pretrained(f"{small_weights}/org--tiny-camembert").eval()
        expected = plain(input_ids=torch.tensor(inputs["ids"]).long()[None]).last_hidden_state[0]
    np.testing.assert_allclose(encode_sequences(encoder, inputs, "cpu").states, expected, atol=2e-3)


def test_the_ends_of_a_recurrent_sequence_make_its_vector(encoders: dict[str, Encoder], products: pa.Table) -> None:
    encoder = encoders["recurrent"]
    inputs = encoder.prepare(products).inputs
    ends = np.stack([[*row[-1, :5], *row[0, 5:]] for row in rows_of(encode_sequences(encoder, inputs, "cpu"))])
    with torch.inference_mode():
        expected = torch.relu(encoder.get_submodule("projection")(torch.tensor(ends, dtype=torch.float32)))
    np.testing.assert_allclose(encode(encoder, inputs, "cpu"), expected, atol=2e-3)


def test_the_mean_of_a_photos_patches_is_its_vector(encoders: dict[str, Encoder], products: pa.Table) -> None:
    inputs = encoders["resnet"].prepare(products).inputs
    sequences = encode_sequences(encoders["resnet"], inputs, "cpu")
    assert sequences.lengths.tolist() == [4] * 12
    np.testing.assert_allclose(means(sequences), encode(encoders["resnet"], inputs, "cpu"), atol=2e-3)


def test_patches_run_row_by_row_from_the_top(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["resnet"]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    sequence = encode_sequences(encoder, {"pixels": pixels}, "cpu").states
    for patch, (bottom, right) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        changed = pixels.copy()
        changed[:, 60 * bottom : 60 * bottom + 4, 60 * right : 60 * right + 4] ^= 255
        other = encode_sequences(encoder, {"pixels": changed}, "cpu").states
        assert np.abs(other.astype(np.float32) - sequence).sum(axis=1).argmax() == patch


def test_a_transformers_patches_are_its_tokens_without_the_class_token(
    encoders: dict[str, Encoder], products: pa.Table
) -> None:
    encoder = encoders["vit"]
    inputs = encoder.prepare(products).inputs
    sequences = encode_sequences(encoder, inputs, "cpu")
    assert sequences.lengths.tolist() == [16] * 12
    mean, std = (torch.tensor(timm.get_pretrained_cfg("test_vit").to_dict()[key]) for key in ("mean", "std"))
    pixels = ((torch.tensor(inputs["pixels"]) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        tokens = encoder.get_submodule("backbone").forward_features(pixels)
    np.testing.assert_allclose(sequences.states.reshape(12, 16, 64), tokens[:, 1:], atol=5e-3)
    np.testing.assert_allclose(encode(encoder, inputs, "cpu"), tokens[:, 0], atol=5e-3)


@pytest.mark.parametrize("kind", ["ngram", "precomputed"])
def test_an_encoder_that_pools_nothing_has_its_vector_as_the_only_state(
    encoders: dict[str, Encoder], products: pa.Table, kind: str
) -> None:
    if kind == "precomputed":
        encoder: Encoder = PrecomputedImage.from_scratch(input_width=6, hidden=5, width=4, seed=0).eval()
        products = pa.table({"image": to_npy(np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32))})
    else:
        encoder = encoders[kind]
    inputs = encoder.prepare(products).inputs
    sequences = encode_sequences(encoder, inputs, "cpu")
    assert sequences.lengths.tolist() == [1] * 12
    assert encoder.sequence_width == encoder.width
    np.testing.assert_allclose(sequences.states, encode(encoder, inputs, "cpu"), atol=1e-3)


@pytest.mark.parametrize(
    ("model", "patches"),
    [
        ("test_convnext", 25),
        ("test_efficientnet", 25),
        ("test_mambaout", 25),  # channels last; pools to a wider vector
        ("mobilenetv3_small_050", 49),  # pools to a wider vector
        ("swin_tiny_patch4_window7_224", 49),  # channels last
        ("deit_tiny_distilled_patch16_224", 196),  # two tokens for the whole photo
        ("mixer_s32_224", 49),
        ("crossvit_9_240", 1),  # two maps, no sequence
    ],
)
def test_each_family_has_patches(model: str, patches: int) -> None:
    with torch.device("meta"):
        encoder = TimmImage.from_scratch(model, seed=0).eval()
        states, lengths = encoder.states(pixels=torch.zeros(2, encoder.size, encoder.size, 3, dtype=torch.uint8))
    assert states.shape == (2, patches, encoder.sequence_width)
    assert (lengths.shape, lengths.dtype) == ((2,), torch.int64)


def test_the_width_is_known_without_the_weights(encoders: dict[str, Encoder]) -> None:
    assert {name: without_weights(encoder).sequence_width for name, encoder in encoders.items()} == WIDTHS


@pytest.mark.parametrize("name", ["bert", "resnet"])
def test_nothing_prepared_gives_no_sequences(encoders: dict[str, Encoder], name: str) -> None:
    sequences = encode_sequences(encoders[name], {}, "cpu")
    assert (len(sequences), sequences.states.shape) == (0, (0, WIDTHS[name]))


def test_a_training_encoder_is_refused(products: pa.Table) -> None:
    encoder = SMALL["resnet"]("")
    with pytest.raises(RuntimeError, match=r"timm_image is in training mode: call eval\(\)"):
        encode_states(encoder, encoder.prepare(products).inputs, "cpu")


def test_a_state_beyond_float16_is_an_error_that_names_its_row(
    encoders: dict[str, Encoder], products: pa.Table
) -> None:
    inputs = encoders["ngram"].prepare(products).inputs
    inputs["weights"][inputs["offsets"][5] : inputs["offsets"][6]] = 1e9
    with pytest.raises(ValueError, match=r"encoder ngram_text: states of rows \[5\] are not finite in float16"):
        encode_sequences(encoders["ngram"], inputs, "cpu")


def test_pretrained_models_take_the_bytes_that_the_documentation_says(real_weights: str, products: pa.Table) -> None:
    text = TransformersText.from_pretrained(MINILM, max_length=64, weights=real_weights).eval()
    image = TimmImage.from_pretrained("tf_efficientnet_lite0", weights=real_weights).eval()
    long = products.slice(0, 2).set_column(1, "description", pa.array(["steel kettle " * 60] * 2))
    bytes_each = {}
    for name, encoder in (("text", text), ("image", image)):
        inputs = encoder.prepare(long).inputs
        sequences = encode_sequences(encoder, inputs, "cpu")
        bytes_each[name] = sequences.states.nbytes / len(sequences)
        np.testing.assert_allclose(means(sequences), encode(encoder, inputs, "cpu"), atol=2e-3)
    assert bytes_each == {"text": 49_152, "image": 125_440}
