"""How category paths are learned: by a classifier for each level of the tree, or by one for whole paths.

Shape letters: B products, P category paths, L levels, C logits of a product (of all levels side by side).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy import Scores, Taxonomy
from mmbatch.fusion.taxonomy_paths import Ints


@dataclass(frozen=True)
class Levels:
    """The targets of a network over the category paths of a taxonomy.

    With weights, every level has a classifier of its own, and the best path is that with the highest mean
    log-probability (`Taxonomy.decode`). Without, the paths are classes like any others, and the most probable one wins.
    """

    taxonomy: Taxonomy
    weights: tuple[float, ...] = ()
    """Of each level in the loss, root first; none: one classifier for whole paths."""

    @classmethod
    def of(cls, taxonomy: Taxonomy, weights: Sequence[float]) -> "Levels":
        """For training; weights of levels that no category has are left out.

        Raises:
            InputError: there are weights, but fewer than levels, or one is not above 0.
        """
        depth = len(taxonomy.levels)
        if weights and (len(weights) < depth or min(weights) <= 0):
            raise InputError(f"level_weights {list(weights)}: expected {depth} numbers above 0, one for each level")
        return cls(taxonomy, tuple(weights[:depth]))

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """Classes of each classifier; C in all."""
        return self.taxonomy.levels if self.weights else (len(self.taxonomy.paths),)

    @cached_property
    def codes(self) -> Ints:
        """Class of each path in each classifier, int64 `[P, L]`; -1 where the path has no such level."""
        return self.taxonomy.path_codes if self.weights else np.arange(len(self.taxonomy.paths))[:, None]

    def split(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Logits `[B, C]` -> those of each classifier, as views."""
        return torch.split(logits, list(self.classes), dim=-1)

    def losses(self, logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Loss of each product, float `[B]`: the weighted sum of the cross-entropies of the levels that it has.

        Source: jihoon99's "Multi-Modal Cross Attention Network for e-Commerce Product Categorization", `trainer.py`:
        main + 1.2 middle + 1.3 small + 1.4 sub, a level of -1 ignored. There each level's mean is over the products
        that have it, here over all of a batch, so that a step is the same however its products are shared out.

        Args:
            logits: `[B, C]`.
            targets: index of each product's path, int64 `[B]`, or shares of the paths, float `[B, P]`.
            label_smoothing: probability mass spread over the other classes of a level.
        """
        codes_PL = torch.from_numpy(self.codes).to(logits.device)
        levels = zip(self.split(logits), codes_PL.unbind(dim=1), self.weights or (1.0,), strict=True)
        losses = [
            weight * _level_loss(logits_BK, targets, codes_P, label_smoothing) for logits_BK, codes_P, weight in levels
        ]
        return torch.stack(losses).sum(dim=0)

    def path_log_probs(self, logits: Tensor) -> Scores:
        """Log-probabilities of the category paths, float32 `[B, P]`, of logits `[B, C]`."""
        log_probs = [level.float().log_softmax(dim=1).cpu().numpy() for level in self.split(logits)]
        return self.taxonomy.path_log_probs(log_probs) if self.weights else np.asarray(log_probs[0])

    def best(self, logits: Tensor) -> Ints:
        """Index of the best path of each product, int64 `[B]`, of logits `[B, C]`."""
        if not self.weights:
            return np.asarray(logits.argmax(dim=1).cpu().numpy(), np.int64)
        return self.taxonomy.decode([level.float().log_softmax(dim=1).cpu().numpy() for level in self.split(logits)])[0]


def _level_loss(logits_BK: Tensor, targets: Tensor, codes_P: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of one level, `[B]`; of a product only a share of whose paths have the level, that share of it."""
    if not targets.is_floating_point():
        return cross_entropy(
            logits_BK, codes_P[targets], reduction="none", ignore_index=-1, label_smoothing=label_smoothing
        )
    has_P = codes_P >= 0
    shares_BK = torch.zeros_like(logits_BK).index_add_(1, codes_P[has_P], targets[:, has_P].to(logits_BK.dtype))
    mass_B = shares_BK.sum(dim=1)
    whole_BK = shares_BK / mass_B.clamp_min(torch.finfo(mass_B.dtype).tiny).unsqueeze(1)
    return mass_B * cross_entropy(logits_BK, whole_BK, reduction="none", label_smoothing=label_smoothing)
