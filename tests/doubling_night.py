"""A night with a fault: it appends its product again whenever it starts again."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs._cli import Job, run_job
from mmbatch.catalog import Catalog
from mmbatch.predictions import Predictions
from mmbatch.progress import say
from mmbatch.runs import new_run_id
from mmbatch.tables import Table
from mmbatch.workspace import Settings, Workspace


@dataclass(frozen=True, kw_only=True)
class Night(Job):
    source: str
    first: bool = False


def main(config: Night) -> dict[str, Any]:
    say("begins")
    if config.first:
        Workspace.create(config.workspace, Settings(preset="sample", level=1, seed=0, buckets=4))
    workspace = Workspace.open(config.workspace)
    product = "first" if config.first else "second"
    append(Catalog(workspace=workspace).table, product)
    table = Predictions(workspace=workspace).table
    if product not in table.read(["product_id"])["product_id"].to_pylist():
        append(table, product)
    return {}


def append(table: Table, product: str) -> None:
    row = dict.fromkeys(table.schema.names) | {"product_id": product, "confidence": 0.5, "bucket": 0}
    rows = pa.Table.from_pylist([row], schema=table.schema)
    table.commit([table.write_file(rows, bucket=0)], app_id=new_run_id())


def command() -> None:
    run_job(Night, main)
