"""A `--weights` folder for the published presets: the real names and layouts, random weights, few layers."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import timm
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mmbatch.encoders.cleaning import clean_words
from tests.encoders.twins import write_camembert, write_flaubert

TOKENS = 256
"""Of a text, in the Rakuten system."""


def write_weights(root: Path, texts: Iterable[str]) -> None:
    """Models whose vocabularies hold the words of `texts`.

    CamemBERT's is 32 wide instead of 768: over 256 tokens of 768 numbers, its new layer alone would take 0.6 GB. timm's
    are what their names say, at full size.
    """
    cleaned = clean_words(pa.array(texts), language="en").values.unique().to_pylist()
    words = sorted(word for word in cleaned if word.isascii())
    write_camembert(root / "camembert-base", words[:500], positions=TOKENS + 2)
    write_flaubert(root / "flaubert--flaubert_base_cased", width=768, layers=1, positions=TOKENS)
    write_bert(root / "kykim--bert-kor-base", words)
    write_glove(root / "glove.6B.100d", words)
    for name in ("legacy_seresnext50_32x4d", "mobilenetv1_100"):
        torch.manual_seed(3)
        (root / f"timm--{name}").mkdir()
        save_file(timm.create_model(name).state_dict(), root / f"timm--{name}" / "model.safetensors")


def write_bert(folder: Path, words: list[str], *, width: int = 768, seed: int = 4) -> None:
    """A BERT of one layer with its pooler, `width` wide, over whole words."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_attention_heads=width // 64,
        num_hidden_layers=1,
        intermediate_size=width,
    )
    BertModel(config).save_pretrained(folder)  # type: ignore[no-untyped-call]


def write_glove(folder: Path, words: list[str]) -> None:
    """A vector of 100 numbers for each word, in GloVe's text format."""
    folder.mkdir()
    vectors = np.random.default_rng(5).normal(0, 0.4, (len(words), 100))
    lines = (f"{word} {' '.join(f'{x:.5f}' for x in vector)}\n" for word, vector in zip(words, vectors, strict=True))
    (folder / "glove.6B.100d.txt").write_text("".join(lines), encoding="utf-8")
