"""A network over vectors that came with the catalog in place of its photos, computed elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from typing_extensions import override

from mmbatch import schema
from mmbatch.encoders.base import VECTOR_DTYPE, Budget, Budgets, Encoder, Inputs, Prepared, TraceInput, write_encoder
from mmbatch.image_vectors import from_npy, why_not
from mmbatch.training import Augmentation

CODE_VERSION = 1
"""Raised whenever this module turns the same vectors and weights into other ones."""

DROPOUT = 0.1
"""Share of each normalised layer that is dropped in training."""

NO_IMAGE = "no_image"
"""Reason code of a row without an image."""


@final
class PrecomputedImage(Encoder):
    """Two layers over a given image vector, each normalised, thinned out, multiplied and passed through a GELU.

    Network and sizes are those of the image model in Multi-Modal Cross Attention Network for e-Commerce Product
    Categorization (Kakao's shopping data: 2048 numbers of a ResNet-50), without its classifiers. Its normalisations
    are Ba et al. 2016 (layer normalisation), the activation Hendrycks & Gimpel 2016.

    Shapes: `I` numbers in a given vector, and those of `mmbatch.encoders.base`.
    """

    kind: ClassVar[str] = "precomputed_image"
    modality: ClassVar[schema.Modality] = "image"
    columns: ClassVar[tuple[str, ...]] = ("image",)
    budgets: ClassVar[Budgets] = Budgets(cpu=Budget(256, 256), openvino=Budget(256, 256), gpu=Budget(8192, 8192))

    def __init__(self, *, input_width: int, hidden: int, width: int) -> None:
        """`input_width` numbers in a given vector, `hidden` in the layer between."""
        super().__init__()
        self.input_width, self.hidden, self.width = input_width, hidden, width
        self.backbone = nn.Sequential(
            nn.LayerNorm(input_width),
            nn.Dropout(DROPOUT),
            nn.Linear(input_width, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Dropout(DROPOUT),
            nn.Linear(hidden, width),
            nn.GELU(),
            nn.LayerNorm(width),
        )

    @classmethod
    def from_scratch(cls, *, input_width: int = 2048, hidden: int = 1024, width: int = 512, seed: int) -> Self:
        """Random weights drawn from `seed`; the global random state stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(input_width=input_width, hidden=hidden, width=width)

    @classmethod
    @override
    def restore(cls, config: Mapping[str, Any], folder: Path) -> Self:
        return cls(input_width=config["input_width"], hidden=config["hidden"], width=config["width"])

    @override
    def prepare(self, batch: pa.Table, *, augmentation: Augmentation | None = None, seed: int = 0) -> Prepared:
        """`vectors` float32 `[G, I]`; they are not augmented."""
        vectors_GI, good = from_npy(batch["image"], self.input_width)
        failures = [
            (row, *self._why_not(batch["image"][row].as_py()))
            for row in np.setdiff1d(np.arange(len(batch)), good, assume_unique=True).tolist()
        ]
        return Prepared({"vectors": vectors_GI} if len(good) else {}, good, failures)

    def _why_not(self, file: bytes | None) -> tuple[str, str]:
        """Reason code and message for a row that has no vector of this width."""
        return (NO_IMAGE, "the product has no image") if file is None else why_not(file, self.input_width)

    @override
    def sizes(self, inputs: Inputs) -> np.ndarray:
        """Ones: vectors."""
        return np.ones(len(inputs["vectors"]), np.int64)

    @override
    def collate(self, inputs: Inputs, rows: np.ndarray) -> dict[str, np.ndarray]:
        """`vectors` float32 `[B, I]`."""
        return {"vectors": inputs["vectors"][rows]}

    @override
    def trace_inputs(self) -> dict[str, TraceInput]:
        """Rows vary."""
        return {"vectors": TraceInput(np.zeros((2, self.input_width), np.float32), (0,))}

    @override
    def forward(self, *, vectors: Tensor) -> Tensor:
        """Vectors float32 `[B, width]` of given ones, float32 `[B, I]`."""
        found: Tensor = self.backbone(vectors)
        return found.float()

    @override
    def config(self) -> dict[str, object]:
        return {
            "code": CODE_VERSION,
            "dtype": VECTOR_DTYPE.str,
            "hidden": self.hidden,
            "input_width": self.input_width,
            "width": self.width,
        }

    @override
    def save(self, folder: Path) -> None:
        write_encoder(self, folder)
