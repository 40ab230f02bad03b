"""Fusion heads: one classifier over the embeddings of several frozen encoders.

Shape letters: B products, F width of one encoder's embedding, H hidden width, M inputs, C classes.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmbatch.errors import InputError

WEIGHTS_FILE = "head.safetensors"
CONFIG_FILE = "head.json"

HIDDEN_SHARE = 0.3
"""Share of the products that lose one of their inputs in each training step: else, in a catalog where nearly every
product has every input, what stands for a missing one would stay as it was initialised."""


class ConcatenationHead(nn.Module):
    """FusionHead that joins embeddings by concatenation (late fusion, in contrast, joins scores).

    Each input, in sorted order of its name, is LayerNormed and projected to the same width, so that no encoder
    dominates by its scale or its width; a learned embedding stands for an input that a product lacks, or that is
    hidden in training; the joined vector goes through dropout and one linear layer.

    Source: "Deep Multi-level Boosted Fusion Learning Framework for Multi-modal Product Classification", SIGIR eCom'20,
    where an image vector is projected to the texts' 768 and the concatenation of 3 x 768 is mapped to the classes.
    """

    def __init__(self, *, widths: Mapping[str, int], classes: int, hidden: int, dropout: float) -> None:
        """Make an untrained head.

        Args:
            widths: name of each input -> width F of its embedding.
            classes: number of classes C.
            hidden: width H that each input is projected to.
            dropout: share of the joined vector that is dropped in training, 0..1.

        Raises:
            InputError: there is no input.
        """
        super().__init__()
        if not widths:
            raise InputError("a concatenation head needs at least one input, found none")
        self.widths = dict(sorted(widths.items()))
        self.classes, self.hidden, self.dropout_rate = classes, hidden, dropout
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.widths.values())
        self.projections = nn.ModuleList(nn.Linear(width, hidden) for width in self.widths.values())
        self.missing = nn.Parameter(torch.zeros(len(self.widths), hidden))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(len(self.widths) * hidden, classes)

    def forward(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits `[B, C]`; in training mode random inputs are hidden and part of the joined vector is dropped.

        Args:
            features: input -> embeddings, float `[B, F]`; what stands in a row that is not present does not matter.
            present: input -> whether the product has it, bool `[B]`.

        Raises:
            ValueError: the inputs or their shapes are not the head's.
        """
        self._check(features, present)
        present_BM = torch.stack([present[name] for name in self.widths], dim=1)
        if self.training:
            present_BM = _hide_one(present_BM)
        parts_BH = []
        for i, name in enumerate(self.widths):
            present_B1 = present_BM[:, i : i + 1]
            known_BF = torch.where(present_B1, features[name], 0.0)  # before the norm: a NaN would reach its gradient
            projected_BH = self.projections[i](self.norms[i](known_BF))
            parts_BH.append(torch.where(present_B1, projected_BH, self.missing[i]))
        logits_BC: Tensor = self.classifier(self.dropout(torch.cat(parts_BH, dim=1)))
        return logits_BC

    def config(self) -> dict[str, object]:
        """Everything but the weights that decides the output; JSON-serialisable."""
        return {
            "kind": "concatenation",
            "widths": self.widths,
            "classes": self.classes,
            "hidden": self.hidden,
            "dropout": self.dropout_rate,
        }

    def save(self, folder: Path) -> None:
        """Write `head.safetensors` and `head.json` into the folder, which is made where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.contiguous().cpu() for name, tensor in self.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(self.config(), indent=2) + "\n")

    def _check(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
        expected = list(self.widths)
        for what, given in (("features", features), ("present", present)):
            if sorted(given) != expected:
                raise ValueError(f"{what} of a concatenation head: found inputs {sorted(given)}, expected {expected}")
        rows = len(features[expected[0]])
        for name, width in self.widths.items():
            found = tuple(features[name].shape), tuple(present[name].shape)
            if found != ((rows, width), (rows,)):
                raise ValueError(
                    f"input {name!r}: found features {list(found[0])} and present {list(found[1])}, "
                    f"expected {[rows, width]} and {[rows]}"
                )


def load_head(folder: Path) -> ConcatenationHead:
    """The head that `save` wrote into the folder, on the CPU and in evaluation mode.

    Raises:
        InputError: a file is missing, is no head, or its weights do not fit its configuration.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        state = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"no fusion head in {folder}: {error}") from error
    kind = config.pop("kind", None)
    if kind != "concatenation":
        raise InputError(f"{folder / CONFIG_FILE}: found kind of fusion head {kind!r}, expected 'concatenation'")
    head = ConcatenationHead(**config)
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}: {error}") from error
    return head.eval()


def _hide_one(present_BM: Tensor) -> Tensor:
    """`HIDDEN_SHARE` of the products that have several inputs lose a random one of them."""
    chosen_B = torch.rand(present_BM.shape, device=present_BM.device).masked_fill(~present_BM, -1.0).argmax(dim=1)
    hit_B = torch.rand(len(present_BM), device=present_BM.device) < HIDDEN_SHARE
    lost_BM = nn.functional.one_hot(chosen_B, present_BM.shape[1]).bool() & hit_B.unsqueeze(1)
    return torch.where(present_BM.sum(dim=1, keepdim=True) > 1, present_BM & ~lost_BM, present_BM)
