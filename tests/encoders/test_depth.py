from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DistilBertConfig,
    DistilBertModel,
    FlaubertConfig,
    FlaubertModel,
    PreTrainedModel,
)

from mmbatch.encoders.depth import depths
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.ngram import NgramText
from mmbatch.encoders.text import TransformersText

SMALL: dict[str, Any] = {"vocab_size": 32, "pad_token_id": 0}
BERT_LIKE: dict[str, Any] = {
    **SMALL,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
XLM_LIKE: dict[str, Any] = {**SMALL, "emb_dim": 16, "n_layers": 3, "n_heads": 2, "pad_index": 0}

TRANSFORMERS: dict[str, tuple[PreTrainedModel, str, str]] = {
    "bert": (BertModel(BertConfig(**BERT_LIKE), add_pooling_layer=False), "embeddings.", "encoder.layer.{}."),
    "camembert": (
        CamembertModel(CamembertConfig(**BERT_LIKE), add_pooling_layer=False),
        "embeddings.",
        "encoder.layer.{}.",
    ),
    "distilbert": (
        DistilBertModel(DistilBertConfig(**SMALL, dim=16, hidden_dim=16, n_layers=3, n_heads=2)),
        "embeddings.",
        "transformer.layer.{}.",
    ),
}


class Encoderlike(torch.nn.Module):
    """What `depths` looks at: a backbone, and a layer of the encoder's own above it."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = torch.nn.Linear(16, 4)


def all_names(encoder: torch.nn.Module) -> set[str]:
    return {name for name, _ in encoder.named_parameters()}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformers_depth_is_its_layers_number(name: str) -> None:
    backbone, embeddings, layer = TRANSFORMERS[name]
    encoder: Any = Encoderlike(backbone)
    found = depths(encoder)
    assert found.keys() == all_names(encoder)
    for parameter, depth in found.items():
        prefixes = [embeddings, *(layer.format(number) for number in range(3)), "projection."]
        expected = [0, 1, 2, 3, 3]
        (place,) = [i for i, prefix in enumerate(prefixes) if parameter.removeprefix("backbone.").startswith(prefix)]
        assert depth == expected[place], parameter


def test_flauberts_layers_lie_in_four_lists() -> None:
    encoder: Any = Encoderlike(FlaubertModel(FlaubertConfig(**XLM_LIKE)))
    found = depths(encoder)
    assert found.keys() == all_names(encoder)
    for part in ("position_embeddings.weight", "embeddings.weight", "layer_norm_emb.weight", "layer_norm_emb.bias"):
        assert found[f"backbone.{part}"] == 0
    for number in range(3):
        for part in (f"attentions.{number}.q_lin", f"layer_norm1.{number}", f"ffns.{number}.lin2"):
            assert found[f"backbone.{part}.weight"] == number + 1
    assert set(found.values()) == {0, 1, 2, 3}


def test_the_mean_of_a_bert(small_weights: str) -> None:
    encoder = TransformersText.from_pretrained("org/tiny-bert", max_length=24, weights=small_weights)
    found = depths(encoder)
    assert found.keys() == all_names(encoder)
    assert found["backbone.embeddings.word_embeddings.weight"] == 0
    assert found["backbone.encoder.layer.0.output.dense.weight"] == 1
    assert found["backbone.encoder.layer.1.output.dense.weight"] == 2


@pytest.mark.parametrize(
    ("model", "in_order"),
    [
        ("test_resnet", ("conv1.0.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer4.0.conv1.weight")),
        ("test_vit", ("pos_embed", "blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight", "blocks.5.mlp.fc2.bias")),
        ("mobilenetv1_100", ("conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.1.0.conv_dw.weight")),
        ("legacy_seresnext50_32x4d", ("layer0.conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight")),
    ],
)
def test_a_timm_networks_depth_rises_from_its_stem(model: str, in_order: tuple[str, ...]) -> None:
    with torch.device("meta"):
        encoder = TimmImage.from_scratch(model, size=64, seed=0)
    found = depths(encoder)
    assert found.keys() == all_names(encoder)
    ranks = [found[f"backbone.{name}"] for name in in_order]
    assert ranks[0] == 0
    assert ranks == sorted(set(ranks))
    assert set(found.values()) == set(range(max(found.values()) + 1))


def test_vits_last_norm_is_as_deep_as_its_last_block() -> None:
    found = depths(TimmImage.from_scratch("test_vit", size=32, seed=0))
    assert found["backbone.norm.weight"] == found["backbone.blocks.5.mlp.fc2.weight"] == max(found.values()) == 6


def test_frozen_parameters_are_left_out_and_still_count() -> None:
    encoder = TimmImage.from_scratch("test_resnet", size=32, seed=0)
    before = depths(encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(not name.startswith(("backbone.conv1.", "backbone.bn1.", "backbone.layer1.")))
    after = depths(encoder)
    assert after == {name: depth for name, depth in before.items() if depth > 1}


def test_an_encoder_without_blocks_has_one_depth() -> None:
    encoder = NgramText.from_scratch(buckets=64, width=8, seed=0)
    assert depths(encoder) == dict.fromkeys(all_names(encoder), 0)
