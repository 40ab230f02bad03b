"""timm networks over a product's photo."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, cast, final

import numpy as np
import pyarrow as pa
import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from timm.data.config import resolve_data_config
from torch import Tensor
from typing_extensions import override

from mmbatch import schema
from mmbatch.encoders.augment import augment
from mmbatch.encoders.base import VECTOR_DTYPE, Budget, Budgets, Encoder, Inputs, Prepared, TraceInput, write_encoder
from mmbatch.encoders.framing import FRAMINGS, Framing, frame, shorter_side
from mmbatch.encoders.pretrained import find_weights, unreachable
from mmbatch.errors import InputError
from mmbatch.images import ImageError, open_rgb
from mmbatch.training import Augmentation

CODE_VERSION = 1
"""Raised whenever this module turns the same images and weights into other vectors."""

NO_IMAGE = "no_image"
"""Reason code of a row without an image."""


@final
class TimmImage(Encoder):
    """A timm network's pooled features of the photo as a square (`Framing`).

    Mean, standard deviation, interpolation and the share that a crop keeps are the model's own, as it was trained.
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
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.width = cast("int", backbone.head_hidden_size)
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
        _check_known(name)
        folder = find_weights(f"timm/{name}", weights)
        file = folder / "model.safetensors" if folder else None
        source: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(file)}} if file else {}
        try:
            backbone = _create(name, size, pretrained=True, **source)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise _unusable(file, error) if file else unreachable(model, error) from error
        return cls._of(name, backbone, size, framing=framing, reduced_decode=reduced_decode)

    @classmethod
    def from_scratch(
        cls, model: str, *, size: int | None = None, framing: Framing = "pad", reduced_decode: bool = True, seed: int
    ) -> Self:
        """timm's `model` with random weights drawn from `seed`; the global random state stays as it is."""
        _check_known(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = _create(model, size, pretrained=False)
        return cls._of(model, backbone, size, framing=framing, reduced_decode=reduced_decode)

    @classmethod
    def _of(cls, model: str, backbone: torch.nn.Module, size: int | None, **decoding: Any) -> Self:
        data = resolve_data_config({}, model=backbone)  # type: ignore[no-untyped-call]
        return cls(
            model=model,
            backbone=backbone,
            size=size or data["input_size"][-1],
            mean=data["mean"],
            std=data["std"],
            interpolation=data["interpolation"],
            crop_pct=data["crop_pct"],
            **decoding,
        )

    @classmethod
    @override
    def restore(cls, config: Mapping[str, Any], folder: Path) -> Self:
        _check_known(config["model"])
        backbone = _create(config["model"], config["size"], pretrained=False)
        return cls(backbone=backbone, **{name: config[name] for name in _SETTINGS})

    @override
    def prepare(self, batch: pa.Table, *, augmentation: Augmentation | None = None, seed: int = 0) -> Prepared:
        """`pixels` uint8 `[G, S, S, 3]`, RGB; with `augmentation` each is a random view of the photo."""
        rng = np.random.default_rng(seed) if augmentation else None
        good: list[int] = []
        pixels: list[np.ndarray] = []
        failures: list[tuple[int, str, str]] = []
        for row, blob in enumerate(batch["image"].to_pylist()):
            if blob is None:
                failures.append((row, NO_IMAGE, "the product has no image"))
                continue
            try:
                pixels.append(self._pixels(blob, rng))
                good.append(row)
            except ImageError as error:
                failures.append((row, error.reason, str(error)))
        inputs = {"pixels": np.stack(pixels)} if pixels else {}
        return Prepared(inputs, np.array(good, np.int64), failures)

    def _pixels(self, blob: bytes, rng: np.random.Generator | None) -> np.ndarray:
        """One image file as uint8 `[S, S, 3]`."""
        side = self.size if self._framing == "pad" else shorter_side(self.size, self._crop_pct)
        photo = open_rgb(blob, target=side if self._reduced_decode else None)
        square = frame(photo, size=self.size, framing=self._framing, crop_pct=self._crop_pct, resample=self._resample)
        return np.asarray(square if rng is None else augment(square, rng, resample=self._resample))

    @override
    def lengths(self, batch: pa.Table) -> np.ndarray:
        """Ones: every image becomes a square of the same size."""
        return np.ones(len(batch), np.int64)

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
        """Vectors float32 `[B, width]` of uint8 pixels `[B, S, S, 3]`, which are channels-last as they lie."""
        pixels_BCHW = pixels.permute(0, 3, 1, 2)
        vectors: Tensor = self.backbone((pixels_BCHW - self.mean) / self.std)
        return vectors.float()

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


def _check_known(model: str) -> None:
    if not timm.is_model(model):
        raise InputError(f"{model}: no image model of that name in timm {timm.__version__}")


def _create(model: str, size: int | None, **how: Any) -> torch.nn.Module:
    """timm's model without its classifier, which is dropped after loading so that loading can be strict."""
    defaults = timm.get_pretrained_cfg(model)
    if size and defaults and defaults.fixed_input_size:
        how["img_size"] = size
    backbone: Any = timm.create_model(model, **how)
    backbone.reset_classifier(0)
    return cast("torch.nn.Module", backbone)


def _unusable(file: Path, error: Exception) -> InputError:
    return InputError(f"{file}: cannot be loaded: {' '.join(str(error).split())}")
