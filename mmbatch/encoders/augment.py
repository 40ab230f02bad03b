"""Training augmentation of product photos: the variety of framing that a shop's own photos have."""

import math

import numpy as np
from PIL import Image, ImageOps

WHITE = (255, 255, 255)

_MIN_AREA = 0.7  # of the image: a product shot keeps nearly all of its product
_MAX_RATIO = 4 / 3  # width to height of the crop, or the inverse (Szegedy et al. 2015, as torchvision has it)
_MAX_DEGREES = 10.0


def augment(image: Image.Image, rng: np.random.Generator, *, resample: Image.Resampling) -> Image.Image:
    """A square image of the same size: rotated, a random part of it enlarged, mirrored half of the time."""
    turned = image.rotate(rng.uniform(-_MAX_DEGREES, _MAX_DEGREES), Image.Resampling.BILINEAR, fillcolor=WHITE)
    resized = turned.resize(image.size, resample, box=_crop_box(image.width, rng))
    return ImageOps.mirror(resized) if rng.random() < 0.5 else resized


def _crop_box(side: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Left, top, right, bottom within a square of `side`."""
    area = rng.uniform(_MIN_AREA, 1.0)
    ratio = math.exp(rng.uniform(-math.log(_MAX_RATIO), math.log(_MAX_RATIO)))
    width, height = (side * min(1.0, math.sqrt(area * factor)) for factor in (ratio, 1 / ratio))
    left, top = rng.uniform(0, side - width), rng.uniform(0, side - height)
    return left, top, left + width, top + height
