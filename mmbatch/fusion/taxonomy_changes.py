"""What a version of a taxonomy changes, category by category."""

from collections import Counter
from typing import Literal, NamedTuple, get_args

from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_paths import LabelPath
from mmbatch.fusion.taxonomy_version import TaxonomyVersion

Kind = Literal["renamed", "merged", "split", "removed"]

KINDS: tuple[Kind, ...] = get_args(Kind)


class Change(NamedTuple):
    """What becomes of one category."""

    kind: Kind
    old: LabelPath
    new: tuple[LabelPath, ...]


def changes(taxonomy: Taxonomy, version: TaxonomyVersion) -> tuple[Change, ...]:
    """The categories of a taxonomy that are not what they were in a version of it, by path."""
    taken = Counter(path for paths in version.successors for path in paths)
    return tuple(
        Change(_kind(new, taken), old, new)
        for old, new in zip(taxonomy.paths, version.successors, strict=True)
        if new != (old,)
    )


def _kind(new: tuple[LabelPath, ...], taken: Counter[LabelPath]) -> Kind:
    if len(new) != 1:
        return "split" if new else "removed"
    return "merged" if taken[new[0]] > 1 else "renamed"
