"""What an epoch of a fusion head costs over stored features, and what it costs where the encoders run again.

    python -m benchmarks.head_epochs --workspace WS [--epochs 2]

The workspace is one that `jobs.pipeline` has filled. The same head is trained twice on the same rows in the same order:
over the feature store, and over vectors that the frozen encoders compute anew in every epoch, as the notebooks of the
published systems do. Prints seconds of an epoch each, their ratio, and the largest difference between the two heads'
weights and log-losses on the fusion rows.
"""

import argparse
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import torch

from benchmarks.running import report
from mmbatch.catalog import HASH_COLUMNS, Catalog
from mmbatch.encoders import Encoder, encode_prepared, engine_for, load_encoder
from mmbatch.encoders.engine import Engine
from mmbatch.fusion.levels import Levels
from mmbatch.models import fetch_model, newest_encoders
from mmbatch.pipelines.dealing import Deal
from mmbatch.pipelines.feature_rows import FeatureRows, Unit, Vectors, rows_per_bucket
from mmbatch.pipelines.head_loop import HeadLoop, Trained
from mmbatch.pipelines.rows import training_labels
from mmbatch.presets import preset_named
from mmbatch.schema import Split
from mmbatch.workspace import Workspace


@dataclass(frozen=True)
class EncodedRows(FeatureRows):
    """The same rows; vectors of train rows are computed anew whenever they are read."""

    def load(self, split: Split, unit: int) -> Vectors:
        rows = super().load(split, unit)
        if split != "train":
            return rows
        whole = self.units(split)[unit]
        anew = {name: (self._anew(name, whole, *stored), stored[1]) for name, stored in rows.features.items()}
        return Vectors(anew, rows.codes)

    def _anew(self, name: str, unit: Unit, vectors: np.ndarray, present: np.ndarray) -> np.ndarray:
        encoder, engine = self._engines[name]
        catalog, column, found = Catalog(workspace=self.workspace), HASH_COLUMNS[encoder.modality], []
        for bucket in unit.buckets:
            rows = catalog.labels([bucket])
            hashes = rows.filter(pc.equal(rows["split"], "train"))[column].drop_null().combine_chunks()
            prepared = encoder.prepare(catalog.content(encoder.modality, bucket, hashes))
            found.append(encode_prepared(encoder, engine, prepared.inputs))
        anew = np.zeros_like(vectors)
        anew[present] = np.concatenate(found)
        return anew

    @cached_property
    def _engines(self) -> dict[str, tuple[Encoder, Engine]]:
        encoders = {model.name: load_encoder(fetch_model(model)) for model in self.encoders}
        threads = torch.get_num_threads()
        return {name: (one, engine_for(one, "cpu", threads=threads, contents=0)) for name, one in encoders.items()}


class Run(NamedTuple):
    """One way to train."""

    seconds: float
    """Of an epoch."""
    weights: np.ndarray
    log_loss: float


def run(rows: FeatureRows, epochs: int) -> Run:
    """Train the preset's head."""
    workspace = rows.workspace
    recipe = replace(preset_named(workspace.settings.preset).head, epochs=epochs)
    levels = Levels.of(training_labels(Catalog(workspace=workspace)).taxonomy, recipe.level_weights)
    inputs = {
        "widths": {model.name: int(model.card["width"]) for model in rows.encoders},
        "modalities": {model.name: model.card["modality"] for model in rows.encoders},
        "classes": levels.classes,
    }
    loop, done = HeadLoop(Deal(rows), recipe, levels, inputs, 0, 0, torch.device("cpu")), Trained(recipe.kinds[0])
    for split in ("train", "fusion"):
        list(rows.read(split))  # models are loaded and the first read is over
    started = time.perf_counter()
    head = loop.run(done, keep=lambda _: None)
    seconds = (time.perf_counter() - started) / epochs
    return Run(seconds, torch.cat([one.detach().flatten() for one in head.parameters()]).numpy(), done.log_loss)


def main() -> None:
    """Train both ways and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--epochs", type=int, default=2)
    flags = parser.parse_args()
    workspace = Workspace.open(flags.workspace)
    labels = training_labels(Catalog(workspace=workspace))
    given = (workspace, newest_encoders(workspace), labels.categories, rows_per_bucket(labels))
    stored, again = run(FeatureRows(*given), flags.epochs), run(EncodedRows(*given), flags.epochs)
    for name, found in (("stored features", stored), ("encoders run again", again)):
        report(
            f"{name}: {found.seconds:.3f} s an epoch, log-loss {found.log_loss:.5f}", {"way": name, "s": found.seconds}
        )
    off = float(np.abs(stored.weights - again.weights).max())
    ratio = again.seconds / stored.seconds
    report(f"ratio {ratio:.0f}, largest difference of a weight {off:.1e}", {"ratio": ratio, "difference": off})


if __name__ == "__main__":
    main()
