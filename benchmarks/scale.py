"""What grows with the catalog and what must not: synthetic text-only products, an encoder that costs next to nothing.

    python -m benchmarks.scale unchanged --folder DIR [--rows 1000000]
    python -m benchmarks.scale edited    --folder DIR [--rows 100000]
    python -m benchmarks.scale memory    --folder DIR [--rows 1000000]
    python -m benchmarks.scale reading   --folder DIR [--rows 200000]
    python -m benchmarks.scale badrows   --folder DIR [--rows 1000000]

unchanged  extraction and ingest once more with nothing changed: seconds, vectors computed, new files, peak memory
edited     1 % of the titles edited: vectors computed, bytes written by table beside the bytes of the edited rows alone
memory     peak memory of the extraction for a tenth of the rows and for all
reading    `FeatureStore.read` of 384 numbers a product to numpy, warm: GB per second, and per second of processor time
badrows    1 % of the rows bad, in every way a file can be: quarantine by reason, seconds of ingest beside a clean one

`--folder` is new. Seconds are of whole processes; memory is the PSS of all of a job's processes.
"""

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from benchmarks.catalogs import edit, synthetic
from benchmarks.running import (
    Finished,
    bytes_by_table,
    files_below,
    new_workspace,
    report,
    run_job,
    store_encoder,
)
from mmbatch.catalog import Catalog
from mmbatch.encoders.ngram import NgramText
from mmbatch.models import newest_encoders
from mmbatch.pipelines.extract import store_of
from mmbatch.quarantine import quarantine_table
from mmbatch.tables import Table
from mmbatch.workspace import Workspace

READ_WIDTH = 384
"""Numbers in a vector of MiniLM."""


def ingested(folder: Path, *, rows: int, width: int = 8) -> Workspace:
    """A workspace with a synthetic catalog (kept in `folder/source`) and the cheapest encoder of some width."""
    (folder / "source").mkdir(parents=True)
    synthetic(folder / "source", rows=rows)
    workspace = new_workspace(folder / "workspace", preset="sample", rows=rows)
    run_job("ingest", workspace.uri, "--source", str(folder / "source"))
    store_encoder(workspace, "cheap", NgramText.from_scratch(buckets=256, width=width, seed=0))
    return workspace


def unchanged(folder: Path, rows: int) -> dict[str, Any]:
    """The same work asked for again."""
    workspace = ingested(folder, rows=rows)
    figures: dict[str, Any] = {"extract_first": _figures(run_job("extract_features", workspace.uri))}
    before = files_below(workspace.uri)
    again = run_job("extract_features", workspace.uri)
    figures["extract_again"] = _figures(again) | {"computed": again.counts["computed"]}
    figures["ingest_again"] = _figures(run_job("ingest", workspace.uri, "--source", str(folder / "source")))
    return figures | {"new_files": sorted(files_below(workspace.uri).keys() - before.keys())}


def edited(folder: Path, rows: int) -> dict[str, Any]:
    """A small delta, with vectors as wide as MiniLM's: of narrow ones a file's footer would be most."""
    workspace = ingested(folder, rows=rows, width=READ_WIDTH)
    run_job("extract_features", workspace.uri)
    before = files_below(workspace.uri)
    features = store_of(workspace, newest_encoders(workspace)[0]).table
    row_bytes = {name: _row_bytes(table) for name, table in _tables(workspace, features).items()}
    (folder / "edited").mkdir()
    delta = edit(folder / "source", folder / "edited", percent=1, seed=0)
    ingest = run_job("ingest", workspace.uri, "--source", str(folder / "edited"))
    extract = run_job("extract_features", workspace.uri)
    written = bytes_by_table(item for item in files_below(workspace.uri).items() if item[0] not in before)
    return {
        "delta": delta,
        "ingest": _figures(ingest) | {"edited": ingest.counts["edited"]},
        "extract": _figures(extract) | {"computed": extract.counts["computed"]},
        "bytes_written": written,
        "bytes_of_the_edited_rows": {name: round(delta["edited"] * size) for name, size in row_bytes.items()},
    }


def memory(folder: Path, rows: int) -> dict[str, Any]:
    """Ten times the rows, the same memory?"""
    figures: dict[str, Any] = {}
    for count in (rows // 10, rows):
        workspace = ingested(folder / str(count), rows=count)
        figures[str(count)] = _figures(run_job("extract_features", workspace.uri))
    small, large = (found["peak_gib"] for found in figures.values())
    return figures | {"ratio": round(large / small, 2)}


def reading(folder: Path, rows: int) -> dict[str, Any]:
    """Stored vectors as numpy, bucket by bucket as training and prediction read them."""
    workspace = ingested(folder, rows=rows, width=READ_WIDTH)
    run_job("extract_features", workspace.uri)
    store = store_of(workspace, newest_encoders(workspace)[0])
    keys = Catalog(workspace=workspace).keys()
    buckets = range(workspace.settings.buckets)
    hashes = [keys.filter(pc.equal(keys["bucket"], bucket))["text_hash"] for bucket in buckets]
    wall, processor, size = 0.0, 0.0, 0
    for _ in range(2):  # the first pass warms the file cache
        wall, processor = time.perf_counter(), time.process_time()
        size = sum(store.read(wanted, buckets=[bucket])[0].nbytes for bucket, wanted in enumerate(hashes))
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {"bytes": size, "gb_per_s": round(size / wall / 1e9, 2), "gb_per_core_s": round(size / processor / 1e9, 2)}


def badrows(folder: Path, rows: int) -> dict[str, Any]:
    """Bad rows, each accounted for; clean ones before and after, as a machine is not equally fast at all times."""
    figures: dict[str, Any] = {}
    for name, share in (("clean", 0.0), ("bad", 0.01), ("clean-again", 0.0)):
        source = folder / name / "source"
        source.mkdir(parents=True)
        expected = synthetic(source, rows=rows, bad_share=share)
        workspace = new_workspace(folder / name / "workspace", preset="sample", rows=rows)
        done = run_job("ingest", workspace.uri, "--source", str(source))
        found = Counter(quarantine_table(workspace).read(["reason"])["reason"].to_pylist())
        del expected["rows"]
        figures[name] = _figures(done) | {
            "counts": done.counts,
            "quarantine": dict(found),
            "as_made": found == expected,
        }
    clean = (figures["clean"]["seconds"] + figures["clean-again"]["seconds"]) / 2
    return figures | {"seconds_ratio": round(figures["bad"]["seconds"] / clean, 3)}


def _figures(done: Finished) -> dict[str, Any]:
    return {"seconds": round(done.seconds, 1), "peak_gib": round(done.peak_bytes / 2**30, 2)}


def _tables(workspace: Workspace, features: Table) -> dict[str, Table]:
    return {"catalog": Catalog(workspace=workspace).table, features.uri.removeprefix(workspace.uri + "/"): features}


def _row_bytes(table: Table) -> float:
    files = table.files()
    return sum(file.size for file in files) / sum(file.rows for file in files)


def main() -> None:
    """Run one of them."""
    kinds = {"unchanged": unchanged, "edited": edited, "memory": memory, "reading": reading, "badrows": badrows}
    defaults = {"edited": 100_000, "reading": 200_000}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--folder", required=True, type=Path, help="new folder, left as it is at the end")
    parser.add_argument("--rows", type=int)
    flags = parser.parse_args()
    rows = flags.rows or defaults.get(flags.kind, 1_000_000)
    flags.folder.mkdir(parents=True)
    started = time.monotonic()
    figures = kinds[flags.kind](flags.folder.resolve(), rows)
    seconds = time.monotonic() - started
    report(f"{flags.kind}: {rows:,} products, {seconds:.0f} s in all", {"kind": flags.kind, "rows": rows, **figures})


if __name__ == "__main__":
    main()
