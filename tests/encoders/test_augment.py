from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from mmbatch.encoders.augment import drawn_from, random_view
from mmbatch.training import Augmentation

NONE = Augmentation(area=(1.0, 1.0), ratio=(1.0, 1.0), degrees=0.0, flip=False)


def view(augmentation: Augmentation, *, side: int = 64, size: int = 64) -> Callable[[Image.Image], Image.Image]:
    return random_view(augmentation, side=side, size=size, interpolation="bicubic")


def many(augmentation: Augmentation, photo: Image.Image, *, views: int) -> list[np.ndarray]:
    """The red channel of views from one seed."""
    make = view(augmentation)
    with drawn_from(0):
        return [np.asarray(make(photo))[..., 0] for _ in range(views)]


def columns(*, width: int, height: int, black: int) -> Image.Image:
    """White, but for the first columns."""
    line = np.where(np.arange(width) < black, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(np.repeat(line[None, :, None], height, 0), 3, 2))


def test_without_any_change_a_view_is_the_resized_photo() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8))
    expected = np.asarray(photo.resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(view(NONE)(photo), expected)
    np.testing.assert_array_equal(view(NONE, size=40)(photo), expected[12:52, 12:52])


def test_keeps_the_size_and_fills_with_white() -> None:
    make, white = view(Augmentation(degrees=45.0), side=48, size=48), Image.new("RGB", (90, 60), "white")
    with drawn_from(0):
        for _ in range(50):
            augmented = make(white)
            assert augmented.size == (48, 48)
            assert np.asarray(augmented).min() == 255


def test_a_turned_photo_shows_white_corners() -> None:
    black = many(
        Augmentation(area=(1.0, 1.0), ratio=(1.0, 1.0), degrees=15.0), columns(width=64, height=64, black=64), views=40
    )
    corners = np.array([seen[0, 0] for seen in black])
    assert (corners == 255).mean() > 0.9
    assert all(seen[32, 32] == 0 for seen in black)


@pytest.mark.parametrize(("flip", "share"), [(True, 0.5), (False, 0.0)])
def test_mirrors_half_of_the_time(flip: bool, share: float) -> None:
    photo = columns(width=64, height=64, black=32)
    mirrored = [seen[:, 0].mean() > 128 for seen in many(Augmentation(flip=flip, degrees=0.0), photo, views=200)]
    assert abs(np.mean(mirrored) - share) <= 0.1


def test_a_view_shows_a_part_of_the_area_asked_for() -> None:
    """A white square in the middle seems the larger, the smaller the part of the photo that a view shows."""
    pixels = np.zeros((120, 120, 3), np.uint8)
    pixels[50:70, 50:70] = 255
    augmentation = Augmentation(area=(0.7, 0.9), degrees=0.0)
    shares = [(seen > 128).mean() for seen in many(augmentation, Image.fromarray(pixels), views=100)]
    areas = (20 / 120) ** 2 / np.array(shares)
    assert 0.62 < areas.min() < 0.76
    assert 0.84 < areas.max() < 0.98


def test_a_part_of_a_long_photo_keeps_its_proportions() -> None:
    """Red tells the column, green the row: where both rise alike, nothing is squeezed."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(200), np.arange(100)[:, None]
    make = view(Augmentation(area=(0.2, 0.4), ratio=(1.0, 1.0), degrees=0.0, flip=False))
    with drawn_from(0):
        views = [np.asarray(make(Image.fromarray(pixels))).astype(int) for _ in range(20)]
    across, down = ([seen[60, 60, i] - seen[4, 4, i] for seen in views] for i in (0, 1))
    assert min(across) > 40
    np.testing.assert_allclose(across, down, atol=3)


def test_a_strip_one_pixel_wide_is_a_view_too() -> None:
    with drawn_from(0):
        assert view(Augmentation())(Image.new("RGB", (1, 10_000), "red")).size == (64, 64)


def test_draws_come_from_the_seed_and_leave_the_global_generator_alone() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 80, 3), np.uint8))
    torch.manual_seed(5)
    before, seen = torch.random.get_rng_state(), []
    for seed in (3, 3, 4):
        with drawn_from(seed):
            seen.append(np.asarray(view(Augmentation())(photo)))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0] != seen[2]).any()


def failing(seed: int) -> None:
    with drawn_from(seed):
        torch.rand(3)
        raise ValueError("stop")


def test_the_generator_comes_back_after_an_error() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="stop"):
        failing(seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
