import io
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data.transforms_factory import create_transform

from mmbatch.encoders import encode, row_sizes
from mmbatch.encoders.framing import FRAMINGS, Framing
from mmbatch.encoders.image import TimmImage
from mmbatch.errors import InputError
from mmbatch.training import Augmentation
from tests.encoders.conftest import photo


@pytest.fixture(scope="module")
def encoder() -> TimmImage:
    return TimmImage.from_scratch("test_resnet", size=32, seed=0).eval()


def png(colour: str, *, width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_equals_plain_timm(real_weights: str, products: pa.Table) -> None:
    encoder = TimmImage.from_pretrained("tf_efficientnet_lite0", size=None, weights=real_weights).eval()
    inputs = encoder.prepare(products.slice(0, 4)).inputs
    vectors = encode(encoder, inputs, "cpu").astype(np.float32)
    file = Path(real_weights) / "timm--tf_efficientnet_lite0" / "model.safetensors"
    plain: Any = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(file)).eval()
    plain.reset_classifier(0)
    normalise = create_transform(input_size=(3, 224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)
    images = [normalise(Image.fromarray(pixels)) for pixels in inputs["pixels"]]
    with torch.inference_mode():
        expected = plain(torch.stack(images)).numpy()
    assert vectors.shape == (4, 1280)
    np.testing.assert_allclose(vectors, expected, atol=2e-3)
    cosines = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.9999


def test_the_whole_photo_is_kept_on_white(encoder: TimmImage) -> None:
    pixels = encoder.prepare(pa.table({"image": [png("red", width=200, height=100)]})).inputs["pixels"]
    assert pixels.shape == (1, 32, 32, 3)
    assert pixels.dtype == np.uint8
    red, white = [255, 0, 0], [255, 255, 255]
    assert [pixels[0, y, 0].tolist() for y in (0, 7, 8, 23, 24, 31)] == [white, white, red, red, white, white]
    assert pixels[0, 16, 31].tolist() == red


def middle_of_resized(blob: bytes, *, size: int, shorter: int) -> np.ndarray:
    """What an evaluation script does by hand: scale the shorter side, cut out the middle."""
    photo = Image.open(io.BytesIO(blob)).convert("RGB")
    scale = shorter / min(photo.size)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.BICUBIC)
    left, top = (photo.width - size) // 2, (photo.height - size) // 2
    return np.asarray(photo.crop((left, top, left + size, top + size)))


def test_a_crop_is_the_middle_of_the_resized_photo_in_equal_pixels(real_weights: str, products: pa.Table) -> None:
    encoder = TimmImage.from_pretrained(
        "tf_efficientnet_lite0", framing="crop", reduced_decode=False, weights=real_weights
    ).eval()
    pixels = encoder.prepare(products).inputs["pixels"]
    blobs = products["image"].to_pylist()
    np.testing.assert_array_equal(pixels, [middle_of_resized(blob, size=224, shorter=256) for blob in blobs])


def test_a_crop_of_real_photos_has_equal_pixels(real_weights: str) -> None:
    file = Path(real_weights) / "../data/flipkart_1050.parquet"
    if not file.is_file():
        pytest.skip("no flipkart_1050 beside this checkout (../shared/data)")
    batch = pq.read_table(file, columns=["image"]).slice(0, 40)
    batch = batch.filter(batch["image"].is_valid())
    encoder = TimmImage.from_scratch("tf_efficientnet_lite0", framing="crop", reduced_decode=False, seed=0)
    expected = [middle_of_resized(blob, size=224, shorter=256) for blob in batch["image"].to_pylist()]
    np.testing.assert_array_equal(encoder.prepare(batch).inputs["pixels"], expected)


def test_reduced_decode_changes_large_photos_alone() -> None:
    blobs = [photo(np.random.default_rng(0), width=side, height=side) for side in (48, 400)]
    batch = pa.table({"image": blobs})
    reduced, full = (
        TimmImage.from_scratch("test_resnet", size=32, reduced_decode=reduced, seed=0).prepare(batch).inputs["pixels"]
        for reduced in (True, False)
    )
    np.testing.assert_array_equal(reduced[0], full[0])
    assert (reduced[1] != full[1]).any()
    np.testing.assert_allclose(reduced[1].astype(int), full[1].astype(int), atol=12)


def test_an_unknown_framing_is_an_input_error() -> None:
    with pytest.raises(InputError, match="test_resnet: framing is 'squeeze', expected pad or crop"):
        TimmImage.from_scratch("test_resnet", size=32, framing=cast("Any", "squeeze"), seed=0)


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_thin_photo_is_encoded(framing: Framing, augmentation: Augmentation | None) -> None:
    encoder = TimmImage.from_scratch("test_resnet", size=32, framing=framing, seed=0).eval()
    photos = pa.table({"image": [png("red", width=1, height=9000), png("red", width=9000, height=1)]})
    prepared = encoder.prepare(photos, augmentation=augmentation)
    assert encode(encoder, prepared.inputs, "cpu").shape == (2, 96)


def test_broken_and_missing_images_fail_alone(encoder: TimmImage, products: pa.Table) -> None:
    whole = products["image"].to_pylist()[:3]
    batch = pa.table({"image": pa.array([whole[0], b"no image", None, whole[1], whole[2][:300]], pa.binary())})
    prepared = encoder.prepare(batch)
    assert prepared.good.tolist() == [0, 3]
    assert [(row, reason) for row, reason, _ in prepared.failures] == [
        (1, "image_unknown_format"),
        (2, "no_image"),
        (4, "image_truncated"),
    ]
    expected = encoder.prepare(products.slice(0, 2)).inputs["pixels"]
    np.testing.assert_array_equal(prepared.inputs["pixels"], expected)


def test_a_batch_of_failures_only(encoder: TimmImage) -> None:
    prepared = encoder.prepare(pa.table({"image": pa.array([None, b""], pa.binary())}))
    assert prepared.inputs == {}
    assert prepared.good.dtype == np.int64
    assert len(prepared.failures) == 2


def test_a_vector_does_not_depend_on_its_batch(encoder: TimmImage, products: pa.Table) -> None:
    together = encode(encoder, encoder.prepare(products).inputs, "cpu")
    alone = [encode(encoder, encoder.prepare(products.slice(row, 1)).inputs, "cpu") for row in range(len(products))]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-3)


def test_normalises_with_the_models_own_mean_and_std(products: pa.Table) -> None:
    encoder = TimmImage.from_scratch("test_vit", size=32, seed=0).eval()
    own = timm.get_pretrained_cfg("test_vit")
    assert own is not None
    pixels = torch.tensor(encoder.prepare(products).inputs["pixels"])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (own.mean, own.std))
    with torch.inference_mode():
        expected = encoder.backbone((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std)
        torch.testing.assert_close(encoder(pixels=pixels), expected, atol=1e-4, rtol=1e-4)


def test_random_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = (TimmImage.from_scratch("test_resnet", size=32, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [encoder.state_dict()["backbone.conv1.0.weight"] for encoder in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("framing", FRAMINGS)
def test_augmentation_comes_from_the_seed_alone(framing: Framing, products: pa.Table) -> None:
    encoder = TimmImage.from_scratch("test_resnet", size=32, framing=framing, seed=0)
    plain = encoder.prepare(products).inputs["pixels"]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (
        encoder.prepare(products, augmentation=Augmentation(), seed=seed).inputs["pixels"] for seed in (3, 3, 4)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.shape == (12, 32, 32, 3)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2, 3)).all()
    assert (first != plain).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(plain, encoder.prepare(products).inputs["pixels"])


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_view_of_the_whole_photo_is_the_photo_itself(framing: Framing) -> None:
    encoder = TimmImage.from_scratch("test_resnet", size=38, framing=framing, reduced_decode=False, seed=0)
    photos = pa.table({"image": [photo(np.random.default_rng(row), width=70, height=70) for row in range(4)]})
    whole = Augmentation(area=(1.0, 1.0), ratio=(1.0, 1.0), degrees=0.0, flip=False)
    seen, plain = (encoder.prepare(photos, augmentation=one).inputs["pixels"] for one in (whole, None))
    np.testing.assert_array_equal(seen, plain)


def test_a_view_of_a_padded_photo_shows_the_whole_photo_on_white(encoder: TimmImage) -> None:
    whole = Augmentation(area=(1.0, 1.0), ratio=(1.0, 1.0), degrees=0.0, flip=False)
    photos = pa.table({"image": [png("red", width=200, height=100)]})
    seen, plain = (encoder.prepare(photos, augmentation=one).inputs["pixels"].astype(int) for one in (whole, None))
    np.testing.assert_array_equal(seen[0, 10:22], plain[0, 10:22])
    np.testing.assert_array_equal(seen[0, :6], plain[0, :6])


@pytest.mark.parametrize(
    ("model", "size", "side", "width"),
    [
        ("test_resnet", None, 160, 96),
        ("test_resnet", 64, 64, 96),
        ("test_vit", 64, 64, 64),
        ("mobilenetv3_small_050", 64, 64, 1024),
    ],
)
def test_size_and_width_are_the_models(model: str, size: int | None, side: int, width: int) -> None:
    encoder = TimmImage.from_scratch(model, size=size, seed=0).eval()
    assert (encoder.size, encoder.width) == (side, width)
    with torch.inference_mode():
        assert encoder(pixels=torch.zeros(1, side, side, 3, dtype=torch.uint8)).shape == (1, width)


def test_photos_cost_the_same(encoder: TimmImage, products: pa.Table) -> None:
    np.testing.assert_array_equal(row_sizes(encoder, products), np.ones(12, np.int64))


def test_config_tells_apart_what_changes_the_vectors(encoder: TimmImage) -> None:
    larger = TimmImage.from_scratch("test_resnet", size=40, seed=0)
    cropped = TimmImage.from_scratch("test_resnet", size=32, framing="crop", seed=0)
    full = TimmImage.from_scratch("test_resnet", size=32, reduced_decode=False, seed=0)
    for other in (larger, cropped, full):
        assert other.config() != encoder.config()
    assert TimmImage.from_scratch("test_resnet", size=32, seed=9).config() == encoder.config()


def test_an_unknown_model_is_an_input_error() -> None:
    with pytest.raises(InputError, match="resnet_of_dreams: no image model of that name in timm"):
        TimmImage.from_scratch("resnet_of_dreams", size=None, seed=0)


def test_loads_the_weights_of_a_folder(small_weights: str) -> None:
    encoder = TimmImage.from_pretrained("timm/test_resnet", size=32, weights=small_weights)
    file = load_file(Path(small_weights) / "timm--test_resnet" / "model.safetensors")
    loaded = encoder.backbone.state_dict()
    assert all(torch.equal(loaded[name], file[name]) for name in loaded)
    assert set(file) - set(loaded) == {"fc.weight", "fc.bias"}


def test_weights_that_lack_a_layer_are_refused(small_weights: str, tmp_path: Path) -> None:
    tensors = load_file(Path(small_weights) / "timm--test_resnet" / "model.safetensors")
    del tensors["layer4.0.conv1.weight"]
    (tmp_path / "timm--test_resnet").mkdir()
    save_file(tensors, tmp_path / "timm--test_resnet" / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be loaded: .*layer4\.0\.conv1\.weight"):
        TimmImage.from_pretrained("test_resnet", size=32, weights=str(tmp_path))


@pytest.mark.parametrize("content", [None, b"", b"torn"])
def test_a_missing_or_torn_file_is_an_input_error(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "timm--test_resnet").mkdir()
    if content is not None:
        (tmp_path / "timm--test_resnet" / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"timm--test_resnet/model\.safetensors: cannot be loaded"):
        TimmImage.from_pretrained("test_resnet", size=32, weights=str(tmp_path))
