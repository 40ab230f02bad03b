"""Predictions -> a submission to the Rakuten challenge."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.errors import InputError
from mmbatch.progress import say
from mmbatch.submission import challenge_to_predict, submission, write_submission
from mmbatch.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Submission(Job):
    """Write what is published for the challenge's products without a label, every row in the order of their file."""

    source: str | None = None
    """The challenge's folder or, where that has several files of products to predict, one of them."""
    out: str | None = None
    """File to write, local or s3://: TSV with the columns of that file and Prdtypecode, or, for the re-issue, CSV with
    the row number and prdtypecode."""


def main(config: Submission) -> dict[str, Any]:
    """Write one submission."""
    workspace = Workspace.open(config.workspace)
    if config.source is None or config.out is None:
        raise InputError("--source or --out is missing: the challenge's folder, and the file to write")
    challenge, file = challenge_to_predict(config.source)
    if config.out == file:
        raise InputError(f"--out {config.out}: found the challenge's own file, expected another one to write")
    rows = submission(workspace, challenge, file)
    found = {"file": file, "rows": rows.num_rows, "out": config.out}
    if config.dry_run:
        return plan(config, **found)
    write_submission(rows, config.out, separator=challenge.issue.separator)
    say(f"submission {rows.num_rows:,} products of {file} written to {config.out}")
    return found


if __name__ == "__main__":
    run_job(Submission, main)
