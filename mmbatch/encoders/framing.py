"""How a photo becomes the square that an image network sees."""

from typing import Literal

from PIL import Image, ImageOps

Framing = Literal["pad", "crop"]
"""`pad`: the whole photo, centred on the white that shops photograph on. `crop`: its middle."""

FRAMINGS: tuple[Framing, ...] = ("pad", "crop")

WHITE = (255, 255, 255)


def frame(
    photo: Image.Image, *, size: int, framing: Framing, crop_pct: float, resample: Image.Resampling
) -> Image.Image:
    """The photo as a square of `size` pixels a side.

    `crop` scales the shorter side to `size / crop_pct` and keeps the middle, which is how timm evaluates its models
    (`crop_mode` "center"; the few that it evaluates on photos squashed into a square are cropped here all the same);
    an odd pixel is left over on the right and at the bottom, where timm's rounding leaves it on either side.
    """
    if framing == "pad":
        return ImageOps.pad(photo, (size, size), resample, color=WHITE)
    return _middle(photo, size=size, shorter=shorter_side(size, crop_pct), resample=resample)


def whole(photo: Image.Image, *, size: int, resample: Image.Resampling) -> Image.Image:
    """The whole photo on a white square, for views of `size` pixels a side: of its own size, at most twice theirs."""
    side = min(max(photo.size), 2 * size)
    return ImageOps.pad(photo, (side, side), resample, color=WHITE)


def shorter_side(size: int, crop_pct: float) -> int:
    """Pixels of the shorter side before the middle is cut out (timm's `transforms_imagenet_eval`)."""
    return int(size / crop_pct)


LONGEST = 8
"""Sides of a photo, longer over shorter, beyond which its ends are cut off before it is resized: resized whole, a strip
of 1 x 10,000 pixels would take 2 GB."""


def _without_ends(photo: Image.Image) -> Image.Image:
    width, height = photo.size
    most = LONGEST * min(width, height)
    left, top = max(0, width - most) // 2, max(0, height - most) // 2
    return photo.crop((left, top, left + min(width, most), top + min(height, most)))


def _middle(photo: Image.Image, *, size: int, shorter: int, resample: Image.Resampling) -> Image.Image:
    """Resized, then cropped: `Image.resize` of a part (`box`) gives other pixels than the same part of the whole."""
    photo = _without_ends(photo)
    scale = shorter / min(photo.size)
    width, height = (round(side * scale) for side in photo.size)
    left, top = (width - size) // 2, (height - size) // 2
    return photo.resize((width, height), resample).crop((left, top, left + size, top + size))
