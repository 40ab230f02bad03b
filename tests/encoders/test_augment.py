import numpy as np
from PIL import Image

from mmbatch.encoders.augment import augment

RESAMPLE = Image.Resampling.BICUBIC


def test_keeps_the_size_and_fills_with_white() -> None:
    white = Image.new("RGB", (48, 48), "white")
    for seed in range(50):
        augmented = augment(white, np.random.default_rng(seed), resample=RESAMPLE)
        assert augmented.size == (48, 48)
        assert np.asarray(augmented).min() == 255


def test_mirrors_half_of_the_time_and_keeps_most_of_the_photo() -> None:
    """The left half is black: how much black is left, and on which side, tells what was cropped and mirrored."""
    photo = Image.fromarray(
        np.repeat(np.where(np.arange(64) < 32, 0, 255).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    )
    lefts, shares = [], []
    for seed in range(200):
        black = np.asarray(augment(photo, np.random.default_rng(seed), resample=RESAMPLE))[..., 0] < 128
        lefts.append(black[:, :32].sum() > black[:, 32:].sum())
        shares.append(black.mean())
    assert 0.4 < np.mean(lefts) < 0.6
    assert 0.25 < min(shares) < 0.45 < 0.55 < max(shares) < 0.75
