"""Mixed training photos: two photos of a batch in one, their classes in the same shares, by torchvision.

Shapes: B photos, C classes, S pixels of a side.
"""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from mmbatch.errors import InputError


@final
class Mixing:
    """mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of each photo with the one before it in the batch.

    With both, each batch takes one or the other, by the toss of a coin.
    """

    def __init__(self, *, mixup: float, cutmix: float, classes: int) -> None:
        """`mixup` and `cutmix` are the alpha of the beta distribution that shares are drawn from, 0 for none."""
        self._classes = classes
        self._mix: Any = _mixer(mixup, cutmix, classes) if mixup or cutmix else None

    def __call__(self, inputs: Mapping[str, Tensor], targets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Mixed inputs and their targets, float32 `[B, C]`, of an image encoder's inputs and class codes int64 `[B]`.

        `pixels` uint8 `[B, S, S, 3]` become float32, still 0..255; every row of the targets adds up to 1. Draws from
        torch's generator of the CPU. With neither mixup nor CutMix the inputs stay as they are, the targets one-hot.
        Raises `InputError` where there are inputs other than photos.
        """
        if self._mix is None:
            return dict(inputs), torch.nn.functional.one_hot(targets, self._classes).float()
        if set(inputs) != {"pixels"}:
            raise InputError(
                f"mixup and cutmix mix photos, the encoder takes {', '.join(sorted(inputs))}: set both to 0"
            )
        pixels_BCHW = inputs["pixels"].permute(0, 3, 1, 2).float()
        mixed_BCHW, shares_BC = self._mix(pixels_BCHW, targets)
        return {"pixels": mixed_BCHW.permute(0, 2, 3, 1)}, shares_BC


def _mixer(mixup: float, cutmix: float, classes: int) -> Any:
    from torchvision.transforms import v2  # takes seconds: not in every process that only trains

    transforms = ((mixup, v2.MixUp), (cutmix, v2.CutMix))
    return v2.RandomChoice([mix(alpha=alpha, num_classes=classes) for alpha, mix in transforms if alpha])
