"""What a night costs: a first one over the whole catalog, one with 1 % changed, and one with nothing to do.

    python -m benchmarks.nights --folder DIR [--rows 100000]
    python -m benchmarks.nights --folder DIR [--rows 100000] --source flipkart_1050.parquet --weights DIR

Without `--source`, the sample catalog and its encoders as drawn from a seed: what a night costs besides the encoders.
With it, copies of those products (`benchmarks.catalogs copies`), MiniLM and EfficientNet-Lite0. Probes, head and late
fusion are trained on a small catalog of the same kind, by the jobs.

first     every product is new
snapshot  1 % of the products: a third with another title, a third with another image, a third new; the source names the
          whole catalog
feed      the same changes as a feed, on a copy of the workspace as it was
one       a feed of one new product, on another copy: what a night takes that starts every encoder
again     the same command a second time, after the snapshot
other     another snapshot with the same rows, in which there is nothing to do either

Contents encoded are to equal those that were changed. `startup_s` is the time of a process in no stage of its ledger
entry: interpreter, imports, Ray, the report. `imports_s` is that of a process which does nothing but import.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.catalogs import copies
from benchmarks.running import Finished, new_workspace, report, run_job, store_encoder
from benchmarks.throughput import store_encoders
from mmbatch.encoders import build_encoder
from mmbatch.presets import preset_named
from mmbatch.sample import write_sample
from mmbatch.workspace import Workspace

TRAINED_ON = 4_000
"""Products of the small catalog."""

COLUMNS = "id=product_id title=title description=description image=image label=category_path operation=op"

OPEN = ("--gate", "drift=1000", "changed=1", "changed_per_category=1", "quarantined=1", "review=1")
"""What is measured is the time; a copied catalog and its small training set may well differ."""


def write_catalog(folder: Path, rows: int, source: str | None) -> None:
    """Parquet files of products with a title and an image, no id twice."""
    folder.mkdir(parents=True)
    if source is not None:
        copies(source, folder, number=max(1, round(rows / 1_047)))
        return
    known = pa.array([], pa.string())
    for file in write_sample(str(folder), rows=rows, seed=0):
        table = pq.read_table(file)
        ids = table["product_id"].combine_chunks()
        again = pc.or_(pc.is_in(ids, value_set=known), pa.array(ids.to_pandas().duplicated()))
        whole = pc.and_(pc.is_valid(ids), pc.and_(pc.is_valid(table["title"]), pc.is_valid(table["image"])))
        pq.write_table(table.filter(pc.and_not(whole, again)), file, row_group_size=250)
        known = pa.concat_arrays([known, ids])


def change(source: Path, snapshot: Path, feed: Path, *, share: float) -> Counter[str]:
    """Write the next day's snapshot and the same changes as a feed; returns the new contents by modality."""
    rng, expected = np.random.default_rng(0), Counter[str]()
    snapshot.mkdir(parents=True)
    feed.mkdir(parents=True)
    for file in sorted(source.glob("*.parquet")):
        rows = pq.read_table(file)
        chosen = rng.choice(rows.num_rows, round(rows.num_rows * share), replace=False)
        titles, images, fresh = np.array_split(np.sort(chosen), 3)
        edited = _marked(_marked(rows, "title", titles), "image", images)
        added = rows.take(fresh)
        added = _marked(_marked(added, "title", np.arange(len(fresh))), "image", np.arange(len(fresh)))
        ids = pc.binary_join_element_wise(added["product_id"], "new", "-")
        added = added.set_column(added.schema.get_field_index("product_id"), "product_id", ids)
        pq.write_table(pa.concat_tables([edited, added]), snapshot / file.name, row_group_size=250)
        changed = pa.concat_tables([edited.take(np.concatenate([titles, images])), added])
        operations = pa.array(["update"] * (len(titles) + len(images)) + ["insert"] * len(fresh))
        pq.write_table(changed.append_column("op", operations), feed / file.name)
        expected.update(text=len(titles) + len(fresh), image=len(images) + len(fresh))
    return expected


def _marked(rows: pa.Table, name: str, chosen: np.ndarray) -> pa.Table:
    """The rows with another content of a column in the chosen ones, none of which was there before."""
    mask = np.zeros(rows.num_rows, bool)
    mask[chosen] = True
    mark = pc.binary_join_element_wise(" edited", rows["product_id"], " ").cast(rows.schema.field(name).type)
    nothing = pa.scalar("", pa.string()).cast(mark.type)
    marked = pc.binary_join_element_wise(rows[name], mark, nothing)
    return rows.set_column(
        rows.schema.get_field_index(name), rows.schema.field(name), pc.if_else(pa.array(mask), marked, rows[name])
    )


def trained(folder: Path, flags: argparse.Namespace) -> Workspace:
    """A small workspace with encoders, head and late fusion."""
    write_catalog(folder / "small-source", min(TRAINED_ON, flags.rows), flags.source)
    preset = "flipkart-small" if flags.source else "sample"
    workspace = new_workspace(folder / "small", preset=preset, rows=TRAINED_ON)
    if flags.source:
        store_encoders(workspace, flags.weights)
    else:
        for recipe in preset_named(preset).encoders:
            encoder = build_encoder(recipe.kind, weights=None, seed=0, **recipe.arguments)
            store_encoder(workspace, recipe.name, encoder)
    run_job("ingest", workspace.uri, "--source", str(folder / "small-source"))
    for job in ("extract_features", "train_head", "train_late_fusion"):
        run_job(job, workspace.uri)
    return workspace


def measured(folder: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    small = trained(folder, flags)
    write_catalog(folder / "source", flags.rows, flags.source)
    expected = change(folder / "source", folder / "snapshot", folder / "feed", share=0.01)
    workspace = new_workspace(folder / "workspace", preset=small.settings.preset, rows=flags.rows)
    shutil.copytree(folder / "small" / "models", folder / "workspace" / "models")
    figures: dict[str, Any] = {"changed_contents": dict(expected), "imports_s": imports()}
    figures["first"] = night(workspace.uri, folder / "source")
    (folder / "one").mkdir()
    new = pq.read_table(folder / "feed", filters=pc.field("op") == "insert")
    pq.write_table(new.slice(0, 1), folder / "one" / "one.parquet")
    for copy in ("twin", "twin-of-one"):
        shutil.copytree(folder / "workspace", folder / copy)
    figures["one"] = night(str(folder / "twin-of-one"), folder / "one", "--columns", *COLUMNS.split())
    figures["snapshot"] = night(workspace.uri, folder / "snapshot")
    figures["feed"] = night(str(folder / "twin"), folder / "feed", "--columns", *COLUMNS.split())
    figures["again"] = night(workspace.uri, folder / "snapshot")
    shutil.copytree(folder / "snapshot", folder / "snapshot-again", copy_function=shutil.copyfile)
    figures["other"] = night(workspace.uri, folder / "snapshot-again")
    for kind in ("snapshot", "feed"):
        figures[f"{kind}_over_first"] = round(figures[kind]["seconds"] / figures["first"]["seconds"], 4)
        more = figures[kind]["seconds"] - figures["one"]["seconds"]
        figures[f"{kind}_beyond_start_over_first"] = round(more / figures["first"]["seconds"], 4)
    return figures


def night(workspace: str, source: Path, *flags: str) -> dict[str, Any]:
    """Seconds of one night by stage, what was encoded, and what was said when."""
    started = time.monotonic()
    done = run_job("nightly", workspace, "--source", str(source), *OPEN, *flags)
    timings = {stage: round(seconds, 1) for stage, seconds in done.counts["timings"].items()}
    return {
        "seconds": round(done.seconds, 1),
        "timings": timings,
        "startup_s": round(done.seconds - sum(timings.values()), 1),
        "peak_gib": round(done.peak_bytes / 2**30, 2),
        "state": done.counts["state"],
        "products": done.counts["products"],
        "encoded": encoded(done),
        "lines": [f"{clock - started:.1f} {line}" for clock, line in done.lines],
    }


def encoded(done: Finished) -> dict[str, dict[str, int]]:
    """By encoder: contents computed, taken from another product, and in quarantine."""
    names = ("computed", "reused", "quarantined")
    found = done.counts["extract"]["encoders"]
    return {encoder: {name: counts[name] for name in names} for encoder, counts in found.items()}


def imports() -> float:
    """Seconds of a process that imports what a night imports."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import jobs.nightly, mmbatch.pipelines.nightly"], check=True)
    return round(time.monotonic() - started, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="new folder, left as it is at the end")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--source", help="products to copy, with images")
    parser.add_argument("--weights", help="folder of pretrained weights, with --source")
    flags = parser.parse_args()
    if (flags.source is None) != (flags.weights is None):
        parser.error("--source and --weights come together")
    flags.folder.mkdir(parents=True)
    figures = measured(flags.folder.resolve(), flags)
    report(f"nights of {flags.rows:,} products", {"rows": flags.rows, **figures})


if __name__ == "__main__":
    main()
