"""timm networks over a product's photo."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, cast, final

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from timm.data.config import resolve_data_config
from torch import Tensor
from typing_extensions import override

from mmbatch import schema
from mmbatch.encoders.augment import drawn_from, random_view
from mmbatch.encoders.base import VECTOR_DTYPE, Budget, Budgets, Encoder, Inputs, Prepared, TraceInput, write_encoder
from mmbatch.encoders.framing import FRAMINGS, Framing, frame, shorter_side, whole
from mmbatch.encoders.timm_network import (
    channels_last,
    new_network,
    patches_of,
    pretrained_network,
    require_known,
    require_size,
)
from mmbatch.errors import InputError
from mmbatch.images import ImageError, open_rgb
from mmbatch.training import Augmentation

CODE_VERSION = 1
"""Raised whenever this module turns the same images and weights into other vectors or states."""

NO_IMAGE = "no_image"
"""Reason code of a row without an image."""


@final
class TimmImage(Encoder):
    """A timm network's pooled features of the photo as a square (`Framing`).

    Mean, standard deviation, interpolation and the share that a crop keeps are the model's own, as it was trained: what
    timm says of it, and never ImageNet's by default. Any classification network of timm's serves; of the networks that
    systems for product categories are built on, `legacy_seresnext50_32x4d` holds Cadene's weights, and
    `mobilenetv1_100` is the first MobileNet.
    """

    kind: ClassVar[str] = "timm_image"
    modality: ClassVar[schema.Modality] = "image"
    columns: ClassVar[tuple[str, ...]] = ("image",)
    budgets: ClassVar[Budgets] = Budgets(cpu=Budget(16, 16), openvino=Budget(4, 4), gpu=Budget(256, 256))

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        model: str,
        backbone: torch.nn.Module,
        size: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        interpolation: str,
        crop_pct: float,
        framing: Framing,
        reduced_decode: bool,
    ) -> None:
        """`backbone` is timm's `model` without classifier; `size` is the square's side in pixels, mean and std 0..1.

        `reduced_decode` lets a JPEG be decoded at a fraction of its size (`open_rgb`): faster, slightly other pixels.
        """
        super().__init__()
        if framing not in FRAMINGS:
            raise InputError(f"{model}: framing is {framing!r}, expected {' or '.join(FRAMINGS)}")
        self.backbone = channels_last(backbone)
        self.width = cast("int", backbone.head_hidden_size)
        self._patch_width = cast("int", backbone.num_features)
        self.size = size
        self._model, self._interpolation = model, interpolation
        self._mean, self._std = tuple(mean), tuple(std)
        self._crop_pct, self._framing, self._reduced_decode = crop_pct, framing, reduced_decode
        self._resample = Image.Resampling[interpolation.upper()]
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        size: int | None = None,
        framing: Framing = "pad",
        reduced_decode: bool = True,
        weights: str | None,
    ) -> Self:
        """timm's pretrained `model` from `<weights>/timm--<model>/model.safetensors` or the hub (`find_weights`).

        `size` defaults to the side that the model was trained at.
        """
        name = model.removeprefix("timm/")
        _check(name, size)
        backbone = pretrained_network(name, size, weights)
        return cls._of(name, backbone, size, framing=framing, reduced_decode=reduced_decode)

    @classmethod
    def from_scratch(
        cls, model: str, *, size: int | None = None, framing: Framing = "pad", reduced_decode: bool = True, seed: int
    ) -> Self:
        """timm's `model` with random weights drawn from `seed`; the global random state stays as it is."""
        _check(model, size)
        with drawn_from(seed):
            backbone = new_network(model, size, pretrained=False)
        return cls._of(model, backbone, size, framing=framing, reduced_decode=reduced_decode)

    @classmethod
    def _of(cls, model: str, backbone: torch.nn.Module, size: int | None, **decoding: Any) -> Self:
        data = resolve_data_config({}, model=backbone)  # type: ignore[no-untyped-call]
        return cls(
            model=model,
            backbone=backbone,
            size=data["input_size"][-1] if size is None else size,
            mean=data["mean"],
            std=data["std"],
            interpolation=data["interpolation"],
            crop_pct=data["crop_pct"],
            **decoding,
        )

    @classmethod
    @override
    def restore(cls, config: Mapping[str, Any], folder: Path) -> Self:
        require_known(config["model"])
        backbone = new_network(config["model"], config["size"], pretrained=False)
        return cls(backbone=backbone, **{name: config[name] for name in _SETTINGS})

    @override
    def prepare(self, batch: pa.Table, *, augmentation: Augmentation | None = None, seed: int = 0) -> Prepared:
        """`pixels` uint8 `[G, S, S, 3]`, RGB; with `augmentation` each is a random view (`random_view`)."""
        if augmentation is None:
            return self._prepare(batch, self._square)
        view = random_view(augmentation, side=self._side, size=self.size, interpolation=self._interpolation)
        with drawn_from(seed):
            return self._prepare(batch, lambda photo: view(self._unresized(photo)))

    def _prepare(self, batch: pa.Table, to_square: Callable[[Image.Image], Image.Image]) -> Prepared:
        good: list[int] = []
        pixels: list[np.ndarray] = []
        failures: list[tuple[int, str, str]] = []
        for row, blob in enumerate(batch["image"].to_pylist()):
            if blob is None:
                failures.append((row, NO_IMAGE, "the product has no image"))
                continue
            try:
                photo = open_rgb(blob, target=self._side if self._reduced_decode else None)
                pixels.append(np.asarray(to_square(photo)))
                good.append(row)
            except ImageError as error:
                failures.append((row, error.reason, str(error)))
        inputs = {"pixels": np.stack(pixels)} if pixels else {}
        return Prepared(inputs, np.array(good, np.int64), failures)

    @property
    def _side(self) -> int:
        """Pixels of a side of the photo, or of a view of it, before its middle is cut out."""
        return self.size if self._framing == "pad" else shorter_side(self.size, self._crop_pct)

    def _square(self, photo: Image.Image) -> Image.Image:
        return frame(photo, size=self.size, framing=self._framing, crop_pct=self._crop_pct, resample=self._resample)

    def _unresized(self, photo: Image.Image) -> Image.Image:
        """What a view is taken of."""
        return whole(photo, size=self.size, resample=self._resample) if self._framing == "pad" else photo

    @override
    def sizes(self, inputs: Inputs) -> np.ndarray:
        """Ones: images."""
        return np.ones(len(inputs["pixels"]), np.int64)

    @override
    def collate(self, inputs: Inputs, rows: np.ndarray) -> dict[str, np.ndarray]:
        """`pixels` uint8 `[B, S, S, 3]`."""
        return {"pixels": inputs["pixels"][rows]}

    @override
    def trace_inputs(self) -> dict[str, TraceInput]:
        """Rows vary."""
        return {"pixels": TraceInput(np.zeros((2, self.size, self.size, 3), np.uint8), (0,))}

    @override
    def forward(self, *, pixels: Tensor) -> Tensor:
        """Vectors float32 `[B, width]` of pixels `[B, S, S, 3]`, which are channels-last as they lie.

        Pixels are uint8, or float32 in the same range, 0..255, when photos are mixed.
        """
        vectors: Tensor = self.backbone(self._normalised(pixels))
        return vectors.float()

    @property
    @override
    def sequence_width(self) -> int:
        return self._patch_width

    @property
    @override
    def longest_sequence(self) -> int:
        """Patches of a photo: found by sending a blank one through the network."""
        with torch.inference_mode():
            blank = torch.zeros(1, self.size, self.size, 3, dtype=torch.uint8, device=self.mean.device)
            return self.states(pixels=blank)[0].shape[1]

    @override
    def states(self, *, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Patches of the network's last map, row by row from the top; as many of each photo. See `Encoder.states`."""
        patches_BLF = patches_of(self.backbone, self._normalised(pixels)).float()
        rows, patches, _ = patches_BLF.shape
        return patches_BLF, torch.full((rows,), patches, device=pixels.device)

    def _normalised(self, pixels: Tensor) -> Tensor:
        pixels_BCHW = pixels.permute(0, 3, 1, 2)
        return (pixels_BCHW - self.mean) / self.std

    @override
    def config(self) -> dict[str, object]:
        return {
            "code": CODE_VERSION,
            "dtype": VECTOR_DTYPE.str,
            "crop_pct": self._crop_pct,
            "framing": self._framing,
            "interpolation": self._interpolation,
            "mean": list(self._mean),
            "model": self._model,
            "reduced_decode": self._reduced_decode,
            "size": self.size,
            "std": list(self._std),
        }

    @override
    def save(self, folder: Path) -> None:
        write_encoder(self, folder)


_SETTINGS = ("model", "size", "mean", "std", "interpolation", "crop_pct", "framing", "reduced_decode")


def _check(model: str, size: int | None) -> None:
    require_known(model)
    require_size(model, size)
