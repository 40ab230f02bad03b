import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from mmbatch.encoders import collate_all, encode, load_encoder, to_tensors
from mmbatch.encoders.lora import add_lora, merge_lora
from mmbatch.encoders.text import TransformersText
from mmbatch.errors import InputError
from mmbatch.training import Lora

MODELS = ["org/tiny-bert", "org/tiny-camembert", "org/tiny-flaubert"]


def make(weights: str, model: str = "org/tiny-bert", **arguments: Any) -> TransformersText:
    return TransformersText.from_pretrained(model, max_length=24, weights=weights, **arguments)


def tensors(encoder: TransformersText, products: pa.Table) -> dict[str, Tensor]:
    return to_tensors(collate_all(encoder, encoder.prepare(products).inputs), "cpu")


def train(encoder: TransformersText, products: pa.Table) -> None:
    optimizer = torch.optim.Adam([weight for weight in encoder.parameters() if weight.requires_grad], lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        (encoder(**tensors(encoder, products)) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("model", MODELS)
def test_only_adapters_train_and_merging_keeps_their_vectors(
    small_weights: str, products: pa.Table, model: str
) -> None:
    torch.manual_seed(0)
    encoder = make(small_weights, model).eval()
    names = list(encoder.state_dict())
    inputs = tensors(encoder, products)
    before = encoder(**inputs)
    add_lora(encoder, Lora(rank=2, alpha=4.0))
    torch.testing.assert_close(encoder(**inputs), before)  # B is zero at first
    base = {name: weight.clone() for name, weight in encoder.named_parameters() if not weight.requires_grad}
    trained = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    train(encoder, products)
    assert all(torch.equal(encoder.get_parameter(name), weight) for name, weight in base.items())
    with torch.inference_mode():
        adapted = encoder(**inputs)
        merge_lora(encoder)
        merged = encoder(**inputs)
    assert (adapted - before).abs().max() > 1e-2
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-5)
    assert list(encoder.state_dict()) == names
    assert all(weight.requires_grad for weight in encoder.parameters())


def test_adapters_stand_on_the_named_layers(small_weights: str) -> None:
    encoder = make(small_weights)
    add_lora(encoder, Lora(rank=3, targets=("query", "value")))
    trained = {name: weight for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert {name.split(".")[-4] for name in trained} == {"query", "value"}
    assert sorted({min(weight.shape) for weight in trained.values()}) == [3]
    assert len(trained) == 2 * 2 * 2  # layers, targets, A and B


def test_an_unknown_layer_is_named(small_weights: str) -> None:
    with pytest.raises(
        InputError, match="lora targets queries: no such linear layer, expected of dense, key, query, v"
    ):
        add_lora(make(small_weights), Lora(targets=("queries", "value")))


def test_what_pooling_adds_trains_beside_the_adapters(small_weights: str, products: pa.Table) -> None:
    encoder = make(small_weights, pooling="flatten")
    before = encoder.get_parameter("pooling.linear.weight").clone()
    add_lora(encoder, Lora(rank=2))
    train(encoder, products)
    assert not torch.equal(encoder.get_parameter("pooling.linear.weight"), before)


def test_a_merged_encoder_is_saved_as_a_plain_one_and_read_without_peft(
    small_weights: str, products: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make(small_weights)
    plain = encoder.config()
    add_lora(encoder, Lora(rank=2, dropout=0.1))
    train(encoder, products)
    merge_lora(encoder)
    encoder.eval().save(tmp_path)
    assert encoder.config() == plain
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "encoder.json",
        "encoder.safetensors",
        "tokenizer.json",
    ]
    monkeypatch.setitem(sys.modules, "peft", None)  # to import it now is an error
    loaded = load_encoder(tmp_path)
    inputs = encoder.prepare(products).inputs
    np.testing.assert_array_equal(encode(loaded, inputs, "cpu"), encode(encoder, inputs, "cpu"))
