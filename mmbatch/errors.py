"""The errors a user can meet, each with the exit code that the scheduler sees."""

from collections.abc import Mapping
from typing import Any


class MmbatchError(Exception):
    """Base of all errors this package raises on purpose; its text is one line a person can act on."""

    exit_code = 1


class InputError(MmbatchError):
    """Bad configuration or input: the line names the flag or file, what was found and what was expected."""

    exit_code = 2


class ClusterError(InputError):
    """The cluster cannot do the work: not there, too small, a machine without the workspace, no memory or disk left."""


class RefusedToPublishError(MmbatchError):
    """A check before publishing failed; what is published stays as it was."""

    exit_code = 3

    def __init__(self, message: str, entry: Mapping[str, Any] | None = None) -> None:
        """`entry`: of the ledger, where the run has one."""
        super().__init__(message)
        self.entry = entry


class LostRaceError(MmbatchError):
    """Another run has written first; nothing of this one was committed."""

    exit_code = 4


class CountMismatchError(MmbatchError):
    """The rows that went in are not the rows that are accounted for: a defect, never the user's fault."""
