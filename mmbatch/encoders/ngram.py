"""A small text encoder trained from scratch: hashed n-grams, no vocabulary, no pretrained weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import hstack
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize
from torch import Tensor
from typing_extensions import override

from mmbatch import schema
from mmbatch.encoders.base import VECTOR_DTYPE, Budget, Budgets, Encoder, Inputs, Prepared, TraceInput, write_encoder
from mmbatch.encoders.product_text import TEXT_COLUMNS, product_texts, without_text
from mmbatch.sequences import take_ragged
from mmbatch.training import Augmentation

CODE_VERSION = 1
"""Raised whenever this module turns the same rows and weights into other vectors."""


@final
class NgramText(Encoder):
    """Weighted sum of the embeddings of a text's words and character n-grams, after fastText (Joulin et al. 2016).

    Counts are damped by a square root and each text's weights have length one. Letters are lower-cased and their
    accents stripped. A hidden layer above the sum is left out: it lowered macro-F1 on three product catalogs.
    """

    kind: ClassVar[str] = "ngram_text"
    modality: ClassVar[schema.Modality] = "text"
    columns: ClassVar[tuple[str, ...]] = TEXT_COLUMNS
    budgets: ClassVar[Budgets] = Budgets(cpu=Budget(2**20, 256), openvino=Budget(2**20, 256), gpu=Budget(2**22, 4096))

    def __init__(self, *, buckets: int, width: int) -> None:
        """`buckets` rows in the embedding table, half of them for words."""
        super().__init__()
        self.buckets, self.width = buckets, width
        self.embedding = torch.nn.EmbeddingBag(buckets, width, mode="sum")
        torch.nn.init.normal_(self.embedding.weight, std=width**-0.5)  # vectors of length about one
        self._vectorizers = (
            _vectorizer(buckets // 2, analyzer="char_wb", ngram_range=(2, 4)),
            _vectorizer(buckets - buckets // 2, analyzer="word"),
        )

    @classmethod
    def from_scratch(cls, *, buckets: int = 2**14, width: int = 128, seed: int) -> Self:
        """Random weights drawn from `seed`; the global random state stays as it is.

        The gradient is as large as the table, so a training step's time grows with `buckets`: twice as many took two
        to three times as long and gained at most 0.01 macro-F1 on catalogs of 1,000 to 5,000 labelled products.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(buckets=buckets, width=width)

    @classmethod
    @override
    def restore(cls, config: Mapping[str, Any], folder: Path) -> Self:
        return cls(buckets=config["buckets"], width=config["width"])

    @override
    def prepare(self, batch: pa.Table, *, augmentation: Augmentation | None = None, seed: int = 0) -> Prepared:
        """`ids` int64 `[T]`, `weights` float32 `[T]` and `offsets` int64 `[G + 1]`: where each text's n-grams begin."""
        texts = product_texts(batch)
        good = np.flatnonzero(texts.is_valid().to_numpy())
        failures = without_text(good, len(batch))
        if not len(good):
            return Prepared({}, good, failures)
        present = texts.drop_null().to_pylist()
        counts = hstack([vectorizer.transform(present) for vectorizer in self._vectorizers], format="csr")
        weights = normalize(counts.sqrt())
        inputs = {
            "ids": weights.indices.astype(np.int64),
            "offsets": weights.indptr.astype(np.int64),
            "weights": weights.data,
        }
        return Prepared(inputs, good, failures)

    @override
    def sizes(self, inputs: Inputs) -> np.ndarray:
        """Distinct n-grams."""
        return np.diff(inputs["offsets"])

    @override
    def collate(self, inputs: Inputs, rows: np.ndarray) -> dict[str, np.ndarray]:
        """`ids` int64 `[T]` and `weights` float32 `[T]` of these rows, `offsets` int64 `[B]`: where each row begins."""
        places, lengths = take_ragged(inputs["offsets"], rows)
        starts = np.cumsum(lengths) - lengths
        return {"ids": inputs["ids"][places], "offsets": starts, "weights": inputs["weights"][places]}

    @override
    def trace_inputs(self) -> dict[str, TraceInput]:
        """Nothing: OpenVINO cannot compile an embedding bag of a varying number of offsets."""
        return {}

    @override
    def forward(self, *, ids: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Vectors float32 `[B, width]`; see `collate` for the arguments."""
        vectors_BW: Tensor = self.embedding(ids, offsets, per_sample_weights=weights)
        return vectors_BW.float()

    @override
    def config(self) -> dict[str, object]:
        return {"buckets": self.buckets, "code": CODE_VERSION, "dtype": VECTOR_DTYPE.str, "width": self.width}

    @override
    def save(self, folder: Path) -> None:
        write_encoder(self, folder)


def _vectorizer(buckets: int, **analysis: Any) -> HashingVectorizer:
    return HashingVectorizer(
        n_features=buckets, strip_accents="unicode", alternate_sign=False, norm=None, dtype=np.float32, **analysis
    )
