"""The preset `flipkart` on products of the Flipkart sample over several seeds: text, image, and both concatenated.

    python -m benchmarks.flipkart --source flipkart_1050.parquet --weights DIR --workspaces DIR [--seeds 0 1 2 3 4]
        [--vectors glove.6B.50d] [--network tf_efficientnet_lite0]

`--vectors` and `--network` name what there is in place of the preset's GloVe vectors of 100 numbers and MobileNet, each
frozen as those are; everything else is the preset's. A seed has a workspace of its own, where the job finds what is
done, so that seeds may be run one after the other, on several days. Prints a Markdown table over all seeds that are
done: mean and standard deviation of micro-F1 in percent, and the test rows' macro-F1.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from jobs.pipeline import run_stages
from mmbatch.pipelines.ingest import ingest
from mmbatch.presets import Preset
from mmbatch.presets.flipkart import FLIPKART, FLIPKART_SMALL
from mmbatch.runs import last_run
from mmbatch.workspace import Settings, Workspace, normalise_uri

SPLITS = {"train": "train", "fusion": "validation", "test": "test"}
"""Split of a workspace -> what the published table calls it."""


def preset_with(vectors: str, network: str) -> Preset:
    """The preset with these word vectors and this image network, an encoder named after what it is."""
    text, image = FLIPKART.encoders
    same = network == image.arguments["model"]
    return replace(
        FLIPKART,
        encoders=(
            replace(text, name=f"bilstm-{vectors}", arguments={**text.arguments, "vectors": vectors}),
            image if same else replace(image, name=network, arguments={**image.arguments, "model": network}),
        ),
    )


def run(folder: Path, preset: Preset, *, source: str, weights: str, seed: int) -> None:
    """The whole job of one seed; what of it is done is found."""
    uri = str(folder / f"seed{seed}")
    settings = Settings(preset=preset.name, level=preset.level, seed=seed, buckets=4, top_classes=preset.top_classes)
    made = Workspace.open(uri) if Workspace.exists(uri) else Workspace.create(uri, settings)
    with made.writing("pipeline") as workspace:
        ingest(workspace, source=source, columns=FLIPKART_SMALL.columns)
        run_stages(workspace, preset, weights=weights)


def scores_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Role and model -> its rows of the evaluation's table, of every seed that is done."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for uri in sorted(folder.glob("seed*")):
        done = last_run(Workspace.open(str(uri)), "evaluate")
        for row in done["counts"]["table"] if done else []:
            found[f"{row['role']}: {row['model']}"].append(row)
    return found


def table_of(scores: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each model: micro-F1 on every split, macro-F1 on test rows."""
    columns = [("micro", split, f"{name}, micro-F1") for split, name in SPLITS.items()]
    columns.append(("macro", "test", "test, macro-F1"))
    lines = [" | ".join(["| model", "seeds", *(name for _, _, name in columns)]) + " |", "|---" * 6 + "|"]
    for model, rows in scores.items():
        cells = [_mean([row[figure] for row in rows if row["split"] == split]) for figure, split, _ in columns]
        seeds = sum(row["split"] == "test" for row in rows)
        lines.append(" | ".join([f"| {model}", str(seeds), *cells]) + " |")
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f}{spread}"


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--workspaces", required=True, type=Path, help="folder for one workspace per seed")
    parser.add_argument("--seeds", type=int, nargs="*", default=range(5), help="none: the table only")
    parser.add_argument("--vectors", default=FLIPKART.encoders[0].arguments["vectors"])
    parser.add_argument("--network", default=FLIPKART.encoders[1].arguments["model"])
    flags = parser.parse_args()
    for seed in flags.seeds:
        preset = preset_with(flags.vectors, flags.network)
        run(flags.workspaces.absolute(), preset, source=flags.source, weights=normalise_uri(flags.weights), seed=seed)
    ray.shutdown()
    scores = scores_of(flags.workspaces)
    print(table_of(scores))
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
