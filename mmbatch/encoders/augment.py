"""Training augmentation of product photos by torchvision: the variety of framing that a shop's own photos have."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from PIL import Image
from torchvision.transforms import v2

from mmbatch.training import Augmentation


def random_view(
    augmentation: Augmentation, *, side: int, size: int, interpolation: str
) -> Callable[[Image.Image], Image.Image]:
    """What makes a random view, `size` pixels a side, of an RGB photo; it draws from torch's generator (`drawn_from`).

    A part of random area and ratio is resized to `side` pixels, turned, mirrored, and its middle is kept.
    `interpolation` is one of Pillow's by name, in lower case. Verma et al. 2020 (SIGIR eCom data challenge) train on
    views like these, with area 0.8 to 1, 15 degrees, `side` 256 and `size` 224.
    """
    steps: list[Any] = [
        v2.RandomResizedCrop(
            side, augmentation.area, augmentation.ratio, interpolation=v2.InterpolationMode(interpolation)
        )
    ]
    if augmentation.degrees:
        steps.append(v2.RandomRotation(augmentation.degrees, v2.InterpolationMode.BILINEAR, fill=255))
    if augmentation.flip:
        steps.append(v2.RandomHorizontalFlip())
    if side > size:
        steps.append(v2.CenterCrop(size))
    return cast("Callable[[Image.Image], Image.Image]", v2.Compose(steps))


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """torch's generator of the CPU is seeded inside and goes on outside as if nothing had been drawn.

    The generator is the process's: no other thread may draw meanwhile.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too, for good
        yield
