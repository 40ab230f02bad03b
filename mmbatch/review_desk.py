"""The review desk: the queue as the last run of `jobs.review` wrote it, less what people have labelled since."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmbatch.browse import Browser
from mmbatch.corrections import Correction
from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_edits import shown
from mmbatch.fusion.taxonomy_paths import LabelPath
from mmbatch.models import Model
from mmbatch.predictor import stored_categories
from mmbatch.runs import last_run
from mmbatch.schema import PATH_SEPARATOR
from mmbatch.storage import filesystem_of
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.workspace import Workspace

_READ = ["product_id", "priority", "reasons", "suggested_category", "bucket"]


class Queue(NamedTuple):
    """Products to be looked at, the most urgent first."""

    run_id: str
    """Of the `jobs.review` that found them."""
    rows: pa.Table
    """`product_id`, `priority`, `reasons`, `suggested_category` (null: the label is not suspected) and `bucket`."""

    @classmethod
    def read(cls, workspace: Workspace) -> Self:
        """What the last review found; `InputError` where there was none, or its file is gone."""
        last = last_run(workspace, "review")
        uri = last["counts"].get("queue") if last else None
        if last is None or uri is None or not filesystem_of(uri)[0].exists(filesystem_of(uri)[1]):
            raise InputError(f"no review queue in {workspace.uri}: run python -m jobs.review")
        filesystem, path = filesystem_of(uri)
        rows = pq.read_table(path, columns=_READ, filesystem=filesystem)
        return cls(last["run_id"], rows.sort_by([("priority", "descending"), ("product_id", "ascending")]))

    def left(self, browser: Browser) -> pa.Table:
        """The rows that no person has labelled since."""
        done = browser.catalog.corrected()["product_id"].combine_chunks()
        return self.rows.filter(pc.invert(pc.is_in(self.rows["product_id"], value_set=done)))


def question(product: Mapping[str, Any], suggested: str | None) -> str | None:
    """The category that a person is asked about: what models say instead of a doubted label, or what is predicted."""
    return suggested or product["category"]


def choices(workspace: Workspace, predictor: Model) -> dict[str, LabelPath]:
    """Category as it is called now -> the name that the catalog's labels have of it, or else its own."""
    history, paths = TaxonomyHistory.read(workspace), stored_categories(predictor)
    now = history.current(map(shown, paths))
    found = {name: path for path in paths if (name := now[shown(path)]) is not None}
    for path in history.version_of(Taxonomy(paths)).taxonomy.paths:
        found.setdefault(shown(path), path)
    return dict(sorted(found.items()))


def correction(
    product: Mapping[str, Any], category: str | None, *, known: Mapping[str, LabelPath], author: str
) -> Correction:
    """What a person says of a product (`Found.rows`); None: earlier words are taken back."""
    before = product["label"]
    return Correction(
        product_id=product["product_id"],
        label=None if category is None else known.get(category, tuple(category.split(PATH_SEPARATOR))),
        label_before=None if before is None else before.split(PATH_SEPARATOR),
        author=author,
        run_id=product["run_id"],
    )
