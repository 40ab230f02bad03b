"""mmbatch: keeps the category of every product in a catalog right."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmbatch.notebook import Notebook

__all__ = ["open"]


def open(uri: str) -> "Notebook":
    """Open a workspace, a folder or `s3://bucket/prefix`: to read what is published, and to predict a few products."""
    from mmbatch.notebook import Notebook  # this package is imported by everything, and nothing else is by it
    from mmbatch.workspace import Workspace

    return Notebook(Workspace.open(uri))
