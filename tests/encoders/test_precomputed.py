import copy

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from mmbatch.encoders import build_encoder, encode, encode_prepared, engine_for
from mmbatch.encoders.base import without_weights
from mmbatch.encoders.engine import CpuEngine
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.openvino_engine import OpenVinoEngine
from mmbatch.encoders.precomputed import PrecomputedImage
from mmbatch.image_vectors import to_npy
from mmbatch.training import Augmentation


@pytest.fixture(scope="module")
def encoder() -> PrecomputedImage:
    return PrecomputedImage.from_scratch(input_width=24, hidden=16, width=8, seed=0).eval()


def vectors(rows: int, width: int = 24) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(rows).gamma(1.0, size=(rows, width)).astype(np.float32)
    return found


def batch_of(*files: bytes | None) -> pa.Table:
    return pa.table({"image": pa.array(files, pa.binary())})


def given(rows: int, width: int = 24) -> pa.Table:
    return pa.table({"image": to_npy(vectors(rows, width))})


def test_the_network_is_the_papers(encoder: PrecomputedImage) -> None:
    kinds = [type(layer).__name__ for layer in encoder.backbone]
    half = ["LayerNorm", "Dropout", "Linear", "GELU"]
    assert kinds == [*half, *half, "LayerNorm"]
    assert {layer.p for layer in encoder.backbone if isinstance(layer, nn.Dropout)} == {0.1}
    full = build_encoder("precomputed", weights=None, seed=0)
    assert isinstance(full, PrecomputedImage)
    assert [tuple(layer.weight.shape) for layer in full.backbone if isinstance(layer, nn.Linear)] == [
        (1024, 2048),
        (512, 1024),
    ]
    assert (full.width, full.training, full.modality) == (512, True, "image")


def test_vectors_equal_the_formula(encoder: PrecomputedImage) -> None:
    states = {name.removeprefix("backbone."): value for name, value in encoder.state_dict().items()}
    x = torch.tensor(vectors(5))
    for norm, linear in ((0, 2), (4, 6)):
        x = nn.functional.layer_norm(x, x.shape[1:], states[f"{norm}.weight"], states[f"{norm}.bias"])
        x = nn.functional.gelu(x @ states[f"{linear}.weight"].T + states[f"{linear}.bias"])
    expected = nn.functional.layer_norm(x, x.shape[1:], states["8.weight"], states["8.bias"])
    found = encode(encoder, encoder.prepare(given(5)).inputs, "cpu")
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)


def test_prepare_hands_on_the_numbers_as_they_are(encoder: PrecomputedImage) -> None:
    prepared = encoder.prepare(given(7), augmentation=Augmentation(), seed=3)
    np.testing.assert_array_equal(prepared.inputs["vectors"], vectors(7))
    assert prepared.inputs["vectors"].dtype == np.float32
    assert (prepared.good.tolist(), prepared.failures) == (list(range(7)), [])
    np.testing.assert_array_equal(encoder.sizes(prepared.inputs), np.ones(7))


def test_photos_and_other_widths_fail_alone(encoder: PrecomputedImage, products: pa.Table) -> None:
    one, two = given(2)["image"].to_pylist()
    (wide,) = given(1, 25)["image"].to_pylist()
    prepared = encoder.prepare(batch_of(None, one, products["image"][0].as_py(), wide, two, two[:-4], b""))
    assert prepared.good.tolist() == [1, 4]
    np.testing.assert_array_equal(prepared.inputs["vectors"], vectors(2))
    assert [(row, reason) for row, reason, _ in prepared.failures] == [
        (0, "no_image"),
        (2, "image_not_vector"),
        (3, "image_vector_width"),
        (5, "image_truncated"),
        (6, "image_not_vector"),
    ]
    assert prepared.failures[2][2] == "25 numbers, expected 24"


def test_a_batch_of_failures_only(encoder: PrecomputedImage, products: pa.Table) -> None:
    prepared = encoder.prepare(products)
    assert prepared.inputs == {}
    assert prepared.good.dtype == np.int64
    assert len(prepared.failures) == len(products)
    assert encode(encoder, prepared.inputs, "cpu").shape == (0, 8)


def test_a_photo_encoder_fails_vectors_alone(products: pa.Table) -> None:
    photo, (vector,) = products["image"][0].as_py(), given(1)["image"].to_pylist()
    encoder = TimmImage.from_scratch("test_resnet", size=32, seed=0)
    prepared = encoder.prepare(batch_of(vector, photo))
    assert prepared.good.tolist() == [1]
    ((row, reason, message),) = prepared.failures
    assert (row, reason) == (0, "image_is_vector")
    assert message.startswith("a vector (.npy), not a photo; expected JPEG")


@pytest.mark.parametrize("contents", [1, 1_000_000])
def test_engines_agree_and_no_row_depends_on_its_batch(encoder: PrecomputedImage, contents: int) -> None:
    inputs = encoder.prepare(given(300)).inputs
    engine = engine_for(copy.deepcopy(encoder), "cpu", threads=1, contents=contents)
    assert isinstance(engine, OpenVinoEngine if contents > 1 else CpuEngine)
    found = encode_prepared(encoder, engine, inputs)
    np.testing.assert_allclose(found, encode(encoder, inputs, "cpu"), atol=4e-3)
    alone = encode(encoder, encoder.prepare(given(300).slice(299)).inputs, "cpu")
    np.testing.assert_allclose(found[299:], alone, atol=4e-3)


def test_the_largest_numbers_that_ingest_lets_in_give_finite_vectors(encoder: PrecomputedImage) -> None:
    large = np.full((1, 24), 3e18, np.float32)
    large[0, ::2] *= -1
    inputs = encoder.prepare(pa.table({"image": to_npy(large)})).inputs
    assert np.isfinite(encode(encoder, inputs, "cpu")).all()


def test_random_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, same, other = (
        PrecomputedImage.from_scratch(input_width=4, hidden=3, width=2, seed=seed).state_dict()["backbone.2.weight"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_config_tells_apart_what_changes_the_vectors(encoder: PrecomputedImage) -> None:
    base = {"input_width": 24, "hidden": 16, "width": 8}
    for changed in ({"input_width": 25}, {"hidden": 17}, {"width": 9}):
        assert PrecomputedImage.from_scratch(**base | changed, seed=0).config() != encoder.config()
    assert PrecomputedImage.from_scratch(**base, seed=9).config() == encoder.config()


def test_a_copy_without_weights_prepares(encoder: PrecomputedImage) -> None:
    light = without_weights(encoder)
    np.testing.assert_array_equal(light.prepare(given(2)).inputs["vectors"], vectors(2))
