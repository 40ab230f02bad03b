"""timm's networks without their classifiers, and what is refused before anything is loaded or trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor

from mmbatch.encoders.pretrained import find_weights, unreachable
from mmbatch.errors import InputError


def pretrained_network(model: str, size: int | None, weights: str | None) -> torch.nn.Module:
    """timm's pretrained `model` from `<weights>/timm--<model>/model.safetensors` or the hub (`find_weights`).

    Raises `InputError` where the weights are not to be had or are not the model's.
    """
    folder = find_weights(f"timm/{model}", weights)
    file = folder / "model.safetensors" if folder else None
    source: Mapping[str, Any] = {"pretrained_cfg_overlay": {"file": str(file)}} if file else {}
    try:
        return new_network(model, size, pretrained=True, **source)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _unusable(file, error) if file else unreachable(model, error) from error


def new_network(model: str, size: int | None, **how: Any) -> torch.nn.Module:
    """timm's `model` without its classifier, which is dropped after loading so that loading can be strict."""
    defaults = timm.get_pretrained_cfg(model)
    if size is not None and defaults and defaults.fixed_input_size:
        how["img_size"] = size
    network: Any = timm.create_model(model, **how)
    if not hasattr(network, "reset_classifier"):
        raise InputError(f"{model}: is part of a larger model in timm, expected a network that gives pooled features")
    network.reset_classifier(0)
    return cast("torch.nn.Module", network)


def require_known(model: str) -> None:
    """Raise `InputError` for a name, or a tag of pretrained weights behind it, that timm does not know."""
    if not timm.is_model(model):
        raise InputError(f"{model}: no image model of that name in timm {timm.__version__}")
    try:
        timm.get_pretrained_cfg(model)
    except RuntimeError as error:
        raise InputError(f"{model}: {error}") from error


def require_size(model: str, size: int | None) -> None:
    """Raise `InputError` where `model` cannot take photos of `size` pixels a side: tried on shapes, without numbers.

    None is the side that it was trained at, if that was on squares.
    """
    if size is None:
        defaults = timm.get_pretrained_cfg(model)
        if defaults and defaults.input_size[1] != defaults.input_size[2]:
            _, height, width = defaults.input_size
            raise InputError(
                f"{model}: was trained on photos of {width} x {height} pixels: set size to train on squares"
            )
        return
    try:
        with torch.device("meta"):
            new_network(model, size).eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{model}: cannot take photos of {size} x {size} pixels: {reason}") from error


def channels_last(network: torch.nn.Module) -> torch.nn.Module:
    """The network in the layout of the pixels, as far as it goes: not every weight has four axes."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return network


def patches_of(network: Any, pixels_BCHW: Tensor) -> Tensor:
    """What a network pools: the positions of its last map, or its tokens without those for the whole photo.

    Float `[B, L, network.num_features]`. Of a network that pools several maps (CoaT, CrossViT, EfficientViM), which
    have no positions in common, the pooled vector is the only position.
    """
    features: Any = network.forward_features(pixels_BCHW)
    if not isinstance(features, Tensor):
        pooled_BF: Tensor = network.forward_head(features)
        return pooled_BF.unsqueeze(1)
    if features.ndim == 3:
        return features[:, getattr(network, "num_prefix_tokens", 0) :]
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)


def _unusable(file: Path, error: Exception) -> InputError:
    return InputError(f"{file}: cannot be loaded: {' '.join(str(error).split())}")
