"""Starts a copy of a suspended RayJob, named by the date, and waits for its end.

    python start_rayjob.py PATTERN

Runs in a pod, with the rights of the pod's service account: create and get RayJobs of its own namespace. Needs nothing
but Python, as it lies in a ConfigMap. A copy that is there already is not made twice: its result counts.

Exit codes: 0 the job succeeded; the exit code of the job's command where Ray names it (2 bad input, 3 refused to
publish, 4 lost a race); 1 any other failure; 5 the Kubernetes API refused, or failed `PATIENCE` times in a row.
"""

import argparse
import json
import re
import ssl
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts a pod's namespace, token and certificate authority."""

EVERY_S = 15.0
"""Seconds between two requests, about a job that runs for hours."""

PATIENCE = 40
"""Tries of a request that may fail in a row: ten minutes in which the control plane is replaced."""

MOST_CHARACTERS = 47
"""Of a RayJob's name: KubeRay refuses longer ones."""

RayJob = dict[str, Any]


class ApiError(Exception):
    """The Kubernetes API refused a request, or could not be reached."""


class AwayError(ApiError):
    """The Kubernetes API could not be reached, or could not answer now."""


@dataclass(frozen=True)
class RayJobs:
    """The RayJobs of one namespace, by the Kubernetes API at `api`; a request that it cannot answer now is repeated."""

    api: str
    account: Path
    pause: Callable[[float], None] = time.sleep

    def get(self, name: str) -> RayJob:
        """The RayJob of that name; `ApiError` where there is none."""
        return self._request("GET", f"/{name}")

    def create(self, job: RayJob) -> bool:
        """Whether the RayJob was made; False: one of its name is there already."""
        try:
            self._request("POST", "", json.dumps(job).encode())
        except ApiError as error:
            if isinstance(error.__cause__, HTTPError) and error.__cause__.code == 409:
                return False
            raise
        return True

    def _request(self, method: str, path: str, body: bytes | None = None) -> RayJob:
        for _ in range(PATIENCE - 1):
            try:
                return self._try(method, path, body)
            except AwayError as error:
                say(f"asking again: {error}")
                self.pause(EVERY_S)
        return self._try(method, path, body)

    def _try(self, method: str, path: str, body: bytes | None) -> RayJob:
        url = f"{self.api}/apis/ray.io/v1/namespaces/{self._held('namespace')}/rayjobs{path}"
        token = self._held("token")  # read each time: Kubernetes renews it
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data=body, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._trusted()) as answer:
                found: RayJob = json.load(answer)
                return found
        except HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            kind = AwayError if error.code >= 500 or error.code == 429 else ApiError
            raise kind(f"{method} {url}: {error.code} {_message(said)}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise AwayError(f"{method} {url}: {error}") from error

    def _held(self, name: str) -> str:
        try:
            return (self.account / name).read_text().strip()
        except OSError as error:
            raise ApiError(f"{self.account / name}: no service account here, expected a pod's") from error

    def _trusted(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.account / "ca.crt") if self.api.startswith("https:") else None


def copy_of(pattern: RayJob, *, today: str) -> RayJob:
    """The RayJob that runs, of the suspended one that it is a copy of; `today` (YYYYMMDD) is the end of its name."""
    metadata = pattern["metadata"]
    name = f"{metadata['name']}-{today}"
    if len(name) > MOST_CHARACTERS:
        raise ApiError(f"RayJob {name}: {len(name)} characters, expected at most {MOST_CHARACTERS}")
    return {
        "apiVersion": pattern["apiVersion"],
        "kind": "RayJob",
        "metadata": {"name": name, "labels": metadata.get("labels", {})},
        "spec": pattern["spec"] | {"suspend": False},
    }


def ended(jobs: RayJobs, name: str) -> RayJob:
    """The status of a RayJob, once it is complete or has failed for good."""
    seen = ""
    while True:
        status: RayJob = jobs.get(name).get("status", {})
        stage = status.get("jobDeploymentStatus", "New")
        if stage in ("Complete", "Failed"):
            return status
        if stage != seen:
            say(f"RayJob {name}: {stage}")
        seen = stage
        jobs.pause(EVERY_S)


def exit_code(status: RayJob) -> int:
    """0 for a job that succeeded, its command's own exit code where the status names one, else 1."""
    if status.get("jobStatus") == "SUCCEEDED":
        return 0
    named = re.search(r"exit code (\d+)", status.get("message", ""))
    return int(named[1]) if named and int(named[1]) else 1


def start(jobs: RayJobs, pattern: str, *, today: str) -> int:
    """Start today's copy of the RayJob `pattern` unless it is there, wait for its end, and return the exit code."""
    job = copy_of(jobs.get(pattern), today=today)
    name = job["metadata"]["name"]
    if jobs.create(job):
        say(f"RayJob {name}: started")
    else:
        say(f"RayJob {name}: there already, its result counts; delete it to run it again")
    status = ended(jobs, name)
    code = exit_code(status)
    found = status.get("jobStatus") or status.get("reason") or status["jobDeploymentStatus"]
    say(f"RayJob {name}: {found}, exit code {code}. {status.get('message', '')}".rstrip())
    return code


def say(line: str) -> None:
    """Write one line for the pod's log."""
    sys.stderr.write(f"{line}\n")


def _message(said: str) -> str:
    """What the API's answer says in words, of the JSON around it."""
    try:
        return str(json.loads(said)["message"])
    except (ValueError, TypeError, KeyError):
        return said.partition("\n")[0]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Starts a copy of a suspended RayJob and waits for its end.")
    parser.add_argument("pattern", help="name of the suspended RayJob")
    jobs = RayJobs("https://kubernetes.default.svc", ACCOUNT)
    try:
        return start(jobs, parser.parse_args().pattern, today=f"{datetime.now(UTC):%Y%m%d}")
    except ApiError as error:
        say(f"error: {error}")
        return 5


if __name__ == "__main__":
    sys.exit(main())
