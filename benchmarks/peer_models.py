"""What all peers share, so that they differ in how they move data and in nothing else: models, pixels, texts, output.

Nothing here comes from mmbatch: its vectors are compared with these. MiniLM is averaged over the tokens of a text (256
at most), EfficientNet-Lite0 sees the middle 224 pixels of a photo whose shorter side was scaled to 256.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

COLUMNS = ["product_id", "title", "description", "image"]
"""Of the catalog; every product has an image and a text."""

BATCH, MAX_TOKENS = 32, 256
SIDE, SHORTER = 224, 256  # timm's settings for tf_efficientnet_lite0: crop of 0.875, mean and deviation 0.5


class PeerModels:
    """Both pretrained models, from the folder that mmbatch's `--weights` names, in eval mode."""

    def __init__(self, weights: str) -> None:
        file = Path(weights) / "timm--tf_efficientnet_lite0" / "model.safetensors"
        folder = Path(weights) / "sentence-transformers--all-MiniLM-L6-v2"
        overlay = {"file": str(file)}
        self.image = timm.create_model(
            "tf_efficientnet_lite0", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0
        ).eval()
        self.text = AutoModel.from_pretrained(folder).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def tokens(self, texts: Sequence[str], *, padding: bool | str = True) -> Any:
        """Token ids and mask `[B, L]`, padded to the longest text, or to `MAX_TOKENS` with "max_length"."""
        return self.tokenizer(list(texts), padding=padding, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")

    def text_vectors(self, tokens: Any) -> np.ndarray:
        """Mean of the last hidden states, float32 `[B, 384]`."""
        with torch.inference_mode():
            states, mask = self.text(**tokens).last_hidden_state, tokens["attention_mask"].unsqueeze(-1)
            vectors: np.ndarray = ((states * mask).sum(1) / mask.sum(1)).numpy()
        return vectors

    def image_vectors(self, pixels_BCHW: Tensor) -> np.ndarray:
        """Pooled features of normalised pixels, float32 `[B, 1280]`."""
        with torch.inference_mode():
            vectors: np.ndarray = self.image(pixels_BCHW).numpy()
        return vectors


def read_catalog(folder: str) -> pa.Table:
    """The catalog's rows in file order: `COLUMNS`."""
    return pa.concat_tables([pq.read_table(file, columns=COLUMNS) for file in sorted(Path(folder).glob("*.parquet"))])


def text_of(title: str | None, description: str | None) -> str:
    """Title and description as one text."""
    return ". ".join(part.strip() for part in (title, description) if part and part.strip())


def pixels_of(blob: bytes) -> np.ndarray:
    """An image file as uint8 `[224, 224, 3]`."""
    photo = Image.open(io.BytesIO(blob)).convert("RGB")
    scale = SHORTER / min(photo.size)
    width, height = (round(side * scale) for side in photo.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    photo = photo.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(photo.crop((left, top, left + SIDE, top + SIDE)))


def normalised(pixels: np.ndarray) -> np.ndarray:
    """uint8 `[..., 224, 224, 3]` as float32 `[..., 3, 224, 224]`."""
    return np.ascontiguousarray(np.moveaxis((pixels.astype(np.float32) / 255 - 0.5) / 0.5, -1, -3))


def write_vectors(folder: str, product_ids: Sequence[str], image: np.ndarray, text: np.ndarray) -> None:
    """One Parquet file: `product_id`, `image` and `text`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    columns = {"product_id": pa.array(product_ids), "image": pa.array(list(image)), "text": pa.array(list(text))}
    pq.write_table(pa.table(columns), f"{folder}/vectors.parquet")
