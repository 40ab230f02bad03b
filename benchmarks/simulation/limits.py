"""Where the design ends: what grows faster than the catalog, or has to fit into one process."""

from typing import NamedTuple

from benchmarks.simulation.model import buckets, modalities, touched, units
from benchmarks.simulation.rates import rate
from benchmarks.simulation.shapes import Load
from mmbatch.pipelines.delivery import COMMIT_FILES
from mmbatch.pipelines.staging import STAGE_BYTES

STALE_BYTES = 24 * 3
"""Of a stale content on the driver: identity, bucket and encoders, and as much twice while sorting."""

GIB = 2**30


class Limit(NamedTuple):
    """Figures of one size of catalog."""

    products: int
    buckets: int
    driver_gib: float
    """Of the larger modality's contents, all stale, while they are sorted."""
    files: float
    """Feature files that a first run writes, all encoders."""
    listed_gib: float
    """Entries of these in one process that lists them, as every task of the first prediction does."""
    commit_s: float
    """Processor seconds of the last commit of the larger feature table."""
    commits: float
    """Of a first run's extraction: versions in the logs."""
    night_files: float
    """Small files that a night with 1 % changed adds to the feature tables."""
    footers: float
    """Staged footers that the merges of a first ingest read."""


def limit(products: int) -> Limit:
    """The figures of a catalog of so many products, images staying where they are."""
    load, night = Load(products=products), Load(products=products, changed=0.01)
    written = {kind: units(load, kind) for kind in modalities(load)}
    files, count = sum(written.values()), buckets(load)
    return Limit(
        products=products,
        buckets=count,
        driver_gib=products * STALE_BYTES / GIB,
        files=files,
        listed_gib=files * rate("entry") / GIB,
        commit_s=rate("commit alone") + max(written.values()) * rate("commit"),
        commits=files / COMMIT_FILES,
        night_files=len(written) * touched(night),
        footers=count * max(1.0, products * load.row_bytes / STAGE_BYTES),
    )
