"""What a run of training needs to go on where it was, to the bit.

The random numbers of a step come from the seed, the epoch, the step and the rank, and the rows of a step from the plan:
position in the data and random state are therefore two numbers, the epoch and the step.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

from mmbatch.errors import InputError
from mmbatch.pipelines.classifier import Classifier

STATE = "training_state.pt"
"""In a checkpoint, and no part of the model."""


@dataclass
class Progress:
    """How far a run is."""

    recipe: str
    """Digest of what is trained on what."""
    epoch: int = 0
    step: int = 0
    """Within the epoch: the next one."""
    loss: float = 0.0
    """Sum over the epoch's steps so far, of this worker's share."""
    unusable: int = 0
    """Rows of the epoch so far that could not be prepared."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry per finished epoch."""

    @property
    def best(self) -> dict[str, float] | None:
        """The finished epoch with the best macro-F1, the earliest of equals; None before the first."""
        return max(self.history, key=lambda entry: (entry["macro_f1"], -entry["epoch"]), default=None)

    def stalled(self, patience: int | None) -> bool:
        """Whether that many epochs have passed since the best one."""
        return patience is not None and self.best is not None and self.epoch - 1 - self.best["epoch"] >= patience


@dataclass(frozen=True)
class Trained:
    """Everything that training changes."""

    module: Classifier
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR

    def save(self, folder: Path, progress: Progress) -> None:
        """Write the state of this moment into `folder`."""
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": asdict(progress),
        }
        torch.save(state, folder / STATE)

    def load(self, folder: Path, *, recipe: str) -> Progress:
        """Go back to a saved state; `InputError` when it is of another run."""
        state: dict[str, Any] = torch.load(folder / STATE, weights_only=True, map_location="cpu")
        progress = Progress(**state["progress"])
        if progress.recipe != recipe:
            raise InputError(
                f"{folder}: a checkpoint of another run (of recipe {progress.recipe[:12]}, expected {recipe[:12]})"
            )
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        return progress


def seed_step(seed: int, *, epoch: int, step: int, rank: int) -> None:
    """Draw torch's random numbers of a step (dropout, mixing) from where it is, not from what came before."""
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1)[0]))
