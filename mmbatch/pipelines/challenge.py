"""Champion and challenger: a predictor trained on tonight's labels takes over where the golden rows prove it better."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmbatch.models import Model
from mmbatch.pipelines.retrain import Recipes, Retrained, compare, train_challenger
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """What a challenger is trained of."""

    what: Retrained
    """It, and everything above it."""
    preset: Recipes
    weights: str | None
    """Folder of pretrained weights; None: the hub."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a challenger fared."""

    winner: Model
    facts: Mapping[str, Any]
    """`champion`, `challenger`, `promoted`, `why`, and the `golden` difference."""


def try_challenger(workspace: Workspace, wanted: Retraining, *, champion: Model, smallest: int) -> Trial:
    """Train a challenger and compare both on the golden rows.

    It wins where it is better beyond noise, on `smallest` rows at least: with fewer the interval promises too much.
    """
    challenger = train_challenger(
        workspace, wanted.what, champion=champion, preset=wanted.preset, weights=wanted.weights
    )
    names = {"champion": champion.id, "challenger": challenger.id}
    if challenger.id == champion.id:
        why = "nothing that it is trained on has changed: the champion came out again"
        return Trial(winner=champion, facts=names | {"promoted": False, "why": why, "golden": None})
    found = compare(workspace, champion, challenger)
    verdict = "better beyond noise" if found.better else "not better beyond noise"
    if found.rows < smallest:
        verdict = f"too few rows to tell, expected {smallest:,}"
    promoted = found.better and found.rows >= smallest
    return Trial(
        winner=challenger if promoted else champion,
        facts=names | {"promoted": promoted, "why": f"{found.describe()}: {verdict}", "golden": asdict(found)},
    )
