"""What fine-tuning gains: macro-F1 of a fine-tuned encoder beside its frozen twin, on the same rows.

    python -m benchmarks.finetuning --source FILE --weights DIR --folder DIR --encoder NAME [--level 1] [--seeds 5]
                                    [--rows N] [--training learning_rate=1e-4 epochs=3]

Both encode the catalog; both get the same linear probe (`mmbatch.fusion.probe`), fitted on the vectors of the train
rows and scored on the test rows. The kept epoch was chosen on the fusion rows. One workspace per seed lies in
`--folder`, so that a run that was interrupted goes on. `NAME` is an encoder of `RECIPES`; `--rows` takes a random part
of the source. Prints a line per seed, and mean and standard deviation.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.running import report
from jobs._recipe import changed
from mmbatch.encoders import Encoder, build_encoder, encode_prepared, engine_for, load_encoder
from mmbatch.fusion.probe import fit_probe, unit
from mmbatch.metrics import f1_scores
from mmbatch.models import fetch_model
from mmbatch.pipelines.finetune import Resources, finetune, subjects_of
from mmbatch.pipelines.ingest import ingest
from mmbatch.presets import preset_named
from mmbatch.training import Augmentation, EncoderRecipe, Training
from mmbatch.workspace import Settings, Workspace

FLIPKART = preset_named("flipkart-small")

_TEXT = EncoderRecipe(
    name="",
    modality="text",
    kind="transformers",
    arguments={},
    training=Training(
        epochs=3, batch_size=32, learning_rate=2e-4, classifier_learning_rate=2e-3, label_smoothing=0.1, layer_decay=0.9
    ),
)

_IMAGE = EncoderRecipe(
    name="efficientnet-lite0",
    modality="image",
    kind="timm",
    arguments={"model": "tf_efficientnet_lite0"},
    training=Training(
        epochs=9,
        batch_size=32,
        learning_rate=3e-4,
        classifier_learning_rate=3e-3,
        label_smoothing=0.1,
        dropout=0.2,
        frozen=("backbone.conv_stem", "backbone.bn1", *(f"backbone.blocks.{block}" for block in range(4))),
        augmentation=Augmentation(),
        frozen_batch_norm=True,
    ),
)

RECIPES = {recipe.name: recipe for recipe in (*FLIPKART.encoders, _IMAGE)} | {
    name: replace(_TEXT, name=name, arguments={"model": model, "max_length": 64})
    for name, model in (
        ("minilm-fr", "sentence-transformers/all-MiniLM-L6-v2"),
        ("e5-fr", "intfloat/multilingual-e5-small"),
    )
}
"""Those of the preset flipkart-small, but for photos, which it leaves frozen; and two for `cdiscount_fr_50k`."""


def workspace_of(flags: argparse.Namespace, seed: int) -> Workspace:
    """A workspace with the catalog in it."""
    folder = Path(flags.folder) / f"level{flags.level}-seed{seed}"
    if Workspace.exists(str(folder / "workspace")):
        return Workspace.open(str(folder / "workspace"))
    folder.mkdir(parents=True, exist_ok=True)
    rows = pq.read_table(flags.source)
    if flags.rows:
        rows = rows.take(pa.array(np.random.default_rng(seed).permutation(rows.num_rows)[: flags.rows]))
    pq.write_table(rows, folder / "source.parquet", row_group_size=5_000)
    settings = Settings(preset=FLIPKART.name, level=flags.level, seed=seed, buckets=8)
    workspace = Workspace.create(str(folder / "workspace"), settings)
    columns = replace(FLIPKART.columns, image=FLIPKART.columns.image if "image" in rows.column_names else None)
    ingest(workspace, source=str(folder / "source.parquet"), columns=columns)
    return workspace


def vectors_of(encoder: Encoder, table: pa.Table) -> np.ndarray:
    """Vectors of the table's rows; zeros where a row has nothing to encode."""
    engine = engine_for(encoder.eval(), "cpu", threads=os.cpu_count() or 1, contents=table.num_rows)
    vectors = np.zeros((table.num_rows, encoder.width), np.float32)
    for start in range(0, table.num_rows, 512):
        prepared = encoder.prepare(table.slice(start, 512))
        vectors[start + prepared.good] = encode_prepared(encoder, engine, prepared.inputs)
    return vectors


def probed(vectors: np.ndarray, codes: np.ndarray, splits: np.ndarray, classes: int) -> float:
    """Macro-F1 on the test rows of a linear probe that was fitted on the train rows."""
    train, test = splits == "train", splits == "test"
    weight, bias = fit_probe(lambda: [(vectors[train], codes[train])], width=vectors.shape[1], classes=classes)
    return f1_scores(codes[test], (unit(vectors[test]) @ weight.T + bias).argmax(axis=1)).macro


def measure(flags: argparse.Namespace, recipe: EncoderRecipe, seed: int) -> dict[str, float]:
    """Both twins on one split of the rows."""
    workspace = workspace_of(flags, seed)
    (subject,) = subjects_of(workspace, [recipe], weights=flags.weights)
    model = finetune(subject, recipe.training, Resources())
    assert model is not None
    rows = subject.rows
    source = pq.read_table(Path(workspace.uri).parent / "source.parquet")
    table = source.take(pc.index_in(pa.array(rows["product_id"]), value_set=source["product_id"].combine_chunks()))
    frozen = build_encoder(recipe.kind, weights=flags.weights, seed=seed, **recipe.arguments)
    given = (rows["code"].to_numpy(), rows["split"].to_numpy(str), len(subject.labels.categories))
    return {
        "frozen": probed(vectors_of(frozen, table), *given),
        "fine-tuned": probed(vectors_of(load_encoder(fetch_model(model)), table), *given),
        "test_rows": float((rows["split"] == "test").sum()),
    }


def main() -> None:
    """Measure every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--source", "--weights", "--folder"):
        parser.add_argument(flag, required=True, type=os.path.abspath)
    parser.add_argument("--encoder", required=True, choices=RECIPES)
    for flag, default in (("--level", 1), ("--seeds", 5), ("--rows", 0)):
        parser.add_argument(flag, type=int, default=default)
    parser.add_argument("--training", nargs="*", default=())
    flags = parser.parse_args()
    recipe = RECIPES[flags.encoder]
    recipe = replace(recipe, training=changed(recipe.training, flags.training))
    found: list[dict[str, Any]] = []
    for seed in range(flags.seeds):
        found.append(measure(flags, recipe, seed))
        report(f"{flags.encoder} level {flags.level} seed {seed}: {found[-1]}", {"seed": seed} | found[-1])
    for twin in ("frozen", "fine-tuned"):
        scores = np.array([one[twin] for one in found])
        report(f"{twin}: {scores.mean():.4f} ± {scores.std():.4f}", {"twin": twin, "mean": scores.mean()})
    gains = np.array([one["fine-tuned"] - one["frozen"] for one in found])
    report(f"gain: {gains.mean():.4f} ± {gains.std():.4f}", {"gain": gains.mean(), "each": gains.tolist()})


if __name__ == "__main__":
    main()
