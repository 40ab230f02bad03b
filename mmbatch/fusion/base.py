"""What a fusion head is: embeddings of several frozen encoders in, class logits of every level of the categories out.

Shape letters: B products, T tokens or patches, F width of one encoder's embedding, M inputs, H common width of the
inputs, J width of the joined embedding, C classes of all levels together.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmbatch.errors import InputError
from mmbatch.schema import MODALITIES, Modality

WEIGHTS_FILE = "head.safetensors"
CONFIG_FILE = "head.json"


class FusionHead(nn.Module, ABC):
    """Joins embeddings into one and classifies it, level by level (late fusion, in contrast, joins scores).

    Inputs are visited in sorted order of their names. A learned embedding stands for an input that a product lacks, or
    that is hidden in training. The joined embedding goes through dropout and one linear classifier for each level of
    the categories; all of them are rows of one matrix.

    A kind of head makes its own layers after this constructor, `classifier` last, and computes `join`.
    """

    kind: ClassVar[str]
    """Names the class in `head.json`."""
    ranks: ClassVar[tuple[int, ...]] = (2,)
    """Ranks that features may have: 2 is an embedding a product, 3 a sequence a product."""
    classifier: nn.Linear
    """From J to C; the levels' rows stand one after the other, root first."""

    def __init__(
        self,
        *,
        widths: Mapping[str, int],
        modalities: Mapping[str, Modality],
        classes: Sequence[int],
        dropout: float,
        modality_dropout: float,
        **own: object,
    ) -> None:
        """Check and keep what every head has.

        Args:
            widths: name of each input -> width F of its embedding.
            modalities: name of each input -> what its encoder reads.
            classes: number of classes of each level, root first.
            dropout: share of the joined embedding that is dropped in training, 0..1.
            modality_dropout: share of the products with several modalities that lose a random one of them, with all of
                its inputs, in each training step, 0..1.
            own: the other arguments of the kind's constructor, for `config`; JSON-serialisable.

        Raises:
            InputError: there is no input or no class, an input has no known modality, or a number is out of its range.
        """
        super().__init__()
        self.widths, self.classes, self.own = dict(sorted(widths.items())), tuple(classes), own
        self.modalities = dict(sorted(modalities.items()))
        self.modality_dropout = modality_dropout
        if not self.widths:
            raise InputError(f"the {self.kind} head needs at least one input, found none")
        for name, width in self.widths.items():
            if width < 1:
                raise InputError(f"input {name!r} of the {self.kind} head: found width {width}, expected 1 or more")
        if list(self.modalities) != list(self.widths):
            found, expected = list(self.modalities), list(self.widths)
            raise InputError(f"modalities of the {self.kind} head: found inputs {found}, expected {expected}")
        for name, modality in self.modalities.items():
            if modality not in MODALITIES:
                raise InputError(f"modality of input {name!r}: found {modality!r}, expected one of {list(MODALITIES)}")
        if not self.classes or min(self.classes) < 1:
            raise InputError(
                f"classes of the {self.kind} head: found {list(self.classes)}, expected 1 or more on each level"
            )
        for what, share in (("dropout", dropout), ("modality_dropout", modality_dropout)):
            if not 0 <= share <= 1:
                raise InputError(f"{what} of the {self.kind} head: found {share}, expected 0 to 1")
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits `[B, C]` of all levels, root first; in training mode inputs are hidden and dropout is on.

        Args:
            features: input -> embeddings, float `[B, F]`; what stands in a row that is not present does not matter. A
                head with rank 3 among its `ranks` also takes sequences `[B, T, F]`.
            present: input -> whether the product has it, bool `[B]`; of a sequence, which of its positions are filled,
                bool `[B, T]`.

        Raises:
            ValueError: the inputs, their shapes or types are not the head's.
        """
        logits_BC: Tensor = self.classifier(self.dropout(self.embed(features, present)))
        return logits_BC

    def embed(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Joined embedding `[B, J]`, which the classifiers read; arguments and errors as `forward`."""
        self._check(features, present)
        masks = [mask.unsqueeze(-1) for mask in self._left([present[name] for name in self.widths])]
        # A NaN in a row that is not read would still reach the gradients of the layers that it went through.
        known = [torch.where(mask, features[name], 0.0) for name, mask in zip(self.widths, masks, strict=True)]
        return self.join(known, masks)

    @abstractmethod
    def join(self, known: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        """Joined embedding, float `[B, J]`.

        Args:
            known: embeddings of each input, `[B, F]` or `[B, T, F]`, 0 where it is not present.
            present: bool of each input, `[B, 1]` or `[B, T, 1]`.
        """

    def by_level(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Logits `[..., C]` of all levels -> logits of each level, root first, as views."""
        return torch.split(logits, list(self.classes), dim=-1)

    def config(self) -> dict[str, object]:
        """Everything but the weights that decides the output; JSON-serialisable."""
        return {
            "kind": self.kind,
            "widths": self.widths,
            "modalities": self.modalities,
            "classes": list(self.classes),
            "dropout": self.dropout.p,
            "modality_dropout": self.modality_dropout,
            **self.own,
        }

    def save(self, folder: Path) -> None:
        """Write `head.safetensors` and `head.json` into the folder, which is made where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.contiguous().cpu() for name, tensor in self.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(self.config(), indent=2) + "\n")

    def _left(self, masks: list[Tensor]) -> list[Tensor]:
        """Presence of each input, `[B]` or `[B, T]`; in training, without the modalities that are hidden."""
        if not self.training or not self.modality_dropout:
            return masks
        present_BM = torch.stack([mask if mask.ndim == 1 else mask.any(dim=1) for mask in masks], dim=1)
        left_MB = hide_one(present_BM, list(self.modalities.values()), share=self.modality_dropout).unbind(dim=1)
        return [
            mask & (left_B if mask.ndim == 1 else left_B.unsqueeze(1))
            for mask, left_B in zip(masks, left_MB, strict=True)
        ]

    def _check(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
        expected = list(self.widths)
        for what, given in (("features", features), ("present", present)):
            if sorted(given) != expected:
                raise ValueError(f"{what} of the {self.kind} head: found inputs {sorted(given)}, expected {expected}")
        rows = len(features[expected[0]])
        for name, width in self.widths.items():
            value, mask = features[name], present[name]
            wanted = [rows, *value.shape[1:-1]] if value.ndim in self.ranks else [rows]
            if list(value.shape) != [*wanted, width] or list(mask.shape) != wanted or 0 in wanted[1:]:
                raise ValueError(
                    f"input {name!r}: found features {list(value.shape)} and present {list(mask.shape)}, "
                    f"expected {[*wanted, width]} and {wanted}{', of one position or more' * (len(wanted) > 1)}"
                )
            if mask.dtype != torch.bool:
                raise ValueError(f"input {name!r}: found present of type {mask.dtype}, expected torch.bool")


def hide_one(present_BM: Tensor, modalities: Sequence[Modality], *, share: float) -> Tensor:
    """Presence `[B, M]` after `share` of the products that have several modalities have lost a random one of them.

    A whole modality goes, as it does from a catalog: with one of two text encoders hidden, the other still reads.
    """
    of_KM = torch.tensor([[one == kind for one in modalities] for kind in MODALITIES], device=present_BM.device)
    has_BK = (present_BM.unsqueeze(1) & of_KM).any(dim=2)
    chosen_B = torch.rand(has_BK.shape, device=present_BM.device).masked_fill(~has_BK, -1.0).argmax(dim=1)
    hit_B = (torch.rand(len(present_BM), device=present_BM.device) < share) & (has_BK.sum(dim=1) > 1)
    return present_BM & ~(of_KM[chosen_B] & hit_B.unsqueeze(1))
