"""Brings the embeddings of all encoders to the width of a text's: what the heads made for text with an image share."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbatch.errors import InputError
from mmbatch.schema import Modality


class TextWidth(nn.Module):
    """Inputs of any width -> inputs of one width H, that of the widest text.

    A text of that width is taken as it is; every image, and every narrower text, goes through a linear layer. (A
    convolution of kernel size 1 over an image's vector, as the sources have it, is that linear layer.) A learned
    embedding stands for an input, or a position of a sequence, that is not present.
    """

    def __init__(self, *, kind: str, widths: Mapping[str, int], modalities: Mapping[str, Modality]) -> None:
        """Make untrained layers.

        Args:
            kind: kind of the head, for error messages.
            widths: name of each input, sorted -> width F of its embedding.
            modalities: name of each input -> what its encoder reads.

        Raises:
            InputError: no input is a text.
        """
        super().__init__()
        texts = [width for name, width in widths.items() if modalities[name] == "text"]
        if not texts:
            raise InputError(f"the {kind} head needs a text input, found images only: {list(widths)}")
        self.width = max(texts)
        self.projections = nn.ModuleList(
            nn.Identity() if modalities[name] == "text" and width == self.width else nn.Linear(width, self.width)
            for name, width in widths.items()
        )
        self.missing = nn.Parameter(torch.zeros(len(widths), self.width))

    def forward(self, known: Sequence[Tensor], present: Sequence[Tensor]) -> list[Tensor]:
        """Inputs `[..., H]` from the arguments of `FusionHead.join`."""
        inputs = zip(self.projections, known, present, self.missing, strict=True)
        return [torch.where(mask, project(value), missing_H) for project, value, mask, missing_H in inputs]
