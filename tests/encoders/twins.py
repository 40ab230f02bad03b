"""Small random twins of pretrained text models, in the files that the hub has of the large ones."""

import json
from pathlib import Path

import torch
from transformers import (
    CamembertConfig,
    CamembertForMaskedLM,
    CamembertTokenizer,
    FlaubertConfig,
    FlaubertWithLMHeadModel,
)

TINY = {"camembert": "org/tiny-camembert", "flaubert": "org/tiny-flaubert"}

FLAUBERT_VOCABULARY = (
    ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{number}>" for number in range(10))]
    + [letter + end for letter in "abcdefghiklmnorstuw." for end in ("", "</w>")]
    + ["mug</w>", "red</w>", "the</w>", "'", "'</w>", "l'</w>"]
)
FLAUBERT_MERGES = ["m u 9", "mu g</w> 8", "r e 7", "re d</w> 6", "t h 5", "th e</w> 4", "l '</w> 3"]
"""`mu`, `re` and `th` are in no word of their own: the vocabulary lacks them, as FlauBERT's may."""


def write_camembert(folder: Path, words: list[str], *, positions: int = 34) -> None:
    """A masked language model, so without a pooler, the first two of whose positions are padding's."""
    special = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    pieces = ["▁", ".", *(f"▁{word}" for word in words), *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [(piece, -float(rank)) for rank, piece in enumerate([*special, *pieces, "<mask>"])]
    CamembertTokenizer(vocab=vocabulary, model_max_length=512).save_pretrained(folder)
    config = CamembertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=positions,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=5,
        eos_token_id=6,
    )
    torch.manual_seed(1)
    CamembertForMaskedLM(config).save_pretrained(folder)


def write_flaubert(folder: Path, *, width: int = 32, layers: int = 2, positions: int = 30) -> None:
    """A masked language model; its tokenizer is a vocabulary and merges, without tokenizer.json."""
    config = FlaubertConfig(
        vocab_size=len(FLAUBERT_VOCABULARY),
        emb_dim=width,
        n_layers=layers,
        n_heads=2,
        max_position_embeddings=positions,
    )
    torch.manual_seed(2)
    FlaubertWithLMHeadModel(config).save_pretrained(folder)
    ids = {token: number for number, token in enumerate(FLAUBERT_VOCABULARY)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("".join(f"{merge}\n" for merge in FLAUBERT_MERGES))
    (folder / "tokenizer_config.json").write_text('{"do_lowercase": false, "model_max_length": 512}')
