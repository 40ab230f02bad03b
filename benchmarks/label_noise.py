"""How many wrong labels the review finds.

    python -m benchmarks.label_noise --workspace WS [--share 0.05] [--seed 0]

The workspace is one whose features are stored; it stays as it is. A share of the labels is replaced in memory, each by
another category drawn at random, and what the review would suspect is compared with what was replaced: precision,
recall, recall among the labels that could be judged, and the share of those found whose true category is suggested. A
label that was wrong before counts as a false alarm, so that precision is a lower bound on real catalogs. Encoders that
were fine-tuned have seen the true labels of their train products, not the replaced ones: labels that were wrong already
when an encoder was trained on them are harder to find than these.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.running import report
from mmbatch.models import newest_encoders
from mmbatch.pipelines.out_of_fold import FoldRows, suspected_labels
from mmbatch.workspace import Workspace


def planted(rows: FoldRows, *, share: float, seed: int) -> tuple[FoldRows, npt.NDArray[np.bool_]]:
    """The rows with another category for a share of them, and which ones, bool `[N]`."""
    rng = np.random.default_rng(seed)
    wrong_N = np.zeros(len(rows.codes), bool)
    wrong_N[rng.choice(len(wrong_N), round(share * len(wrong_N)), replace=False)] = True
    shift_N = rng.integers(1, len(rows.categories), len(wrong_N))
    codes_N = np.where(wrong_N, (rows.codes + shift_N) % len(rows.categories), rows.codes)
    keys = rows.keys.set_column(rows.keys.schema.get_field_index("code"), "code", pa.array(codes_N))
    return replace(rows, keys=keys), wrong_N


def main() -> None:
    """Replace labels, look for them, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    workspace = Workspace.open(flags.workspace)
    rows = FoldRows.of(workspace, newest_encoders(workspace))
    if rows is None:
        parser.error(f"--workspace {flags.workspace}: expected labelled products of two categories at least")
    spoilt, wrong_N = planted(rows, share=flags.share, seed=flags.seed)
    start = time.monotonic()
    found = suspected_labels(spoilt)
    seconds = time.monotonic() - start
    place = {product: at for at, product in enumerate(rows.keys["product_id"].to_pylist())}
    suspects = np.array([place[product] for product in found.rows["product_id"].to_pylist()], np.int64)
    hits = suspects[wrong_N[suspects]]
    suggested = np.array(found.rows["suggested_category"].to_pylist(), object)[wrong_N[suspects]]
    named = int((suggested == np.array(rows.categories, object)[rows.codes[hits]]).sum())
    figures = {
        "rows": len(wrong_N),
        "categories": len(rows.categories),
        "judged": found.judged,
        "planted": int(wrong_N.sum()),
        "suspected": len(suspects),
        "found": len(hits),
        "precision": len(hits) / max(1, len(suspects)),
        "recall": len(hits) / max(1, int(wrong_N.sum())),
        "recall_of_judged": len(hits) / max(1, int(wrong_N[spoilt.judged].sum())),
        "true_category_suggested": named / max(1, len(hits)),
        "seconds": seconds,
    }
    report(
        f"{figures['suspected']:,} of {figures['rows']:,} labels suspected, {figures['found']:,} of "
        f"{figures['planted']:,} replaced ones among them: precision {figures['precision']:.1%}, recall "
        f"{figures['recall']:.1%}, {seconds:.0f} s",
        figures,
    )


if __name__ == "__main__":
    main()
