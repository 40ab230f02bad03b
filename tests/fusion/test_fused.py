"""The fused pass against sequences that were stored, read and padded."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import BertConfig, BertModel

from mmbatch.encoders import Encoder, encode_sequences
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.ngram import NgramText
from mmbatch.encoders.recurrent import RecurrentText
from mmbatch.encoders.text import TransformersText
from mmbatch.fusion import fused
from mmbatch.fusion.fused import joined_embeddings
from mmbatch.fusion.head import FusionHead, build_head
from mmbatch.fusion.padding import pad_sequences
from mmbatch.sequence_store import SequenceStore
from mmbatch.workspace import Settings, Workspace
from tests.encoders.conftest import WORDS, photo

ROWS = 9
BUCKET = np.arange(ROWS) % 2


def bert() -> TransformersText:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["[PAD]", ".", *WORDS])}, unk_token="."))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding()
    tokenizer.enable_truncation(20)
    config = BertConfig(vocab_size=32, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    return TransformersText(
        backbone=BertModel(config), tokenizer=tokenizer, max_length=20, pooling="mean", fields="joined", separator=" "
    )


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    """Tokens, words, one vector and patches."""
    torch.manual_seed(0)
    made: dict[str, Encoder] = {
        "bert": bert(),
        "image": TimmImage.from_scratch("test_resnet", size=64, seed=0),
        "ngram": NgramText.from_scratch(buckets=128, width=16, seed=0),
        "words": RecurrentText.from_words(
            words=WORDS, vectors=None, word_width=6, hidden=5, width=8, weights=None, seed=0
        ),
    }
    return {name: encoder.eval() for name, encoder in made.items()}


@pytest.fixture(scope="module")
def head(encoders: dict[str, Encoder]) -> FusionHead:
    torch.manual_seed(1)
    return build_head(
        kind="cross-attention",
        widths={name: encoder.sequence_width for name, encoder in encoders.items()},
        modalities={name: encoder.modality for name, encoder in encoders.items()},
        classes=[3, 5],
        blocks=1,
        heads=2,
        dropout=0.5,
    ).eval()


@pytest.fixture(scope="module")
def products() -> pa.Table:
    """Texts of different length; row 2 has no image, row 5 no text, row 7 nothing."""
    rng = np.random.default_rng(3)
    rows = [
        {
            "title": " ".join(rng.choice(WORDS, 1 + row)) if row not in (5, 7) else None,
            "description": None,
            "image": photo(rng, width=40 + row, height=50) if row not in (2, 7) else None,
        }
        for row in range(ROWS)
    ]
    text = pa.string()
    return pa.Table.from_pylist(rows, pa.schema([("title", text), ("description", text), ("image", pa.binary())]))


def prepared(encoders: dict[str, Encoder], batch: pa.Table) -> dict[str, Any]:
    """The arguments `inputs` and `present`."""
    found = {name: encoder.prepare(batch) for name, encoder in encoders.items()}
    present = {name: np.isin(np.arange(len(batch)), one.good) for name, one in found.items()}
    return {"inputs": {name: one.inputs for name, one in found.items()}, "present": present}


def logits(head: FusionHead, joined: np.ndarray) -> Tensor:
    return head.classifier(torch.from_numpy(joined).float()).detach()


@pytest.fixture(scope="module")
def stores(
    encoders: dict[str, Encoder], products: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SequenceStore]:
    """The sequences of all products, in two buckets; a product's hash is its row number."""
    settings = Settings(preset="sample", level=1, seed=0, buckets=2)
    workspace = Workspace.create(str(tmp_path_factory.mktemp("fused") / "w"), settings)
    made = {}
    for name, encoder in encoders.items():
        made[name] = SequenceStore(workspace=workspace, encoder=f"{name}@1", width=encoder.sequence_width)
        found = encoder.prepare(products)
        sequences = encode_sequences(encoder, found.inputs, "cpu")
        for bucket in range(2):
            own = np.flatnonzero(BUCKET[found.good] == bucket)
            names = pa.array(found.good[own]).cast(pa.string())
            entry = made[name].write(names, names, sequences.take(own), bucket=bucket)
            made[name].table.commit([entry], app_id=f"{bucket}")
    return made


def stored_logits(head: FusionHead, stores: dict[str, SequenceStore], rows: Sequence[int]) -> Tensor:
    hashes = pa.array([str(row) for row in rows])
    padded = {name: pad_sequences(store.read(hashes, buckets=[0, 1]), "cpu") for name, store in stores.items()}
    features, present = ({name: pair[part] for name, pair in padded.items()} for part in (0, 1))
    return head(features, present).detach()


@pytest.mark.parametrize(
    "rows", [range(ROWS), [8, 2, 5, 0], [3], [2], [5], [7], [7, 7, 1]], ids=lambda rows: "-".join(map(str, rows))
)
@pytest.mark.parametrize("positions", [fused.POSITIONS, 40])
def test_logits_are_those_of_stored_sequences(
    encoders: dict[str, Encoder],
    head: FusionHead,
    stores: dict[str, SequenceStore],
    products: pa.Table,
    monkeypatch: pytest.MonkeyPatch,
    rows: Sequence[int],
    positions: int,
) -> None:
    monkeypatch.setattr(fused, "POSITIONS", positions)
    joined = joined_embeddings(encoders, head, **prepared(encoders, products.take(list(rows))), device="cpu")
    assert joined.dtype.str == "<f2"
    assert joined.shape == (len(rows), 32)
    torch.testing.assert_close(logits(head, joined), stored_logits(head, stores, rows), rtol=0, atol=5e-3)


def test_products_differ(encoders: dict[str, Encoder], head: FusionHead, products: pa.Table) -> None:
    found = logits(head, joined_embeddings(encoders, head, **prepared(encoders, products), device="cpu"))
    apart = (found[:, None] - found).abs().amax(dim=2) + torch.eye(ROWS)
    assert apart.min() > 0.02


def test_no_products_give_no_embeddings(encoders: dict[str, Encoder], head: FusionHead, products: pa.Table) -> None:
    none = prepared(encoders, products.slice(0, 0))
    assert joined_embeddings(encoders, head, **none, device="cpu").shape == (0, 32)


def test_a_training_head_is_refused(encoders: dict[str, Encoder], products: pa.Table) -> None:
    head = build_head(
        kind="concatenation", widths={"ngram": 16}, modalities={"ngram": "text"}, classes=[2], hidden=4, dropout=0.0
    )
    with pytest.raises(RuntimeError, match=r"the concatenation head is in training mode: call eval\(\)"):
        joined_embeddings(encoders, head, **prepared(encoders, products), device="cpu")


def test_rows_that_do_not_match_their_presence_are_an_error(
    encoders: dict[str, Encoder], head: FusionHead, products: pa.Table
) -> None:
    arguments = prepared(encoders, products)
    arguments["present"]["image"][2] = True
    with pytest.raises(ValueError, match="input 'image': found 7 prepared rows, expected 8, one for each of the 9"):
        joined_embeddings(encoders, head, **arguments, device="cpu")


def test_an_embedding_that_is_not_finite_names_its_product(
    encoders: dict[str, Encoder], head: FusionHead, products: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(features: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        joined = embed(features, present)
        return joined.masked_fill(present["bert"].sum(dim=1, keepdim=True) == 9, float("inf"))

    embed = head.embed
    monkeypatch.setattr(head, "embed", broken)
    with pytest.raises(ValueError, match=r"cross-attention head: embeddings of rows \[8\] are not finite in float16"):
        joined_embeddings(encoders, head, **prepared(encoders, products), device="cpu")
