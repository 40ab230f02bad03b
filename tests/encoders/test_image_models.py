"""Networks of timm's, as encoders: widths, sizes and data settings are each network's own."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from torch import Tensor

from mmbatch.encoders import encode, load_encoder
from mmbatch.encoders.image import TimmImage
from mmbatch.errors import InputError

IMAGENET = [0.485, 0.456, 0.406]
HALF = [0.5, 0.5, 0.5]


class Published(NamedTuple):
    """What timm's model cards say of a network."""

    millions: float
    """Parameters with the classifier it was published with."""
    classes: int
    width: int
    mean: list[float]
    interpolation: str
    crop_pct: float


NETWORKS = {
    "seresnext50_32x4d": Published(27.56, 1000, 2048, IMAGENET, "bicubic", 0.875),
    "legacy_seresnext50_32x4d": Published(27.56, 1000, 2048, IMAGENET, "bilinear", 0.875),
    "resnet50": Published(25.56, 1000, 2048, IMAGENET, "bicubic", 0.95),
    "resnet50.tv_in1k": Published(25.56, 1000, 2048, IMAGENET, "bilinear", 0.875),
    "resnet152": Published(60.19, 1000, 2048, IMAGENET, "bicubic", 0.95),
    "mobilenetv1_100": Published(4.23, 1000, 1024, HALF, "bicubic", 0.875),
    "mobilenetv3_small_100": Published(2.54, 1000, 1024, IMAGENET, "bicubic", 0.875),
    "efficientnet_b0": Published(5.29, 1000, 1280, IMAGENET, "bicubic", 0.875),
    "convnext_tiny": Published(28.59, 1000, 768, IMAGENET, "bicubic", 0.95),
    "vit_base_patch16_224": Published(86.57, 1000, 768, HALF, "bicubic", 0.9),
    "vit_base_patch16_siglip_224": Published(92.88, 0, 768, HALF, "bicubic", 0.9),
}

TINY = ["test_byobnet", "test_convnext", "test_efficientnet", "test_nfnet", "test_resnet", "test_vit", "test_vit3"]
"""One network of each family that is built in another way; the last pools by attention, as SigLIP does."""


def without_memory(model: str, *, size: int | None = None) -> TimmImage:
    with torch.device("meta"):
        return TimmImage.from_scratch(model, size=size, seed=0).eval()


def forward(encoder: TimmImage, *, rows: int) -> Tensor:
    device = next(encoder.parameters()).device
    return encoder(pixels=torch.zeros(rows, encoder.size, encoder.size, 3, dtype=torch.uint8, device=device))


@pytest.mark.parametrize("model", NETWORKS)
def test_a_network_is_the_published_one_with_its_own_data_settings(model: str) -> None:
    """`legacy_seresnext50_32x4d` is the SE-ResNeXt-50 with Cadene's weights, `mobilenetv1_100` is MobileNet V1."""
    published, encoder = NETWORKS[model], without_memory(model)
    classifier = published.classes * (published.width + 1) if published.classes else 0
    parameters = sum(parameter.numel() for parameter in encoder.parameters()) + classifier
    assert round(parameters / 1e6, 2) == published.millions
    assert (encoder.size, encoder.width) == (224, published.width)
    assert forward(encoder, rows=2).shape == (2, published.width)
    settings = encoder.config()
    assert settings["mean"] == published.mean
    assert settings["interpolation"] == published.interpolation
    assert settings["crop_pct"] == published.crop_pct


@pytest.mark.parametrize("model", TINY)
def test_each_family_comes_back_as_it_was_saved(model: str, products: pa.Table, tmp_path: Path) -> None:
    encoder = TimmImage.from_scratch(model, size=64, seed=0).eval()
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.config() == encoder.config()
    inputs = encoder.prepare(products.slice(0, 4)).inputs
    vectors = encode(encoder, inputs, "cpu")
    assert vectors.shape == (4, encoder.width)
    np.testing.assert_array_equal(vectors, encode(loaded, inputs, "cpu"))


@pytest.mark.parametrize("model", TINY)
def test_every_weight_learns(model: str) -> None:
    """A weight that is left over from a classifier, without a gradient, would stall distributed training."""
    encoder = TimmImage.from_scratch(model, size=64, seed=0).train()
    forward(encoder, rows=2).sum().backward()
    assert [name for name, weight in encoder.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("model", ["test_vit", "test_vit3", "test_vit_relpos", "swin_tiny_patch4_window7_224"])
def test_a_network_of_fixed_size_is_made_for_another(model: str) -> None:
    defaults = timm.get_pretrained_cfg(model)
    assert defaults is not None
    assert defaults.fixed_input_size
    size = 2 * defaults.input_size[-1]
    assert forward(without_memory(model, size=size), rows=1).shape == (1, without_memory(model).width)


def test_weights_of_more_than_four_axes() -> None:
    """A lambda layer convolves in three dimensions: its weights have five axes, and no channels-last layout."""
    encoder = without_memory("lambda_resnet26t", size=64)
    assert any(weight.ndim == 5 for weight in encoder.parameters())
    assert forward(encoder, rows=1).shape == (1, encoder.width)


def test_convolutions_lie_channels_last() -> None:
    weights = [weight for weight in TimmImage.from_scratch("test_resnet", seed=0).parameters() if weight.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_an_encoder_of_a_larger_model_is_an_input_error() -> None:
    with pytest.raises(InputError, match="mobilenetv5_300m_enc: is part of a larger model in timm"):
        without_memory("mobilenetv5_300m_enc")


@pytest.mark.parametrize(
    ("model", "size"), [("test_vit", 50), ("test_coatnet", 50), ("test_resnet", 0), ("test_vit", -4)]
)
def test_a_size_that_a_network_cannot_take_is_an_input_error(model: str, size: int) -> None:
    with pytest.raises(InputError, match=f"{model}: cannot take photos of {size} x {size} pixels: "):
        TimmImage.from_scratch(model, size=size, seed=0)


def test_a_network_that_was_trained_on_oblongs_needs_a_size() -> None:
    with pytest.raises(InputError, match="was trained on photos of 768 x 1024 pixels: set size to train on squares"):
        without_memory("vit_base_patch16_sapiens2")
