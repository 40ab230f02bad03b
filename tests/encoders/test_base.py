import numpy as np
import pyarrow as pa
import pytest
import torch

from mmbatch.encoders import encode, to_tensors
from mmbatch.encoders.ngram import NgramText


@pytest.fixture
def encoder() -> NgramText:
    return NgramText.from_scratch(buckets=512, width=16, seed=0).eval()


def test_vectors_are_little_endian_float16(encoder: NgramText, products: pa.Table) -> None:
    vectors = encode(encoder, encoder.prepare(products).inputs, "cpu")
    assert vectors.shape == (12, 16)
    assert vectors.dtype.str == "<f2"


def test_a_training_encoder_is_refused(encoder: NgramText, products: pa.Table) -> None:
    with pytest.raises(RuntimeError, match=r"ngram_text is in training mode: call eval\(\)"):
        encode(encoder.train(), encoder.prepare(products).inputs, "cpu")


def test_no_good_row_gives_no_vector(encoder: NgramText) -> None:
    empty = pa.table({"title": pa.array([None], pa.string()), "description": pa.array([""], pa.string())})
    prepared = encoder.prepare(empty)
    assert prepared.failures == [(0, "no_text", "title and description are both empty")]
    assert encode(encoder, prepared.inputs, "cpu").shape == (0, 16)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_a_vector_beyond_float16_is_an_error_that_names_its_row(
    encoder: NgramText, products: pa.Table, value: float
) -> None:
    inputs = encoder.prepare(products).inputs
    inputs["weights"][inputs["offsets"][5] : inputs["offsets"][6]] = value
    with pytest.raises(ValueError, match=r"encoder ngram_text: vectors of rows \[5\] are not finite in float16"):
        encode(encoder, inputs, "cpu")


def test_read_only_arrays_are_taken_in_their_own_dtype() -> None:
    pixels = np.arange(6, dtype=np.uint8)
    pixels.flags.writeable = False
    tensors = to_tensors({"pixels": pixels}, "cpu")
    assert tensors["pixels"].dtype == torch.uint8
    assert tensors["pixels"].tolist() == list(range(6))
