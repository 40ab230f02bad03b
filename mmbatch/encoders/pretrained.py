"""Where pretrained weights come from: a named folder first, else the model's hub; never random weights instead."""

import os
from pathlib import Path

from mmbatch.errors import InputError

WEIGHTS_VARIABLE = "MMBATCH_WEIGHTS"


def find_weights(model: str, weights: str | None) -> Path | None:
    """The folder that holds `model` (its hub name, as `org/name`), or null when it is to come from the hub.

    Looks for `<weights>/<name with / as -->/`, where `weights` defaults to the environment variable `MMBATCH_WEIGHTS`.
    Raises `InputError` when a folder was named and the model is not in it.
    """
    named = weights or os.environ.get(WEIGHTS_VARIABLE)
    if not named:
        return None
    root, wanted = Path(named), model.replace("/", "--")
    if (root / wanted).is_dir():
        return root / wanted
    if not root.is_dir():
        raise InputError(f"--weights {named}: no such folder (looked there for the weights of {model})")
    held = ", ".join(sorted(entry.name for entry in root.iterdir() if entry.is_dir())) or "no folder"
    raise InputError(f"--weights {named}: weights of {model} not found: expected folder {wanted}, found {held}")


def unreachable(model: str, error: Exception) -> InputError:
    """What to raise when the hub has failed: one line for a person, whatever the hub's client said."""
    cause = " ".join(str(error).split())
    return InputError(
        f"weights of {model} are neither in --weights (or {WEIGHTS_VARIABLE}) nor reachable on the hub: {cause}"
    )
