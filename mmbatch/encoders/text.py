"""Pretrained transformers over a product's title and description."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from typing_extensions import override

from mmbatch import schema
from mmbatch.encoders.base import VECTOR_DTYPE, Budget, Budgets, Encoder, Inputs, Prepared, TraceInput, write_encoder
from mmbatch.encoders.batches import take_ragged
from mmbatch.encoders.pretrained import find_weights, unreachable
from mmbatch.encoders.product_text import TEXT_COLUMNS, product_texts, without_text
from mmbatch.errors import InputError
from mmbatch.training import Augmentation

TOKENIZER_FILE = "tokenizer.json"

CODE_VERSION = 1
"""Raised whenever this module turns the same rows and weights into other vectors."""

_NOT_OUTPUT = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "transformers_version")


@final
class TransformersText(Encoder):
    """Mean of a transformer's last hidden states over a text's tokens (Reimers & Gurevych 2019, Sentence-BERT)."""

    kind: ClassVar[str] = "transformers_text"
    modality: ClassVar[schema.Modality] = "text"
    columns: ClassVar[tuple[str, ...]] = TEXT_COLUMNS
    budgets: ClassVar[Budgets] = Budgets(cpu=Budget(2048, 32), openvino=Budget(2048, 32), gpu=Budget(8192, 48))

    def __init__(self, *, backbone: PreTrainedModel, tokenizer: Tokenizer, max_length: int) -> None:
        """`tokenizer` truncates at `max_length` tokens and knows its padding (`_fit`); the pooler is left out."""
        super().__init__()
        if getattr(backbone, "pooler", None) is not None:
            backbone.register_module(
                "pooler", None
            )  # not in the mean: weights without a gradient would stall distributed training
        self.backbone = backbone
        self.max_length = max_length
        self.width = int(backbone.config.hidden_size)
        self._tokenizer_json = tokenizer.to_str()
        self._pad_id = _pad_id(tokenizer)
        tokenizer.no_padding()
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, model: str, *, max_length: int, weights: str | None) -> Self:
        """The pretrained `model` by its hub name, from the folder `weights` or the hub (`find_weights`)."""
        folder = find_weights(model, weights)
        try:
            backbone, found = _load_backbone(str(folder or model))
            tokenizer = AutoTokenizer.from_pretrained(str(folder or model))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _unusable(folder, error) if folder else unreachable(model, error) from error
        lacking = sorted(key for key in found if not key.startswith("pooler."))
        if lacking:
            raise InputError(f"{folder or model}: weights do not fit the model, missing or of another shape: {lacking}")
        return cls(backbone=backbone, tokenizer=_fit(tokenizer, backbone, max_length, model), max_length=max_length)

    @classmethod
    @override
    def restore(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `Encoder.restore`; raises `InputError` if the tokenizer's file is not the one that was saved."""
        file = folder / TOKENIZER_FILE
        try:
            text = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from error
        found, expected = hashlib.sha256(text).hexdigest(), config["tokenizer_sha256"]
        if found != expected:
            raise InputError(f"{file}: not the tokenizer of this encoder: sha256 {found}, expected {expected}")
        backbone = AutoModel.from_config(AutoConfig.for_model(**config["backbone"]), attn_implementation="sdpa")  # type: ignore[no-untyped-call]
        tokenizer = Tokenizer.from_str(text.decode("utf-8"))
        return cls(backbone=backbone, tokenizer=tokenizer, max_length=config["max_length"])

    @override
    def prepare(self, batch: pa.Table, *, augmentation: Augmentation | None = None, seed: int = 0) -> Prepared:
        """`ids` int32 `[T]` and `offsets` int64 `[G + 1]`: where each text's tokens begin; texts are not augmented."""
        texts = product_texts(batch)
        good = np.flatnonzero(texts.is_valid().to_numpy())
        failures = without_text(good, len(batch))
        if not len(good):
            return Prepared({}, good, failures)
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts.drop_null().to_pylist())]
        ids = np.fromiter(chain.from_iterable(tokens), np.int32)
        offsets = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        return Prepared({"ids": ids, "offsets": offsets}, good, failures)

    @override
    def lengths(self, batch: pa.Table) -> np.ndarray:
        """Tokens of each text, 0 for none, by tokenising it.

        That costs little beside training, and an estimate from the characters is poor: in batches of 32 sorted by it,
        13 to 28 % more padded tokens than sorted by the true number (English and French products, 128 tokens).
        """
        prepared = self.prepare(batch)
        tokens = np.zeros(len(batch), np.int64)
        if prepared.inputs:
            tokens[prepared.good] = self.sizes(prepared.inputs)
        return tokens

    @override
    def sizes(self, inputs: Inputs) -> np.ndarray:
        """Tokens."""
        return np.diff(inputs["offsets"])

    @override
    def collate(self, inputs: Inputs, rows: np.ndarray) -> dict[str, np.ndarray]:
        """`input_ids` int32 `[B, L]` and `attention_mask` uint8 `[B, L]`, padded on the right to the longest row.

        Padding is masked and so no part of the fingerprint: it moves a vector by float noise alone.
        """
        places, lengths = take_ragged(inputs["offsets"], rows)
        mask_BL = np.arange(lengths.max()) < lengths[:, None]
        ids_BL = np.full(mask_BL.shape, self._pad_id, np.int32)
        ids_BL[mask_BL] = inputs["ids"][places]
        return {"input_ids": ids_BL, "attention_mask": mask_BL.view(np.uint8)}

    @override
    def trace_inputs(self) -> dict[str, TraceInput]:
        """Rows and tokens vary."""
        tokens = min(8, self.max_length)
        return {
            "input_ids": TraceInput(np.zeros((2, tokens), np.int32), (0, 1)),
            "attention_mask": TraceInput(np.ones((2, tokens), np.uint8), (0, 1)),
        }

    @override
    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Vectors float32 `[B, width]` of tokens `[B, L]`; every row has at least one token that is not masked."""
        states_BLW: Tensor = self.backbone(
            input_ids=input_ids.long(), attention_mask=attention_mask.long()
        ).last_hidden_state
        mask_BL1 = attention_mask.unsqueeze(-1).float()
        return (states_BLW.float() * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1)

    @override
    def config(self) -> dict[str, object]:
        backbone = json.loads(self.backbone.config.to_json_string(use_diff=False))
        return {
            "code": CODE_VERSION,
            "backbone": {key: value for key, value in backbone.items() if key not in _NOT_OUTPUT},
            "dtype": VECTOR_DTYPE.str,
            "max_length": self.max_length,
            "pooling": "mean",
            "tokenizer_sha256": hashlib.sha256(self._tokenizer_json.encode()).hexdigest(),
        }

    @override
    def save(self, folder: Path) -> None:
        (folder / TOKENIZER_FILE).write_bytes(self._tokenizer_json.encode())
        write_encoder(self, folder)


def _load_backbone(source: str) -> tuple[PreTrainedModel, set[str]]:
    """The model in float32, whatever its file holds, and the keys for which the file has no fitting weights."""
    with _without_report():
        backbone, info = AutoModel.from_pretrained(
            source,
            dtype=torch.float32,
            attn_implementation="sdpa",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return backbone, info["missing_keys"] | {key for key, *_ in info["mismatched_keys"]}


@contextmanager
def _without_report() -> Iterator[None]:
    """Holds back the table of keys that loading logs as a warning: the keys that matter are raised as an error."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def _fit(tokenizer: Any, backbone: PreTrainedModel, max_length: int, model: str) -> Tokenizer:
    """The fast tokenizer behind a transformers one, set to truncate; its padding tells the id to pad with."""
    if not tokenizer.is_fast:
        raise InputError(f"{model}: has no fast tokenizer (tokenizer.json), which this encoder needs")
    limit = min(tokenizer.model_max_length, getattr(backbone.config, "max_position_embeddings", max_length))
    if not 0 < max_length <= limit:
        raise InputError(f"{model}: max_length is {max_length}, expected 1 to {limit} tokens")
    fast: Tokenizer = tokenizer.backend_tokenizer
    fast.enable_truncation(max_length)
    fast.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    return fast


def _pad_id(tokenizer: Tokenizer) -> int:
    if tokenizer.padding is None:
        raise ValueError("the tokenizer does not say what to pad with")
    return int(tokenizer.padding["pad_id"])


def _unusable(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder}: cannot be loaded: {' '.join(str(error).split())}")
