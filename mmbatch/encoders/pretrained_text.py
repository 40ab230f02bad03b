"""Pretrained transformers and their tokenizers, from a folder or the hub, as `TransformersText` needs them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils.hub import cached_file

from mmbatch.encoders.flaubert_tokenizer import MERGES_FILE, VOCABULARY_FILE, flaubert_tokenizer
from mmbatch.errors import InputError


def load_backbone(source: str) -> tuple[PreTrainedModel, set[str]]:
    """The model in float32, whatever its file holds, and the keys for which the file has no fitting weights.

    `source` is a folder or a name on the hub; raises what transformers raises.
    """
    with _without_report():
        backbone, info = AutoModel.from_pretrained(
            source, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
    return backbone, info["missing_keys"] | {key for key, *_ in info["mismatched_keys"]}


def load_tokenizer(source: str, *, backbone: PreTrainedModel, max_length: int) -> Tokenizer:
    """A tokenizer that cuts texts at `max_length` tokens and knows the id to pad with.

    Of a pair of texts, it cuts the longer one first. Raises `InputError` if the model cannot take as many tokens or has
    no tokenizer of that library, else what transformers raises.
    """
    limit = _positions(backbone) or max_length
    if backbone.config.model_type == "flaubert":
        tokenizer = _flaubert(source)
    else:
        wrapped = AutoTokenizer.from_pretrained(source)
        if not wrapped.is_fast:
            raise InputError("has no fast tokenizer (tokenizer.json), which this encoder needs")
        limit = min(limit, wrapped.model_max_length)
        tokenizer = wrapped.backend_tokenizer
        tokenizer.enable_padding(pad_id=wrapped.pad_token_id, pad_token=wrapped.pad_token)
    if not 0 < max_length <= limit:
        raise InputError(f"max_length is {max_length}, expected 1 to {limit} tokens")
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    return tokenizer


def _flaubert(source: str) -> Tokenizer:
    vocabulary, merges = (Path(str(cached_file(source, name))) for name in (VOCABULARY_FILE, MERGES_FILE))
    return flaubert_tokenizer(
        vocabulary, merges, lowercase=bool(get_tokenizer_config(source).get("do_lowercase", False))
    )


def _positions(backbone: PreTrainedModel) -> int | None:
    """Tokens that have a position; None if positions are not learned.

    RoBERTa and its kin, as CamemBERT, count positions from the one after that of padding: 512 of 514 are usable.
    """
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - unused
    return getattr(backbone.config, "max_position_embeddings", None)


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
