"""Fusion heads that join one embedding of each encoder: concatenation, addition, simple and gated.

Shape letters as in `mmbatch.fusion.base`. Below, e_i is the embedding of input i, and m_i the learned embedding that
stands for it where it is missing.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmbatch.errors import InputError
from mmbatch.fusion.base import FusionHead
from mmbatch.fusion.text_width import TextWidth
from mmbatch.schema import Modality
from mmbatch.training import MODALITY_DROPOUT


class ConcatenationHead(FusionHead):
    """Each input is LayerNormed and projected to the same width, so that none dominates by its scale or its width.

        x_i = W_i LayerNorm(e_i) + b_i, or m_i        joined = [x_1; ...; x_M]

    Source: Verma et al., "Deep Multi-level Boosted Fusion Learning Framework for Multi-modal Product Classification",
    SIGIR eCom'20, section 6: an image vector of 2,048 is projected to the texts' 768 and the concatenation of 3 x 768
    is mapped to the classes. The norms, and the projection of the texts, are not in the source.
    """

    kind: ClassVar[str] = "concatenation"

    def __init__(
        self,
        *,
        widths: Mapping[str, int],
        modalities: Mapping[str, Modality],
        classes: Sequence[int],
        hidden: int,
        dropout: float,
        modality_dropout: float = MODALITY_DROPOUT,
    ) -> None:
        """Make an untrained head; `hidden` is the width H of each projected input, the rest is in `FusionHead`.

        Raises:
            InputError: as `FusionHead`, or `hidden` is below 1.
        """
        super().__init__(
            widths=widths,
            modalities=modalities,
            classes=classes,
            dropout=dropout,
            modality_dropout=modality_dropout,
            hidden=hidden,
        )
        _check_hidden(self.kind, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.widths.values())
        self.projections = nn.ModuleList(nn.Linear(width, hidden) for width in self.widths.values())
        self.missing = nn.Parameter(torch.zeros(len(self.widths), hidden))
        self.classifier = nn.Linear(len(self.widths) * hidden, sum(self.classes))

    def join(self, known: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        """Joined embedding `[B, M x H]`."""
        inputs = zip(self.norms, self.projections, known, present, self.missing, strict=True)
        parts_BH = [
            torch.where(mask_B1, project(norm(value_BF)), missing_H)
            for norm, project, value_BF, mask_B1, missing_H in inputs
        ]
        return torch.cat(parts_BH, dim=1)


class AdditionHead(FusionHead):
    """The sum of all inputs, brought to the texts' width H.

        x_i = e_i of a text, W_i e_i + b_i of an image, or m_i        joined = x_1 + ... + x_M

    Source: Verma et al. (see `ConcatenationHead`), "Addition Ensemble": X_t1 + X_t2 + X'_im, where X'_im is the image
    vector after a convolution of kernel size 1. A text narrower than the widest one is projected too (`TextWidth`).
    """

    kind: ClassVar[str] = "addition"

    def __init__(
        self,
        *,
        widths: Mapping[str, int],
        modalities: Mapping[str, Modality],
        classes: Sequence[int],
        dropout: float,
        modality_dropout: float = MODALITY_DROPOUT,
    ) -> None:
        """Make an untrained head; the arguments are those of `FusionHead`.

        Raises:
            InputError: as `FusionHead` and `TextWidth`.
        """
        super().__init__(
            widths=widths, modalities=modalities, classes=classes, dropout=dropout, modality_dropout=modality_dropout
        )
        self.text_width = TextWidth(kind=self.kind, widths=self.widths, modalities=modalities)
        self.classifier = nn.Linear(self.text_width.width, sum(self.classes))

    def join(self, known: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        """Joined embedding `[B, H]`."""
        return torch.stack(self.text_width(known, present)).sum(dim=0)


class SimpleHead(FusionHead):
    """The concatenation of all inputs, brought to the texts' width H, LayerNormed as a whole.

        x_i = e_i of a text, W_i e_i + b_i of an image, or m_i        joined = LayerNorm([x_1; ...; x_M])

    Source: "simple" multimodal of jihoon99's "Multi-Modal Cross Attention Network for e-Commerce Product
    Categorization" (Kakao arena): image 2,048 -> 768, beside the text's 768, then LayerNorm, dropout and Linear for
    each of four levels. One norm serves all levels here: the linear layer of a level absorbs what a scale and shift of
    its own would do. A text narrower than the widest one is projected too (`TextWidth`).
    """

    kind: ClassVar[str] = "simple"

    def __init__(
        self,
        *,
        widths: Mapping[str, int],
        modalities: Mapping[str, Modality],
        classes: Sequence[int],
        dropout: float,
        modality_dropout: float = MODALITY_DROPOUT,
    ) -> None:
        """Make an untrained head; the arguments are those of `FusionHead`.

        Raises:
            InputError: as `FusionHead` and `TextWidth`.
        """
        super().__init__(
            widths=widths, modalities=modalities, classes=classes, dropout=dropout, modality_dropout=modality_dropout
        )
        self.text_width = TextWidth(kind=self.kind, widths=self.widths, modalities=modalities)
        joined = len(self.widths) * self.text_width.width
        self.norm = nn.LayerNorm(joined)
        self.classifier = nn.Linear(joined, sum(self.classes))

    def join(self, known: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        """Joined embedding `[B, M x H]`."""
        joined_BJ: Tensor = self.norm(torch.cat(self.text_width(known, present), dim=1))
        return joined_BJ


class GatedHead(FusionHead):
    """A gate, computed from all inputs, weighs the inputs anew for each product and each hidden unit.

        x_i = LayerNorm(e_i), or m_i
        h_i = tanh(W_i x_i + b_i)
        a_i = U_i [x_1; ...; x_M] + c_i
        g_i = exp(a_i) / (exp(a_1) + ... + exp(a_M))
        joined = g_1 * h_1 + ... + g_M * h_M        (* and / by element)

    Source: Arevalo et al., "Gated Multimodal Units for Information Fusion", 2017 (arXiv:1702.01992), for
    two inputs: z * h_1 + (1 - z) * h_2 with z = sigmoid(W_z [x_1; x_2]). The softmax keeps a sum of weights of one for
    any number of inputs; of two, it is that unit, with W_z = U_1 - U_2. The norms are not in the source.
    """

    kind: ClassVar[str] = "gated"

    def __init__(
        self,
        *,
        widths: Mapping[str, int],
        modalities: Mapping[str, Modality],
        classes: Sequence[int],
        hidden: int,
        dropout: float,
        modality_dropout: float = MODALITY_DROPOUT,
    ) -> None:
        """Make an untrained head; `hidden` is the width H of each h_i, the rest is in `FusionHead`.

        Raises:
            InputError: as `FusionHead`, or `hidden` is below 1.
        """
        super().__init__(
            widths=widths,
            modalities=modalities,
            classes=classes,
            dropout=dropout,
            modality_dropout=modality_dropout,
            hidden=hidden,
        )
        _check_hidden(self.kind, hidden)
        sizes = self.widths.values()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in sizes)
        self.missing = nn.ParameterList(torch.zeros(width) for width in sizes)
        self.projections = nn.ModuleList(nn.Linear(width, hidden) for width in sizes)
        self.gate = nn.Linear(sum(sizes), len(sizes) * hidden)
        self.classifier = nn.Linear(hidden, sum(self.classes))

    def join(self, known: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        """Joined embedding `[B, H]`."""
        inputs = zip(self.norms, known, present, self.missing, strict=True)
        values = [torch.where(mask_B1, norm(value_BF), missing_F) for norm, value_BF, mask_B1, missing_F in inputs]
        hidden_BMH = torch.stack(
            [project(value_BF).tanh() for project, value_BF in zip(self.projections, values, strict=True)], dim=1
        )
        gate_BMH = self.gate(torch.cat(values, dim=1)).view_as(hidden_BMH).softmax(dim=1)
        joined_BH: Tensor = (gate_BMH * hidden_BMH).sum(dim=1)
        return joined_BH


def _check_hidden(kind: str, hidden: int) -> None:
    if hidden < 1:
        raise InputError(f"hidden width of the {kind} head: found {hidden}, expected 1 or more")
