"""File of edits -> the next version of the category tree: categories renamed, merged, split and removed."""

from dataclasses import dataclass
from typing import Any

from jobs._cli import Job, plan, run_job
from mmbatch.progress import say
from mmbatch.workspace import Workspace

SHOWN = 20
"""Categories that are named one by one, of those that change; --json names all."""


@dataclass(frozen=True, kw_only=True)
class Taxonomy(Job):
    """Edit the category tree: the next jobs.predict decides in it, from stored features and by the models as they are.

    Without --edits, list the versions of the tree.
    """

    edits: str | None = None
    """File of edits, .json or .csv (docs/taxonomy.md), local or on an object store, to add as the next version."""


def main(config: Taxonomy) -> dict[str, Any]:
    """List the versions, or add one."""
    workspace = Workspace.open(config.workspace)

    from mmbatch.fusion.taxonomy_edits import read_edits
    from mmbatch.pipelines.taxonomy import add_edits, list_versions, plan_edits

    if config.edits is None:
        found = list_versions(workspace)
        if config.dry_run:
            return plan(config, **found)
        if not config.json:
            print("\n".join(_listed(found)))
        return found
    edits = read_edits(config.edits)
    if config.dry_run:
        return plan(config, **plan_edits(workspace, edits, source=config.edits))
    with workspace.writing("taxonomy", wait_s=config.wait) as workspace:
        done = add_edits(workspace, edits, source=config.edits)
    for line in _changed(done["counts"]):
        say(line)
    return done


def _listed(found: dict[str, Any]) -> list[str]:
    heads = ("version", "edits", "moved", "split", "removed")
    rows = [[f"{row[head]:>7,}" for head in heads] for row in found["versions"]]
    table = ["  ".join(f"{head:>7}" for head in heads), *map("  ".join, rows)] if rows else ["no version: not edited"]
    return [*table, f"{found['categories']:,} categories now"]


def _changed(counts: dict[str, Any]) -> list[str]:
    if "touched" not in counts:
        return []
    kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("renamed", "merged", "split", "removed"))
    size = f"{counts['categories_before']:,} categories before, {counts['categories_after']:,} now"
    lines = [f"taxonomy   version {counts['version']}: {kinds}; {size}"]
    for row in counts["touched"][:SHOWN]:
        new = " and ".join(row["becomes"])
        stand = f"{row['predictions']:,} published predictions, {row['labelled']:,} labelled products"
        lines.append(f"taxonomy   {row['category']}: {row['change']}{f' -> {new}' if new else ''} ({stand})")
    if (more := len(counts["touched"]) - SHOWN) > 0:
        lines.append(f"taxonomy   and {more:,} more")
    return [*lines, "taxonomy   the next jobs.predict decides anew, from stored features: no encoder runs"]


if __name__ == "__main__":
    run_job(Taxonomy, main)
