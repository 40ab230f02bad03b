"""What the training jobs share: fields of a recipe set anew by flags, and the kinds of head."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_args

import tyro

from mmbatch.errors import InputError
from mmbatch.training import Augmentation, HeadKind, HeadRecipe, LateFusionRecipe, Lora, Training

RecipeT = TypeVar("RecipeT", bound=Training | HeadRecipe | LateFusionRecipe)

_PARTS: Mapping[str, Callable[[], Any]] = {"augmentation": Augmentation, "lora": Lora}


def changed(recipe: RecipeT, fields: Sequence[str]) -> RecipeT:
    """The recipe with some of its fields set anew; the process ends with a usage line where one is unknown.

    A field of `augmentation` or `lora` switches that part on, and the part's name with `None` off.
    """
    flags: list[str] = []
    for pair in fields:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--training {pair}: expected field=value")
        part = name.partition(".")[0]
        if name in _PARTS and value == "None":
            recipe = replace(recipe, **dict[str, Any]({name: None}))
            continue
        if name != part and part in _PARTS and getattr(recipe, part, ...) is None:
            recipe = replace(recipe, **{part: _PARTS[part]()})
        flags += [f"--{name.replace('_', '-')}", *filter(None, value.split(","))]
    if flags:
        plain = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
        recipe = tyro.cli(type(recipe), args=flags, default=recipe, prog="--training", config=plain)
    return recipe


def kinds_of(flag: str | None) -> tuple[HeadKind, ...]:
    """Kinds of head that `--heads` names, divided by commas; none where it is not given."""
    if flag is None:
        return ()
    named, known = {kind.strip() for kind in flag.split(",")}, get_args(HeadKind)
    if unknown := sorted(named - set(known)):
        raise InputError(f"--heads {flag}: found {', '.join(map(repr, unknown))}, expected some of {', '.join(known)}")
    return tuple(kind for kind in known if kind in named)


def workers_of(flag: str | None) -> tuple[int, int] | None:
    """Fewest and most training processes that `--workers` names."""
    if flag is None:
        return None
    least, _, most = flag.partition(":")
    if not (least.isdecimal() and (most or least).isdecimal() and 1 <= int(least) <= int(most or least)):
        raise InputError(f"--workers {flag}: expected a number from 1 up, or FEWEST:MOST")
    return int(least), int(most or least)
