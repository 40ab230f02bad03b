"""Optimiser and learning rates of a recipe."""

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mmbatch.encoders.depth import depths
from mmbatch.pipelines.classifier import Classifier
from mmbatch.training import Optimizer, Schedule, Training

_OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "radam": torch.optim.RAdam,
}


class Descent(Protocol):
    """What recipes of encoders and heads have in common."""

    @property
    def optimizer(self) -> Optimizer:
        """What takes the steps."""

    @property
    def weight_decay(self) -> float:
        """Of matrices."""

    @property
    def schedule(self) -> Schedule:
        """How rates fall."""

    @property
    def warmup_share(self) -> float:
        """Share of the steps in which they rise."""


def optimizer_of(module: nn.Module, training: Descent, rates: Mapping[str, float]) -> torch.optim.Optimizer:
    """The recipe's optimiser, with a peak rate for each parameter's name.

    Biases and normalisation weights do not decay: pulling them to zero only undoes what they normalise.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = training.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rates[name], decay), []).append(parameter)
    return _OPTIMIZERS[training.optimizer](
        [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]
    )


def rates_of(module: Classifier, training: Training) -> dict[str, float]:
    """Peak rate of each parameter: `learning_rate * layer_decay ** (layers above it)`, the new layer's own."""
    named = {name: training.classifier_learning_rate for name, _ in module.named_parameters()}
    below = depths(module.encoder)
    top = max(below.values(), default=0)
    return named | {
        f"encoder.{name}": training.learning_rate * training.layer_decay ** (top - depth)
        for name, depth in below.items()
    }


def schedule_of(optimizer: torch.optim.Optimizer, training: Descent, *, steps: int) -> LambdaLR:
    """Linear warm-up to the peak rates, then the recipe's way down to zero at step `steps`."""
    warmup = int(steps * training.warmup_share)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        left = max(0.0, (steps - step) / max(1, steps - warmup))
        return {"linear": min(1.0, left), "cosine": (1 - math.cos(math.pi * min(1.0, left))) / 2, "constant": 1.0}[
            training.schedule
        ]

    return LambdaLR(optimizer, factor)
