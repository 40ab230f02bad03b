"""Low-rank adapters on a text encoder's backbone: few weights to train, none of them left afterwards.

h = W x + (alpha / rank) B A x, with W frozen, A random and B zero at first (Hu et al. 2022, LoRA). Only fine-tuning
needs peft: what is merged is the encoder that it was, with other weights.
"""

from typing import Any, cast

from torch import nn

from mmbatch.encoders.text import TransformersText
from mmbatch.errors import InputError
from mmbatch.training import Lora


def add_lora(encoder: TransformersText, lora: Lora) -> None:
    """Put an adapter on each of the backbone's linear layers that `lora` names; freeze what was there before.

    Weights outside the backbone, as pooling's, stay as trainable as they were. The adapters' A come from torch's global
    generator. Raises `InputError` where the backbone has no linear layer of a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = {
        name.rsplit(".", 1)[-1] for name, layer in encoder.backbone.named_modules() if isinstance(layer, nn.Linear)
    }
    missing = sorted(set(lora.targets) - linear)
    if missing:
        raise InputError(
            f"lora targets {', '.join(missing)}: no such linear layer, expected of {', '.join(sorted(linear))}"
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # only ever divided by the rank
        lora_dropout=lora.dropout,
        target_modules=sorted(lora.targets or linear),
    )
    inject_adapter_in_model(config, encoder.backbone)


def merge_lora(encoder: TransformersText) -> None:
    """Add each adapter's product to the layer it stands on, and put the plain layers back; all weights train again."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(encoder.backbone.named_modules()):
        if isinstance(layer, LoraLayer):
            cast("Any", layer).merge()
            parent = encoder.backbone.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], layer.get_base_layer())
    del encoder.backbone.peft_config
    encoder.backbone.requires_grad_(True)
