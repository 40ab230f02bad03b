"""What the jobs that read raw files share: their flags, and the workspace and columns these mean."""

from dataclasses import dataclass, fields
from typing import NamedTuple

from jobs._cli import Job
from mmbatch.errors import InputError
from mmbatch.image_access import ImageAccess
from mmbatch.presets import Preset, preset_named
from mmbatch.presets.rakuten import RAKUTEN2020
from mmbatch.source_rakuten import combine
from mmbatch.source_rakuten_files import find_challenge
from mmbatch.sources import Columns, check_kind, list_files, plan_units, source_folder
from mmbatch.storage import filesystem_of
from mmbatch.workspace import Settings, Workspace, buckets_for, normalise_uri

BYTES_PER_ROW = 500
"""Of a text file: title, a short description, a label."""


@dataclass(frozen=True, kw_only=True)
class RawJob(Job):
    """Flags of the jobs that read raw files into a workspace."""

    source: str | None = None
    """CSV, TSV, Parquet, JSON Lines or HDF5: a file, a folder or a glob, local or remote (s3://, gs://). With preset
    rakuten2020 also the folder of that challenge, as it is handed out."""
    columns: tuple[str, ...] = ()
    """Columns of the source as role=column, such as id=sku title=name description=text image=photo label=top,leaf,
    and label_separator=" > " where one column holds the whole path; image_vector=COLUMN in place of image where the
    source holds vectors of its images, as lists of numbers; operation=COLUMN where the source is a feed of changes,
    whose rows say insert, update or delete. Default: the preset's."""
    images_from: tuple[str, ...] = ()
    """Where images may be read from: folders, s3://bucket/prefix, https://host[/prefix]. Default: the source's own
    folder, which always is one of them."""
    allow_removals: bool = False
    """Remove products even where they are more than half of the catalog, or the snapshot has no usable row."""
    allow_older: bool = False
    """Ingest a snapshot or feed even if it was last modified before the last one that was ingested."""


@dataclass(frozen=True, kw_only=True)
class SourceJob(RawJob):
    """Flags of those that may make the workspace too."""

    preset: str | None = None
    """Named configuration (sample, flipkart, flipkart-small, kakao, rakuten2020); default: the workspace's own,
    or sample for a new one."""
    level: int | None = None
    """Depth of the category path to learn, 1 is the root's children; fixed with the workspace. Default: the preset's"""
    top_classes: int | None = None
    """Learn so many of the most frequent classes only, 0: all; counted at the first ingest with labels and fixed with
    the workspace. Products of other classes are predicted like those without a label. Default: the preset's."""
    seed: int | None = None
    """Seed of splits and training; fixed with the workspace. Default 0."""
    snapshot: bool = False
    """The source names the whole catalog: products that it does not name are removed."""


class Source(NamedTuple):
    """A source whose files, columns and headers have been checked."""

    uri: str
    columns: Columns
    files: int
    rows: int
    """Exact for Parquet files, estimated from their size for others."""
    images_from: ImageAccess


def check_source(flags: RawJob, uri: str, *, preset: str | None = None, snapshot: bool | None = None) -> Source:
    """List the source's files and check their headers, before any workspace is made.

    `preset` is the one that a new workspace is to have; `snapshot`: whether the source names the whole catalog, None:
    it does unless it is a feed.

    Of the Rakuten challenge's folder, the source is the one file that `combine` makes of it in the workspace's folder.
    """
    existing = Workspace.open(flags.workspace).settings.preset if Workspace.exists(flags.workspace) else None
    known = preset_named(preset or existing or "sample")
    columns, access = columns_of(flags, known), ImageAccess.of(flags.images_from)
    if known is RAKUTEN2020 and not flags.columns and (challenge := find_challenge(uri)):
        access = access.beside(challenge.folder)
        uri = combine(challenge, f"{normalise_uri(flags.workspace)}/source")
    check_kind(columns, snapshot=columns.operation is None if snapshot is None else snapshot)
    files = list_files(uri)
    units = plan_units(files, columns)
    rows = sum(_size(unit.file) // BYTES_PER_ROW + 1 if unit.rows is None else unit.rows for unit in units)
    return Source(uri, columns, len(files), rows, access.beside(source_folder(uri, files)))


def open_or_create(flags: SourceJob, source: Source) -> tuple[Workspace, Preset]:
    """The workspace that the flags name, made if it is not there, and its preset.

    `InputError` when it was made with other settings than the flags ask for.
    """
    if Workspace.exists(flags.workspace):
        workspace = Workspace.open(flags.workspace)
        found = workspace.settings
        workspace.require(
            preset=flags.preset or found.preset,
            level=found.level if flags.level is None else flags.level,
            seed=found.seed if flags.seed is None else flags.seed,
            top_classes=found.top_classes if flags.top_classes is None else flags.top_classes,
        )
        return workspace, preset_named(found.preset)
    preset = preset_named(flags.preset or "sample")
    settings = Settings(
        preset=preset.name,
        level=_at_least(1, "--level", preset.level if flags.level is None else flags.level),
        seed=_at_least(0, "--seed", flags.seed or 0),
        buckets=buckets_for(source.rows),
        top_classes=_at_least(
            0, "--top-classes", preset.top_classes if flags.top_classes is None else flags.top_classes
        ),
    )
    return Workspace.create(flags.workspace, settings), preset


def columns_of(flags: RawJob, preset: Preset) -> Columns:
    """The columns that `--columns` names, or the preset's; `InputError` names a role that does not exist."""
    if not flags.columns:
        return preset.columns
    roles = [field.name for field in fields(Columns)]
    named: dict[str, str] = {}
    for pair in flags.columns:
        role, _, column = pair.partition("=")
        if role not in roles or not column:
            raise InputError(f"--columns {pair}: expected role=column with a role of {', '.join(roles)}")
        named[role] = column
    if "id" not in named:
        raise InputError(f"--columns {' '.join(flags.columns)}: id=COLUMN is missing")
    label = tuple(part.strip() for part in named.pop("label", "").split(",") if part.strip())
    return Columns(**named, label=label)


def _at_least(lowest: int, flag: str, value: int) -> int:
    if value < lowest:
        raise InputError(f"{flag} {value}: expected {lowest} or more")
    return value


def _size(uri: str) -> int:
    filesystem, path = filesystem_of(uri)
    return int(filesystem.size(path))
