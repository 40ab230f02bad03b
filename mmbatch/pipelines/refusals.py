"""What an ingest does not do unless it is told to: remove most of a catalog, or go back to an older state of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from mmbatch.errors import InputError, RefusedToPublishError
from mmbatch.runs import finished_runs
from mmbatch.workspace import Workspace

MOST_REMOVED = 0.5
"""Share of the catalog that a source may remove: one that removes more in one night is far more often cut short than
right, and what is refused can be ingested in another way, while what is removed has to be found again."""

SMALL_CATALOG = 100
"""Products below which a source may remove any share, unless it names none at all: trials and tests, where half of it
is a handful."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What a source would do to the products of a catalog."""

    products: int
    """In the catalog now."""
    counts: Mapping[str, int]
    """`new`, `edited`, `unchanged` and `removed` products."""
    snapshot: bool
    """Products are removed because the source does not name them; else because it says so."""
    new_id: str | None
    """The first new product, if there is one."""
    removed_id: str | None
    """The first removed one."""


def refuse_removal(found: Removal) -> None:
    """Raise `RefusedToPublishError` when more than `MOST_REMOVED` of a catalog that is not small would be removed.

    Also when a snapshot has no usable row at all: a failed export looks like that, an empty shop hardly ever.
    """
    removed, known = found.counts["removed"], found.counts["edited"] + found.counts["unchanged"]
    named = known + found.counts["new"]
    empty = found.snapshot and not named and removed > 0
    if not empty and (found.products < SMALL_CATALOG or removed <= MOST_REMOVED * found.products):
        return
    what = "--snapshot" if found.snapshot else "the source's deletes"
    share = "" if empty else f", more than {MOST_REMOVED:.0%}"
    raise RefusedToPublishError(
        f"{what} would remove {removed:,} of {found.products:,} products{share}: {_why(found, named, known)};"
        " deliver the source again, or remove them with --allow-removals"
    )


def _why(found: Removal, named: int, known: int) -> str:
    """What tells a source that was cut from one whose ids are written in another way."""
    if not found.snapshot:
        return f"the first one is {found.removed_id!r}"
    if not named:
        return "no row of the source can be used"
    knows = f"of the {named:,} ids in the source the catalog knows {known:,}"
    if found.new_id is None:
        return f"{knows}, so it looks cut short; it lacks {found.removed_id!r}, for one"
    return f"{knows}; are ids written in another way? The catalog has {found.removed_id!r}, the source {found.new_id!r}"


def refuse_older(workspace: Workspace, source: str, modified: datetime | None) -> None:
    """Raise `InputError` when a snapshot or feed was modified before the last one of the workspace was.

    Args:
        workspace: Whose ledger is asked.
        source: For the message.
        modified: When the newest file of the source was; None, not known: nothing is refused.
    """
    before = _last_modified(workspace)
    if modified is not None and before is not None and modified < before:
        raise InputError(
            f"{source}: last modified {modified:%Y-%m-%d %H:%M:%S} UTC, older than the last one that was ingested,"
            f" {before:%Y-%m-%d %H:%M:%S} UTC; expected a newer one, or --allow-older"
        )


def _last_modified(workspace: Workspace) -> datetime | None:
    """Modification time of the last snapshot or feed; None: there was none, or its file system did not say."""
    for run in finished_runs(workspace, "ingest"):
        settings = run["settings"]
        if settings["snapshot"] or settings["columns"].get("operation"):
            found = run["counts"].get("modified")
            return datetime.fromisoformat(found) if found else None
    return None
