"""What runs that are over have left beside the tables."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from mmbatch.storage import filesystem_of
from mmbatch.workspace import Workspace


def old_folders(workspace: Workspace, keep: timedelta) -> Iterator[str]:
    """`tmp/<run>` and `staged/<run>` in which nothing has been written for `keep`."""
    filesystem, root = filesystem_of(workspace.uri)
    before = datetime.now(UTC) - keep
    for folder in sorted(path for kind in ("tmp", "staged") for path in filesystem.glob(f"{root}/{kind}/*")):
        files = filesystem.find(folder, detail=True).values() or [filesystem.info(folder)]
        if max(map(_modified, files)) < before:
            yield folder[len(root) + 1 :]


def _modified(info: dict[str, Any]) -> datetime:
    """When a file was written, as object stores, local disks and memory say it."""
    found = info.get("LastModified") or info.get("created")
    return found if isinstance(found, datetime) else datetime.fromtimestamp(info["mtime"], UTC)
