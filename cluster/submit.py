"""Submits a job once a day, follows it, and ends with its exit code.

    python -m cluster.submit [--again] -- python -m jobs.nightly --workspace s3://BUCKET/workspace --source ...

The submission is named by the job, the day (UTC) and the command: `mmbatch-nightly-20260131-1a2b3c4d`. Where one of
that name is there already, nothing is started: that one is followed, and its exit code counts. `--again` starts another
one (`-2`, `-3`) where the last one has ended, failed or not. The cluster is found as `ray job submit` finds it
(RAY_API_SERVER_ADDRESS, RAY_AUTH_MODE), and gets the code of this folder.

Exit codes: 0 the job succeeded; its own where it failed (2 bad input, 3 refused to publish, 4 lost a race); 1 any other
failure, among them `ray job stop`; 5 the cluster refused, or could not be reached `PATIENCE` times in a row.
"""

import argparse
import asyncio
import hashlib
import logging
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from mmbatch.errors import InputError
from mmbatch.progress import say

EVERY_S = 15.0
"""Seconds between two tries to reach a cluster that is away."""

PATIENCE = 40
"""Tries that may fail in a row: ten minutes in which a network or a dashboard is away."""

FAILURES = (OSError, RuntimeError, aiohttp.ClientError, AuthenticationError)
"""What the client raises of a cluster that refuses or is away."""


def submission_id(command: Sequence[str], *, today: str) -> str:
    """The name of a command on a day (YYYYMMDD)."""
    jobs = [word.removeprefix("jobs.") for word in command if word.startswith("jobs.")]
    if not jobs:
        raise InputError(f"-- {shlex.join(command)}: expected python -m jobs.NAME and its flags")
    digest = hashlib.sha256(shlex.join(command).encode()).hexdigest()[:8]
    return f"mmbatch-{jobs[0]}-{today}-{digest}"


def start(client: JobSubmissionClient, command: Sequence[str], *, today: str, again: bool = False) -> str:
    """Submit the command unless it is there; the name of the submission that counts."""
    name = submission_id(command, today=today)
    states = {_number(job.submission_id, name): job.status for job in client.list_jobs()}
    last = max(states, default=0)
    if last and not (again and states[last].is_terminal()):
        return _found(_numbered(name, last))
    chosen = _numbered(name, last + 1)
    try:
        client.submit_job(entrypoint=shlex.join(command), submission_id=chosen, runtime_env={"working_dir": "."})
    except RuntimeError:
        client.get_job_info(chosen)  # raises too, unless another submitter was first
        return _found(chosen)
    say(f"{chosen}: submitted")
    return chosen


def _number(found: str | None, name: str) -> int:
    """Which one of a name a submission is, from 1; 0: none."""
    if found == name:
        return 1
    ending = (found or "").removeprefix(f"{name}-")
    return int(ending) if ending.isdigit() else 0


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _found(name: str) -> str:
    say(f"{name}: there already, its result counts; --again runs it again")
    return name


@dataclass
class Follower:
    """Prints what a job prints, each line once, however often the connection breaks."""

    client: JobSubmissionClient
    pause: Callable[[float], None] = time.sleep
    shown: int = 0
    """Characters of the log."""

    def follow(self, name: str) -> JobDetails:
        """Until the job has ended; how."""
        failed = 0
        while True:
            before = self.shown
            try:
                asyncio.run(self._print(name))
                if (job := self.client.get_job_info(name)).status.is_terminal():
                    return job
            except FAILURES as error:
                failed = failed + 1 if self.shown == before else 1
                if failed == PATIENCE:
                    raise
                say(f"asking again: {_first_line(error)}")
            self.pause(EVERY_S)

    async def _print(self, name: str) -> None:
        seen = 0
        async for text in self.client.tail_job_logs(name):
            new = text[max(0, self.shown - seen) :]
            seen += len(text)
            self.shown = max(self.shown, seen)
            sys.stdout.write(new)
            sys.stdout.flush()


def exit_code(job: JobDetails) -> int:
    """0 for a job that succeeded, its command's own exit code where there is one, else 1."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    code = job.driver_exit_code or 1
    return code if code > 0 else 128 - code


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="cluster.submit", description="Submits a job once a day and follows it.")
    parser.add_argument("--again", action="store_true", help="run it again where it has ended today")
    parser.add_argument("command", nargs="+", help="python -m jobs.NAME and its flags, after --")
    flags = parser.parse_args()
    logging.disable(logging.WARNING)  # Ray's client tells every file that it does not upload
    name = "the job"
    try:
        client = JobSubmissionClient()
        name = start(client, flags.command, today=f"{datetime.now(UTC):%Y%m%d}", again=flags.again)
        job = Follower(client).follow(name)
    except InputError as error:
        say(f"error: {error}")
        return error.exit_code
    except FAILURES as error:
        say(f"error: {_first_line(error)}")
        return 5
    except KeyboardInterrupt:
        say(f"{name} goes on: the same command follows it, `ray job stop` ends it")
        return 130
    say(f"{name}: {job.status}, exit code {exit_code(job)}")
    return exit_code(job)


if __name__ == "__main__":
    sys.exit(main())
