"""What all jobs share: flags from a dataclass, one line per user error, exit codes, the ledger as JSON."""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import tyro

from mmbatch.errors import MmbatchError, RefusedToPublishError
from mmbatch.progress import check_format, say
from mmbatch.storage import storage_errors
from mmbatch.workspace import normalise_uri


@dataclass(frozen=True, kw_only=True)
class Job:
    """Flags of every job."""

    workspace: str
    """Root of the workspace: a folder or s3://bucket/prefix."""
    json: bool = False
    """Print the run's ledger entries as one JSON object on stdout; everything else goes to stderr."""
    dry_run: bool = False
    """Print the resolved configuration and the size of the work, and exit."""
    wait: float = 0.0
    """Seconds to wait for another run that writes the same workspace, before giving up with exit code 4."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob(Job):
    """Flags of the jobs that load pretrained weights."""

    weights: str | None = None
    """Folder of pretrained weights, looked into first (DIR/<hub name with / as -->); default $MMBATCH_WEIGHTS."""


def weights_folder(config: TrainingJob) -> str | None:
    """The folder as workers see it, whose working directory is another one; None: not named."""
    named = config.weights or os.environ.get("MMBATCH_WEIGHTS")
    return None if named is None else normalise_uri(named)


JobT = TypeVar("JobT", bound=Job)


def run_job(job: type[JobT], main: Callable[[JobT], dict[str, Any]]) -> None:
    """Parse the flags, run the job and end the process: 0 done, 2 bad input, 3 refused to publish, 4 lost a race."""
    config = tyro.cli(job)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with redirect_stdout(sys.stderr if config.json else sys.stdout), storage_errors():
            check_format()
            result = main(config)
            _stop_ray()  # it prints on its own, and the last of it here
    except MmbatchError as error:
        say(f"error: {error}")
        if config.json and isinstance(error, RefusedToPublishError) and error.entry:
            print(json.dumps(error.entry, default=str))
        _exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from what is committed")
        _exit(130)
    if config.json:
        print(json.dumps(result, default=str))
    _exit(0)


def plan(config: Job, **work: Any) -> dict[str, Any]:
    """Print what a dry run would do, and return it."""
    found = {"configuration": asdict(config), "work": work}
    say(json.dumps(found, indent=1, default=str))
    return found


def _exit(code: int) -> None:
    """End now: a local Ray is stopped, but nobody waits for the threads that Arrow and Ray leave behind."""
    _stop_ray()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stop_ray() -> None:
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
