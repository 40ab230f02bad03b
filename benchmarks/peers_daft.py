"""The peer `daft` of benchmarks.peers, run by the interpreter of Daft's own environment.

    python -m benchmarks.peers_daft CATALOG WEIGHTS OUT

Daft 0.7 wants another pyarrow than mmbatch, so it lives in an environment that borrows everything else (ten seconds):

    .venv/bin/python -m venv VENV
    echo "$PWD/.venv/lib/python3.11/site-packages" > VENV/lib/python3.11/site-packages/borrowed.pth
    VENV/bin/pip install daft==0.7.26
"""

import sys

import daft  # type: ignore[import-not-found]
import numpy as np
import pyarrow as pa
import torch
from daft import DataType, Series, col

from benchmarks.peer_models import BATCH, PeerModels, normalised, pixels_of, text_of

VECTORS = DataType.struct({"image": DataType.list(DataType.float32()), "text": DataType.list(DataType.float32())})


@daft.cls(max_concurrency=1)
class Encode:
    """Decodes a batch and encodes it with both models, which are loaded once."""

    def __init__(self, weights: str) -> None:
        self.models = PeerModels(weights)

    @daft.method.batch(return_dtype=VECTORS, batch_size=BATCH)  # type: ignore[untyped-decorator]
    def encode(self, title: Series, description: Series, image: Series) -> pa.Array:
        texts = [text_of(*pair) for pair in zip(title.to_pylist(), description.to_pylist(), strict=True)]
        pixels = normalised(np.stack([pixels_of(blob) for blob in image.to_pylist()]))
        vectors = {
            "image": self.models.image_vectors(torch.from_numpy(pixels)),
            "text": self.models.text_vectors(self.models.tokens(texts)),
        }
        lists = [pa.array(list(matrix), pa.list_(pa.float32())) for matrix in vectors.values()]
        return pa.StructArray.from_arrays(lists, list(vectors))


def main() -> None:
    """Read, encode, write."""
    catalog, weights, out = sys.argv[1:]
    encoder = Encode(weights)
    vectors = encoder.encode(col("title"), col("description"), col("image"))
    rows = daft.read_parquet(f"{catalog}/*.parquet").select(col("product_id"), vectors.alias("vectors"))
    rows.select(
        col("product_id"), col("vectors").get("image").alias("image"), col("vectors").get("text").alias("text")
    ).write_parquet(out)


if __name__ == "__main__":
    main()
