"""The classes that a workspace learns where these are the most frequent ones only: counted once, and fixed then.

`classes.json` of the workspace holds them, by the names that the catalog had. A product of another class is in the
catalog like one without a label: it is predicted, and neither trained on nor scored.
"""

import json
from collections.abc import Collection, Mapping

from mmbatch.errors import LostRaceError
from mmbatch.schema import PATH_SEPARATOR
from mmbatch.storage import create_file, filesystem_of
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

FILE = "classes.json"


def most_frequent(products: Mapping[str, int], most: int) -> list[str]:
    """The `most` classes with most products, those with as many by name; sorted by name."""
    return sorted(sorted(products, key=lambda name: (-products[name], name))[:most])


def fix_classes(workspace: Workspace, classes: Collection[str]) -> None:
    """Write which classes are learned, once and for all; `LostRaceError` when another run has done so meanwhile."""
    if workspace.epoch:
        workspace.epoch.check()
    try:
        create_file(workspace.path(FILE), json.dumps({"classes": sorted(classes)}, ensure_ascii=False).encode())
    except FileExistsError:
        raise LostRaceError(f"{workspace.path(FILE)}: another run has written it just now") from None


def fixed_classes(workspace: Workspace) -> frozenset[str] | None:
    """The classes that are learned; None: all, or none has been counted yet."""
    if not workspace.settings.top_classes:
        return None
    filesystem, path = filesystem_of(workspace.path(FILE))
    try:
        return frozenset(json.loads(filesystem.cat_file(path))["classes"])
    except FileNotFoundError:
        return None


def among(names: Collection[str], classes: frozenset[str], history: TaxonomyHistory) -> list[str]:
    """The names that are one of the classes, or what an edit of the taxonomy has made of one, sorted."""
    now = {path for name in classes for path in history.moved(_path(name))}
    return sorted(name for name in names if name in classes or now.intersection(history.moved(_path(name))))


def _path(name: str) -> tuple[str, ...]:
    return tuple(name.split(PATH_SEPARATOR))
