"""How deep each parameter of an encoder lies: what layer-wise decay of the learning rate counts by.

(Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT.)
"""

import re
from collections.abc import Sequence
from typing import Any, cast

from mmbatch.encoders.base import Encoder

_BACKBONE = "backbone."
_NUMBER = re.compile(r"\.(\d+)\.")


def depths(encoder: Encoder) -> dict[str, int]:
    """Depth of each trainable parameter, by its name in `named_parameters`: 0 for stem or embeddings, then by block.

    The blocks are timm's (`group_matcher`) or a transformer's numbered layers; what follows the last block, within
    the backbone or above it, is at least as deep as that. All are 0 in an encoder whose backbone has no such blocks.
    Frozen layers count: training only the upper ones does not change their depth.
    """
    names = [name for name, _ in encoder.named_parameters()]
    found = _depths_of(getattr(encoder, "backbone", None), [name for name in names if name.startswith(_BACKBONE)])
    deepest = max(found.values(), default=0)
    trainable = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    return {name: found.get(name, deepest) for name in trainable}


def _depths_of(backbone: Any, names: Sequence[str]) -> dict[str, int]:
    if hasattr(backbone, "group_matcher"):
        return _by_groups(backbone)
    if hasattr(backbone, "get_input_embeddings"):
        return _by_numbers(names)
    return {}


def _by_groups(backbone: Any) -> dict[str, int]:
    """timm's own order of a network's parameters, as its optimisers decay their rates by it."""
    from timm.models import group_parameters

    groups = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    return {f"{_BACKBONE}{name}": depth for name, depth in cast("dict[str, int]", groups).items()}


def _by_numbers(names: Sequence[str]) -> dict[str, int]:
    """A transformer's parameters by the first number in their names, `encoder.layer.3.` or `attentions.3.`, plus 1.

    Without a number: 0 if they come before the first block or are embeddings by name, else as deep as the last block.
    """
    blocks = {name: int(match[1]) + 1 for name in names if (match := _NUMBER.search(name))}
    deepest = max(blocks.values(), default=0)
    first = next((place for place, name in enumerate(names) if name in blocks), len(names))
    rest = {name: 0 if place < first or "emb" in name else deepest for place, name in enumerate(names)}
    return rest | blocks
