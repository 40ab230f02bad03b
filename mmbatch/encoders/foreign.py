"""Weights that other code has saved: a state dict is loaded into an encoder, and what did not fit is said exactly.

Such files name their tensors after the model that was trained: in front of the encoder's own names stand those of
wrappers ("module.", "state_dict.") and of attributes ("bert.", "model.encoder."), and classifiers are left over. One
prefix of the file is therefore matched with the whole encoder or with its backbone: the one under which most tensors
have the right name and shape.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mmbatch.encoders.base import Encoder
from mmbatch.encoders.state_dict import read_state_dict
from mmbatch.errors import InputError

MOST_KEYS = 20
"""Names that a message lists of one kind; of more it says how many."""

BACKBONE = "backbone."
"""What the names of an encoder's pretrained part begin with; an encoder without one is taken as a whole."""

_OPTIONAL = {"pooler", "num_batches_tracked", "position_ids"}  # parts of names that no vector, or any value, depends on
_Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Which tensors of a file went into an encoder; names are sorted."""

    file: str
    prefix: str
    """What stands before the encoder's names in the file; a wrapper's key counts as a part of the name."""
    loaded: tuple[str, ...]
    """Encoder's names."""
    missing: tuple[str, ...]
    """Encoder's names that the file does not have: these tensors stay as they were."""
    unexpected: tuple[str, ...]
    """The file's names that the encoder does not have: not used."""
    wrong_shape: Mapping[str, tuple[_Shape, _Shape]]
    """Encoder's names, with the shapes found and expected: these tensors stay as they were."""

    def describe(self) -> str:
        """One paragraph for a person."""
        under = f" under {self.prefix!r}" if self.prefix else ""
        shapes = [f"{name} {found} instead of {expected}" for name, (found, expected) in self.wrong_shape.items()]
        parts = [
            f"{self.file}: {len(self.loaded):,} tensors fit{under}",
            *_listed("missing", self.missing),
            *_listed("of another shape", shapes),
            *_listed("unused of the file", self.unexpected),
        ]
        return "; ".join(parts)


class _Mapping(NamedTuple):
    """One way to read a file's names: those with `found` before them are the encoder's with `own` before them."""

    found: str
    own: str


def load_foreign(encoder: Encoder, file: str | Path) -> Fit:
    """Load a state dict that other code has saved into an encoder, as far as names and shapes fit.

    `.safetensors`, or `.pth`, `.pt`, `.bin` as `torch.save` writes them, of which nothing but tensors and plain
    containers is ever read; local or in an object store. Tensors may be of any precision and device: the encoder keeps
    its own. All of its backbone has to fit, but for pooler, `num_batches_tracked` and `position_ids`; elsewhere, what
    does not fit keeps its values.

    Raises:
        InputError: The file cannot be read or is none of these, no part or more than one part of it fits best, or the
            backbone did not fit; the encoder is as before.
    """
    uri = str(file)
    tensors = read_state_dict(uri)
    own = {name: value for name, value in encoder.state_dict().items() if isinstance(value, Tensor)}
    mapping, *rivals = _best(uri, tensors, own)
    fit = _fit(uri, mapping, tensors, own)
    _require_backbone(encoder, fit, own)
    if rivals:
        prefixes = ", ".join(repr(one.found) for one in (mapping, *rivals))
        raise InputError(f"{uri}: the encoder fits equally well under {prefixes}; expected a file with one of them")
    encoder.load_state_dict({name: tensors[_named(name, mapping)] for name in fit.loaded}, strict=False)
    return fit


def _best(uri: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[_Mapping]:
    """The mapping under which most tensors fit, shortest prefix first, then others as good that give other values."""
    uses: dict[_Mapping, dict[str, str]] = defaultdict(dict)  # encoder's name -> the file's
    ends: dict[str, list[str]] = defaultdict(list)  # name within the whole encoder or its backbone -> what precedes it
    for name in own:
        ends[name].append("")
        if name.startswith(BACKBONE):
            ends[name.removeprefix(BACKBONE)].append(BACKBONE)
    for name, tensor in tensors.items():
        for prefix, end in _splits(name):
            for start in ends.get(end, ()):
                if _same_shape(tensor, own[start + end]):
                    uses[_Mapping(prefix, start)][start + end] = name
    if not uses:
        raise InputError(f"{uri}: no tensor fits this encoder; {_examples(tensors, own)}")
    most = max(map(len, uses.values()))
    best, *others = sorted((one for one in uses if len(uses[one]) == most), key=lambda one: (len(one.found), one))
    return [best, *(one for one in others if not _same_values(uses[one], uses[best], tensors))]


def _same_values(one: Mapping[str, str], other: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bool:
    """Whether two choices of the file's tensors come to the same: a module that has two names is saved under both."""
    pairs = [(tensors[one[key]], tensors[other[key]]) for key in one.keys() & other.keys()]
    return len(pairs) == len(one) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Every way to cut a name in front of one of its parts."""
    yield "", name
    at = name.find(".")
    while at >= 0:
        yield name[: at + 1], name[at + 1 :]
        at = name.find(".", at + 1)


def _named(name: str, mapping: _Mapping) -> str:
    """The file's name of one of the encoder's tensors, whether it is there or not.

    What lies beside the encoder's backbone is looked for beside the file's: "head.weight" for "bert.layer.weight".
    """
    if name.startswith(mapping.own):
        return mapping.found + name.removeprefix(mapping.own)
    parent, dot, _ = mapping.found.removesuffix(".").rpartition(".")
    return parent + dot + name


def _fit(uri: str, mapping: _Mapping, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Fit:
    places = {name: _named(name, mapping) for name in sorted(own)}
    there = {
        name: place for name, place in places.items() if place in tensors and _same_kind(tensors[place], own[name])
    }
    wrong = {
        name: (tuple(tensors[place].shape), tuple(own[name].shape))
        for name, place in there.items()
        if not _same_shape(tensors[place], own[name])
    }
    return Fit(
        file=uri,
        prefix=mapping.found,
        loaded=tuple(name for name in there if name not in wrong),
        missing=tuple(sorted(own.keys() - there.keys())),
        unexpected=tuple(sorted(tensors.keys() - set(there.values()))),
        wrong_shape=wrong,
    )


def _require_backbone(encoder: Encoder, fit: Fit, own: Mapping[str, Tensor]) -> None:
    """Raise `InputError` where a part of the backbone did not fit that its vectors depend on."""
    part = BACKBONE if any(name.startswith(BACKBONE) for name in own) else ""
    needed = {name for name in own if name.startswith(part) and not _OPTIONAL & set(name.split("."))}
    if needed - set(fit.loaded):
        lacking = replace(
            fit,
            missing=tuple(name for name in fit.missing if name in needed),
            wrong_shape={name: shapes for name, shapes in fit.wrong_shape.items() if name in needed},
        )
        raise InputError(f"not the weights of this {encoder.kind} encoder, nothing was loaded: {lacking.describe()}")


def _same_kind(tensor: Tensor, expected: Tensor) -> bool:
    return tensor.is_floating_point() == expected.is_floating_point()


def _same_shape(tensor: Tensor, expected: Tensor) -> bool:
    return _same_kind(tensor, expected) and tensor.shape == expected.shape


def _listed(what: str, names: Sequence[str]) -> list[str]:
    """`what: names`, of which many are cut short; nothing where there are none."""
    if not names:
        return []
    more = f" and {len(names) - MOST_KEYS:,} more" if len(names) > MOST_KEYS else ""
    return [f"{len(names):,} {what}: {' '.join(', '.join(names[:MOST_KEYS]).split())}{more}"]


def _examples(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    found, expected = (
        ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in list(named.items())[:3])
        for named in (tensors, own)
    )
    return f"found {len(tensors):,} like {found}; expected {len(own):,} like {expected}"
