"""The network that is trained: an encoder under its own classification layer."""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from mmbatch.encoders import Encoder
from mmbatch.errors import InputError

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"none": nn.Identity, "tanh": nn.Tanh, "relu": nn.ReLU}


class Classifier(nn.Module):
    """Embedding -> activation -> dropout -> linear layer: inputs -> logits `[B, C]`."""

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        *,
        dropout: float = 0.0,
        activation: Literal["none", "tanh", "relu"] = "none",
    ) -> None:
        super().__init__()
        self.frozen_batch_norm = False
        self.encoder = encoder
        self.activation = _ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.width, classes)

    def freeze(self, *, prefixes: Sequence[str], batch_norm: bool) -> None:
        """Stop training the encoder's parameters with these name prefixes, and its batch statistics.

        `InputError` when a prefix names no parameter.
        """
        self.frozen_batch_norm = batch_norm
        for prefix in prefixes:
            named = [p for name, p in self.encoder.named_parameters() if f"{name}.".startswith(f"{prefix}.")]
            if not named:
                raise InputError(f"frozen {prefix!r}: the encoder has no parameter of that prefix")
            for parameter in named:
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for frozen batch normalisation."""
        super().train(mode)
        for module in self.encoder.modules():
            if self.frozen_batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, float32 `[B, C]`.

        Without inputs, a zero that every trained weight has a part in: a worker none of whose rows can be used still
        takes part in the exchange of gradients, or the others would wait for it for ever.
        """
        if not inputs:
            return torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0.0
        logits: Tensor = self.classifier(self.dropout(self.activation(self.encoder(**inputs)))).float()
        return logits
