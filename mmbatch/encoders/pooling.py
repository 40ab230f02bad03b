"""How the token states of a text become its one vector.

Shapes: B texts, L tokens of the longest of them, W width of the states. A mask holds 1 for tokens and 0 for padding;
every text has at least one token.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, final

import torch
from torch import Tensor
from typing_extensions import override

from mmbatch.errors import InputError

Pooling = Literal["mean", "first", "pooler", "flatten"]
"""Names of `MeanOfTokens`, `FirstToken`, `Pooler` and `FlattenedTokens`."""


@final
class MeanOfTokens(torch.nn.Module):
    """Sum of a text's token states over their number (Reimers & Gurevych 2019, Sentence-BERT)."""

    @override
    def forward(self, states_BLW: Tensor, mask_BL: Tensor) -> Tensor:
        """Vectors float32 `[B, W]`."""
        mask_BL1 = mask_BL.unsqueeze(-1).float()
        return (states_BLW.float() * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1)


@final
class FirstToken(torch.nn.Module):
    """State of the first token, which begins every text (Devlin et al. 2019, BERT; Le et al. 2020, FlauBERT)."""

    @override
    def forward(self, states_BLW: Tensor, mask_BL: Tensor) -> Tensor:
        """Vectors float32 `[B, W]`; the mask is not needed."""
        return states_BLW[:, 0].float()


@final
class Pooler(torch.nn.Module):
    """`tanh(weight x + bias)` of the first token's state x, by the backbone's own layer (Devlin et al. 2019, BERT)."""

    def __init__(self, layer: torch.nn.Module) -> None:
        """`layer` is a transformers pooler: it takes all states."""
        super().__init__()
        self.layer = layer

    @override
    def forward(self, states_BLW: Tensor, mask_BL: Tensor) -> Tensor:
        """Vectors float32 `[B, W]`; the mask is not needed."""
        vectors_BW: Tensor = self.layer(states_BLW)
        return vectors_BW.float()


@final
class FlattenedTokens(torch.nn.Module):
    """`weight [x_1; ...; x_M] + bias` of all M token states in a row, padding as zeros (Verma et al. 2020).

    Texts are not padded to M: with the zeros left out, the first L x W columns of the weight give the same result.
    """

    def __init__(self, *, tokens: int, width: int) -> None:
        """New random weights for texts of at most `tokens` tokens, M."""
        super().__init__()
        self.linear = torch.nn.Linear(tokens * width, width)

    @override
    def forward(self, states_BLW: Tensor, mask_BL: Tensor) -> Tensor:
        """Vectors float32 `[B, W]`; L is at most M."""
        tokens_BK = (states_BLW * mask_BL.unsqueeze(-1).to(states_BLW.dtype)).flatten(1)
        weight_WK = self.linear.weight[:, : tokens_BK.shape[1]]
        return torch.nn.functional.linear(tokens_BK, weight_WK, self.linear.bias).float()


def take_pooling(pooling: Pooling, *, backbone: Any, max_length: int) -> torch.nn.Module:
    """The module of that name, for a transformers backbone, which loses its pooler.

    A pooler that takes no part would hold weights without a gradient, and these stall distributed training. Random
    weights, where there are any, come from torch's global generator. `InputError` where the name or the pooler does not
    exist.
    """
    layer: Any = getattr(backbone, "pooler", None)
    if layer is not None:
        backbone.register_module("pooler", None)
    if pooling == "pooler" and layer is None:
        raise InputError(f"pooling is 'pooler': a {backbone.config.model_type} model has none, expected mean or first")
    width = int(backbone.config.hidden_size)
    makers: Mapping[str, Callable[[], torch.nn.Module]] = {
        "mean": MeanOfTokens,
        "first": FirstToken,
        "pooler": lambda: Pooler(layer),
        "flatten": lambda: FlattenedTokens(tokens=max_length, width=width),
    }
    if pooling not in makers:
        raise InputError(f"pooling is {pooling!r}, expected one of {', '.join(makers)}")
    return makers[pooling]()
