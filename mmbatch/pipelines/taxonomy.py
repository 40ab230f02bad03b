"""Edits of the category tree: checked against it, counted, and added as the next version. No model runs here."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from mmbatch.catalog import Catalog, category_of
from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_changes import KINDS, Change, changes
from mmbatch.fusion.taxonomy_edits import Edits, shown
from mmbatch.fusion.taxonomy_paths import LabelPath
from mmbatch.models import standing_models
from mmbatch.predictions import Predictions
from mmbatch.predictor import stored_categories
from mmbatch.progress import say
from mmbatch.runs import Run
from mmbatch.schema import PATH_SEPARATOR
from mmbatch.taxonomy_history import Step, TaxonomyHistory
from mmbatch.workspace import Workspace


def plan_edits(workspace: Workspace, edits: Edits, *, source: str) -> dict[str, Any]:
    """What edits would change, without changing anything.

    Returns:
        `version`, the number that they get; categories that are `renamed`, `merged`, `split`, `removed`;
        `categories_before` and `categories_after`; and of each one in `touched`: what it `becomes`, and how many
        published `predictions` and `labelled` products stand in it. `version` alone, where the newest holds these
        edits already.

    Raises:
        InputError: the edits, which were read from `source`, cannot be added (`TaxonomyHistory.step`), or would leave
            the newest predictor nothing to decide for; there is no category yet.
    """
    history = TaxonomyHistory.read(workspace)
    if history.versions and history.versions[-1] == edits:
        return {"version": len(history.versions)}
    labelled, categories = _labelled(workspace), _categories(workspace)
    step = _step(workspace, history, edits, labelled=labelled, categories=categories, source=source)
    found = changes(*step)
    kinds = Counter(change.kind for change in found)
    return {
        "version": len(history.versions) + 1,
        **{kind: kinds[kind] for kind in KINDS},
        "categories_before": len(step.before.paths),
        "categories_after": len(step.after.taxonomy.paths),
        "touched": _touched(found, _now(_published(workspace), history), _now(labelled, history)),
    }


def add_edits(workspace: Workspace, edits: Edits, *, source: str) -> dict[str, Any]:
    """Add edits as the next version, unless the newest is of these edits; see `plan_edits` for arguments and errors.

    Returns:
        Ledger entry; its counts are those of `plan_edits`.
    """
    run = Run(workspace=workspace, job="taxonomy", settings={"edits": source})
    counts = plan_edits(workspace, edits, source=source)
    if "touched" not in counts:
        say(f"taxonomy   version {counts['version']} holds these edits already")
        return {"run_id": run.run_id, "job": run.job, "seconds": 0.0, "counts": counts}
    TaxonomyHistory.read(workspace).add(workspace, edits)
    return run.finish(counts, {"taxonomy": counts["version"]})


def list_versions(workspace: Workspace) -> dict[str, Any]:
    """The edits of each version, counted, and the number of categories now.

    Returns:
        `versions`: `version`, `edits`, and of these `moved` (to one new path), `split` and `removed`; `categories`,
        those that the newest predictor and the labels have, after all edits.
    """
    history = TaxonomyHistory.read(workspace)
    base = {*_categories(workspace), *map(_path, _labelled(workspace))}
    return {
        "versions": [{"version": number, **_forms(edits)} for number, edits in enumerate(history.versions, start=1)],
        "categories": len({now for path in base for now in history.moved(path)}),
    }


def _forms(edits: Edits) -> dict[str, int]:
    new = [len(paths) for paths in edits.values()]
    moved, removed = new.count(1), new.count(0)
    return {"edits": len(new), "moved": moved, "split": len(new) - moved - removed, "removed": removed}


def _step(
    workspace: Workspace,
    history: TaxonomyHistory,
    edits: Edits,
    *,
    labelled: Counter[str],
    categories: Sequence[LabelPath],
    source: str,
) -> Step:
    base = {*categories, *map(_path, labelled)}
    if not base:
        raise InputError(f"--workspace {workspace.uri}: no category there yet: no labelled product, and no predictor")
    try:
        step = history.step(edits, base=base, levels=workspace.settings.level)
        if categories:
            TaxonomyHistory((*history.versions, edits)).version_of(Taxonomy(tuple(categories)))
    except InputError as error:
        raise InputError(f"--edits {source}: {error}") from None
    return step


def _touched(found: Sequence[Change], published: Counter[str], labelled: Counter[str]) -> list[dict[str, Any]]:
    return [
        {
            "category": shown(change.old),
            "change": change.kind,
            "becomes": [shown(path) for path in change.new],
            "predictions": published[shown(change.old)],
            "labelled": labelled[shown(change.old)],
        }
        for change in found
    ]


def _now(counts: Counter[str], history: TaxonomyHistory) -> Counter[str]:
    """Products of each category by its present name, of those that have one."""
    found: Counter[str] = Counter()
    for category, name in history.current(counts).items():
        found.update({name: counts[category]} if name else {})
    return found


def _categories(workspace: Workspace) -> tuple[LabelPath, ...]:
    """Of the newest predictor, as it was trained; none where there is no predictor yet."""
    models = standing_models(workspace, "predictor")
    return stored_categories(models[-1]) if models else ()


def _labelled(workspace: Workspace) -> Counter[str]:
    """Labelled products of each category, by the catalog's names."""
    table, level, labelled = Catalog(workspace=workspace).table, workspace.settings.level, ds.field("label").is_valid()
    counts: Counter[str] = Counter()
    for bucket in range(workspace.settings.buckets):
        _count(counts, category_of(table.read(["label"], buckets=[bucket], filters=labelled)["label"], level))
    return counts


def _published(workspace: Workspace) -> Counter[str]:
    """Published predictions of each category, by the names that they have."""
    counts: Counter[str] = Counter()
    for bucket in range(workspace.settings.buckets):
        _count(counts, Predictions(workspace=workspace).table.read(["category"], buckets=[bucket])["category"])
    return counts


def _count(counts: Counter[str], column: pa.ChunkedArray) -> None:
    counts.update({row["values"]: row["counts"] for row in column.drop_null().value_counts().to_pylist()})


def _path(category: str) -> LabelPath:
    return tuple(category.split(PATH_SEPARATOR))
