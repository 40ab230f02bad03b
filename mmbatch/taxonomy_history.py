"""Taxonomy history: what operators have edited in a workspace's category tree, version by version.

`taxonomy/<version>.json` holds the edits of one version, as `read_edits` reads them; a version never changes. Models
and the catalog go on with the names that they have: edits are applied to what a model has scored, and to labels before
they are compared. Names that are edited already they leave as they are, so that nobody has to know which names a
catalog, and a predictor that was trained on it, has: old ones, new ones or both.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.errors import InputError, LostRaceError
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_edits import Edits, edits_to_json, moved, read_edits, shown
from mmbatch.fusion.taxonomy_paths import LabelPath
from mmbatch.fusion.taxonomy_version import TaxonomyVersion, common_ancestor
from mmbatch.schema import PATH_SEPARATOR
from mmbatch.storage import create_file, filesystem_of, make_folder
from mmbatch.workspace import Workspace

FOLDER = "taxonomy"


class Step(NamedTuple):
    """A tree, and what edits make of it."""

    before: Taxonomy
    after: TaxonomyVersion
    """Of `before`, as if a model had been trained on it."""


@dataclass(frozen=True)
class TaxonomyHistory:
    """The versions of a workspace's taxonomy; pickles to workers."""

    versions: tuple[Edits, ...] = ()
    """Edits of each, the first first."""

    @classmethod
    def read(cls, workspace: Workspace) -> Self:
        """What the workspace holds now; `InputError` where a version is missing or is no file of edits."""
        filesystem, root = filesystem_of(workspace.path(FOLDER))
        names = sorted(path.rpartition("/")[2] for path in filesystem.glob(f"{root}/[0-9]*.json"))
        expected = [_file(number) for number in range(1, len(names) + 1)]
        if names != expected:
            raise InputError(f"{workspace.path(FOLDER)}: found versions {names}, expected {expected}")
        return cls(tuple(read_edits(workspace.path(FOLDER, name)) for name in names))

    def add(self, workspace: Workspace, edits: Edits) -> Self:
        """Write the next version; `LostRaceError` where another run has written it meanwhile.

        A process that is killed here has written the whole version, or none.
        """
        uri = workspace.path(FOLDER, _file(len(self.versions) + 1))
        make_folder(workspace.path(FOLDER))
        if workspace.epoch:
            workspace.epoch.check()
        try:
            create_file(uri, edits_to_json(edits).encode())
        except FileExistsError:
            raise LostRaceError(f"{uri}: another run has written this version just now") from None
        return type(self)((*self.versions, edits))

    @cached_property
    def name(self) -> str:
        """Of the newest version, `taxonomy-000002@fingerprint`, of all edits up to it; empty before any edit."""
        fingerprint = hashlib.sha256("".join(map(edits_to_json, self.versions)).encode()).hexdigest()
        return f"taxonomy-{len(self.versions):06d}@{fingerprint[:12]}" if self.versions else ""

    def identity(self, predictor: str) -> str:
        """What decides: a predictor's `name@fingerprint`, and the version that it decides in, if there is one."""
        return f"{predictor}+{self.name}" if self.versions else predictor

    def moved(self, path: LabelPath) -> tuple[LabelPath, ...]:
        """What a path is now, sorted: none where it was removed, several where it was split."""
        paths = {path}
        for edits in self.versions:
            paths = {new for old in paths for new in moved(old, edits)}
        return tuple(sorted(paths))

    def version_of(self, taxonomy: Taxonomy) -> TaxonomyVersion:
        """The newest version of a model's taxonomy, whichever of the edited names it has.

        `InputError` where none of its categories is left.
        """
        version = TaxonomyVersion(tuple(map(self.moved, taxonomy.paths)))
        if not any(version.successors):
            raise InputError(f"{self.name}: every category of the model is removed, expected at least one to be left")
        return version

    def current(self, categories: Iterable[str]) -> dict[str, str | None]:
        """Category -> what it is called now; None where it was removed or split.

        A category that has only got new ones below it is still called what it was.
        """
        return {category: self._current(category) for category in categories}

    def current_names(self, categories: pa.ChunkedArray) -> pa.ChunkedArray:
        """`current` of each category of a column; null stays null."""
        names = pc.unique(categories).drop_null()
        now = self.current(names.to_pylist())
        place = pc.index_in(categories, value_set=names, skip_nulls=True)
        return pa.chunked_array([pa.array([now[name] for name in names.to_pylist()], pa.string())]).take(place)

    def _current(self, category: str) -> str | None:
        path = tuple(category.split(PATH_SEPARATOR))
        now = self.moved(path)
        if len(now) == 1:
            return shown(now[0])
        return category if path in now else None

    def step(self, edits: Edits, *, base: Collection[LabelPath], levels: int) -> Step:
        """What edits would make of the present tree.

        Args:
            edits: of the next version.
            base: category paths that models and labels have, at least one.
            levels: most names of a path in this workspace.

        Raises:
            InputError: the edits cannot be applied (`check_edits`), change nothing, or are of a path that an earlier
                version took away; a new path is too deep, or is one that these or earlier edits take away.
        """
        before = Taxonomy(tuple({now for path in base for now in self.moved(path)}))
        self._refuse_gone(edits, before)
        after = TaxonomyVersion.of(before).edited(edits)
        if after.successors == TaxonomyVersion.of(before).successors:
            raise InputError("taxonomy edits: no category changes, expected at least one edit that changes one")
        for path in after.taxonomy.paths:
            if len(path) > levels:
                raise InputError(
                    f"taxonomy edits: path {shown(path)!r} has {len(path)} levels, this workspace has at most {levels}"
                )
        type(self)((*self.versions, edits))._refuse_ambiguous(after)
        return Step(before, after)

    def _refuse_gone(self, edits: Edits, tree: Taxonomy) -> None:
        nodes = {node for level in tree.nodes for node in level}
        for old in edits:
            now = self.moved(old)
            if old not in nodes and now != (old,):
                since = next(n for n, version in enumerate(self.versions, 1) if moved(old, version) != (old,))
                what = "it is " + " and ".join(repr(shown(path)) for path in now) if now else "it was removed"
                raise InputError(f"taxonomy edits: old path {shown(old)!r} is gone since version {since}: {what}")

    def _refuse_ambiguous(self, version: TaxonomyVersion) -> None:
        """Every path of the new tree must be decided as itself, whichever names a later model is trained on."""
        for path in (*version.taxonomy.paths, *version.decisions):
            now = self.moved(path)
            if not now or common_ancestor(now) != path:
                raise InputError(
                    f"taxonomy edits: new path {shown(path)!r} is also an old one, of this version or an earlier one, "
                    "so that a label could mean either; expected a name that no edit takes away"
                )


def _file(number: int) -> str:
    return f"{number:06d}.json"
