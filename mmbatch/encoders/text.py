"""Pretrained transformers over a product's title and description."""

import hashlib
import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel
from typing_extensions import override

from mmbatch import schema
from mmbatch.encoders.base import VECTOR_DTYPE, Budget, Budgets, Encoder, Inputs, Prepared, TraceInput, write_encoder
from mmbatch.encoders.pooling import Pooling, take_pooling
from mmbatch.encoders.pretrained import find_weights, unreachable
from mmbatch.encoders.pretrained_text import load_backbone, load_tokenizer
from mmbatch.encoders.product_text import (
    SEPARATOR,
    TEXT_COLUMNS,
    Fields,
    product_pairs,
    product_texts,
    without_text,
)
from mmbatch.errors import InputError
from mmbatch.sequences import take_ragged
from mmbatch.training import Augmentation

TOKENIZER_FILE = "tokenizer.json"

CODE_VERSION = 1
"""Raised whenever this module turns the same rows and weights into other vectors or states."""

_NOT_OUTPUT = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "transformers_version")


class _NoCache:
    """Stands in for FlauBERT's cache of keys and values, which encoding has no use for and OpenVINO cannot convert."""

    def __getitem__(self, layer: int) -> Self:
        return self

    def get_seq_length(self) -> int:
        return 0

    def update(self, keys: Tensor, values: Tensor, _layer: int) -> tuple[Tensor, Tensor]:
        return keys, values


@final
class TransformersText(Encoder):
    """A transformer's last hidden states of a text's tokens, pooled to one vector (`mmbatch.encoders.pooling`)."""

    kind: ClassVar[str] = "transformers_text"
    modality: ClassVar[schema.Modality] = "text"
    columns: ClassVar[tuple[str, ...]] = TEXT_COLUMNS
    budgets: ClassVar[Budgets] = Budgets(cpu=Budget(2048, 32), openvino=Budget(2048, 32), gpu=Budget(8192, 48))

    def __init__(
        self,
        *,
        backbone: PreTrainedModel,
        tokenizer: Tokenizer,
        max_length: int,
        pooling: Pooling,
        fields: Fields,
        separator: str | None,
    ) -> None:
        """`tokenizer` truncates at `max_length` tokens and knows its padding (`load_tokenizer`).

        `separator` stands between joined fields, and is None for a pair. Pooling takes the backbone's pooler away; new
        weights of pooling come from torch's global generator.
        """
        super().__init__()
        if fields not in ("joined", "pair"):
            raise InputError(f"fields is {fields!r}, expected joined or pair")
        self.pooling = take_pooling(pooling, backbone=backbone, max_length=max_length)
        self.backbone = backbone
        self.max_length = max_length
        self.width = int(backbone.config.hidden_size)
        self._pooling, self._fields, self._separator = pooling, fields, separator
        self._has_types = fields == "pair" and getattr(backbone.config, "type_vocab_size", 0) > 1
        self._vocabulary = int(backbone.config.vocab_size)
        self._tokenizer_json = tokenizer.to_str()
        self._pad_id, self._unknown_id = _pad_id(tokenizer), _unknown_id(tokenizer)
        tokenizer.no_padding()
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        max_length: int,
        pooling: Pooling = "mean",
        fields: Fields = "joined",
        separator: str = SEPARATOR,
        weights: str | None,
        seed: int = 0,
    ) -> Self:
        """The pretrained `model` by its hub name, from the folder `weights` or the hub (`find_weights`).

        `separator` stands between title and description where fields are `joined`. `seed` draws the weights that
        `flatten` adds; the global random state stays as it is. Raises `InputError` where the model lacks what it needs:
        weights, with pooling `pooler` those of the pooler too, a fast tokenizer, positions for `max_length` tokens.
        """
        folder = find_weights(model, weights)
        source = str(folder or model)
        try:
            backbone, lacking = load_backbone(source)
            tokenizer = load_tokenizer(source, backbone=backbone, max_length=max_length)
        except InputError as error:
            raise InputError(f"{model}: {error}") from error
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _unusable(folder, error) if folder else unreachable(model, error) from error
        needed = sorted(key for key in lacking if pooling == "pooler" or not key.startswith("pooler."))
        if needed:
            raise InputError(f"{source}: weights do not fit the model, missing or of another shape: {needed}")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return cls(
                backbone=backbone,
                tokenizer=tokenizer,
                max_length=max_length,
                pooling=pooling,
                fields=fields,
                separator=separator if fields == "joined" else None,
            )

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
        return cls(
            backbone=AutoModel.from_config(AutoConfig.for_model(**config["backbone"])),  # type: ignore[no-untyped-call]
            tokenizer=Tokenizer.from_str(text.decode("utf-8")),
            **{name: config[name] for name in ("max_length", "pooling", "fields", "separator")},
        )

    @override
    def prepare(self, batch: pa.Table, *, augmentation: Augmentation | None = None, seed: int = 0) -> Prepared:
        """`ids` int32 `[T]` and `offsets` int64 `[G + 1]`: where each text's tokens begin; texts are not augmented.

        Of pairs, `types` uint8 `[T]` too where the model tells first and second apart: 1 for tokens of the second.
        """
        texts = self._texts(batch)
        good = np.flatnonzero([text is not None for text in texts])
        failures = without_text(good, len(batch))
        if not len(good):
            return Prepared({}, good, failures)
        encodings = self._tokenizer.encode_batch_fast([text for text in texts if text is not None])
        tokens = [encoding.ids for encoding in encodings]
        ids = np.fromiter(chain.from_iterable(tokens), np.int32)
        if self._unknown_id is not None:
            ids[ids >= self._vocabulary] = self._unknown_id
        inputs: dict[str, np.ndarray] = {"ids": ids, "offsets": np.cumsum([0, *map(len, tokens)], dtype=np.int64)}
        if self._has_types:
            inputs["types"] = np.fromiter(chain.from_iterable(one.type_ids for one in encodings), np.uint8)
        return Prepared(inputs, good, failures)

    def _texts(self, batch: pa.Table) -> list[Any]:
        """What the tokenizer takes of each row: a text, a pair, or None."""
        if self._separator is None:
            return product_pairs(batch)
        texts: list[str | None] = product_texts(batch, self._separator).to_pylist()
        return texts

    @override
    def sizes(self, inputs: Inputs) -> np.ndarray:
        """Tokens."""
        return np.diff(inputs["offsets"])

    @override
    def collate(self, inputs: Inputs, rows: np.ndarray) -> dict[str, np.ndarray]:
        """`input_ids` int32 `[B, L]` and `attention_mask` uint8 `[B, L]`, padded on the right to the longest row.

        Where `prepare` gives `types`, `token_type_ids` uint8 `[B, L]` too. Padding is masked and so no part of the
        fingerprint: it moves a vector by float noise alone.
        """
        places, lengths = take_ragged(inputs["offsets"], rows)
        mask_BL = np.arange(lengths.max()) < lengths[:, None]
        ids_BL = np.full(mask_BL.shape, self._pad_id, np.int32)
        ids_BL[mask_BL] = inputs["ids"][places]
        arrays: dict[str, np.ndarray] = {"input_ids": ids_BL, "attention_mask": mask_BL.view(np.uint8)}
        if self._has_types:
            types_BL = np.zeros(mask_BL.shape, np.uint8)
            types_BL[mask_BL] = inputs["types"][places]
            arrays["token_type_ids"] = types_BL
        return arrays

    @override
    def trace_inputs(self) -> dict[str, TraceInput]:
        """Rows and tokens vary."""
        shape = (2, min(8, self.max_length))
        examples: dict[str, np.ndarray] = {
            "input_ids": np.zeros(shape, np.int32),
            "attention_mask": np.ones(shape, np.uint8),
        }
        if self._has_types:
            examples["token_type_ids"] = np.zeros(shape, np.uint8)
        return {name: TraceInput(example, (0, 1)) for name, example in examples.items()}

    @override
    def forward(self, *, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Vectors float32 `[B, width]` of tokens `[B, L]`; every row has at least one token that is not masked."""
        vectors_BW: Tensor = self.pooling(self._read(input_ids, attention_mask, token_type_ids), attention_mask)
        return vectors_BW

    @property
    @override
    def longest_sequence(self) -> int:
        return self.max_length

    @override
    def states(
        self, *, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Last hidden states of tokens `[B, L]`; see `Encoder.states`."""
        states_BLW = self._read(input_ids, attention_mask, token_type_ids)
        return states_BLW.float(), attention_mask.sum(dim=1)

    def _read(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Last hidden states `[B, L, W]`, those of padding among them."""
        more: dict[str, Any] = {"cache": _NoCache()} if self.backbone.config.model_type == "flaubert" else {}
        if token_type_ids is not None:
            more["token_type_ids"] = token_type_ids.long()
        states_BLW: Tensor = self.backbone(
            input_ids=input_ids.long(), attention_mask=attention_mask.long(), **more
        ).last_hidden_state
        return states_BLW

    @override
    def config(self) -> dict[str, object]:
        backbone = json.loads(self.backbone.config.to_json_string(use_diff=False))
        return {
            "code": CODE_VERSION,
            "backbone": {key: value for key, value in backbone.items() if key not in _NOT_OUTPUT},
            "dtype": VECTOR_DTYPE.str,
            "fields": self._fields,
            "max_length": self.max_length,
            "pooling": self._pooling,
            "separator": self._separator,
            "tokenizer_sha256": hashlib.sha256(self._tokenizer_json.encode()).hexdigest(),
        }

    @override
    def save(self, folder: Path) -> None:
        (folder / TOKENIZER_FILE).write_bytes(self._tokenizer_json.encode())
        write_encoder(self, folder)


def _pad_id(tokenizer: Tokenizer) -> int:
    if tokenizer.padding is None:
        raise ValueError("the tokenizer does not say what to pad with")
    return int(tokenizer.padding["pad_id"])


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """What stands for pieces of words that have no embedding (`flaubert_tokenizer`); None if the tokenizer has none."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    return None if unknown is None else tokenizer.token_to_id(unknown)


def _unusable(folder: Path, error: Exception) -> InputError:
    return InputError(f"{folder}: cannot be loaded: {' '.join(str(error).split())}")
