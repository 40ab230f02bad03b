"""What consistent decoding gains on a deep category tree, and how fast it is.

    python -m benchmarks.levels accuracy --source FILE --weights DIR --workspace NEW [--encoder NAME]
    python -m benchmarks.levels decode [--leaves 5000]

`accuracy` encodes the texts once with a frozen encoder and trains two concatenation heads on the train rows: one with a
classifier for each of three levels, one with a classifier for whole paths. On the test rows, those of categories that
no train row has included, it scores the first head's best class of each level by itself (`independent`), its best path
of the tree (`decoded`), and the second head (`paths`): accuracy of each level, hierarchical F1, and the share of
answers that are no path of the tree. `decode` times `Taxonomy.decode` on random scores of a tree of three levels.
"""

import argparse
import timeit
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from benchmarks.running import report, store_encoder
from mmbatch.catalog import Catalog
from mmbatch.encoders import build_encoder
from mmbatch.fusion.head import FusionHead
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_paths import Ints, LabelPath
from mmbatch.metrics import hierarchical_scores, level_accuracies
from mmbatch.models import Model
from mmbatch.pipelines.dealing import Deal
from mmbatch.pipelines.extract import extract, store_of
from mmbatch.pipelines.feature_rows import FeatureRows, as_tensors, rows_per_bucket
from mmbatch.pipelines.head_loop import HeadLoop, Trained
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.rows import path_of, training_labels
from mmbatch.presets import preset_named
from mmbatch.training import HeadRecipe
from mmbatch.workspace import Settings, Workspace

LEVELS = 3

RECIPE = HeadRecipe(
    hidden=512, dropout=0.1, epochs=20, batch_size=256, learning_rate=2e-3, weight_decay=0.01, label_smoothing=0.1
)


def prepared(flags: argparse.Namespace) -> tuple[Workspace, Model]:
    """A workspace with the catalog in it and every text's vector."""
    settings = Settings(preset="flipkart-small", level=LEVELS, seed=0, buckets=8)
    workspace = Workspace.create(flags.workspace, settings)
    columns = replace(preset_named("flipkart-small").columns, image=None)
    source = Path(flags.workspace).parent / "rows.parquet"
    pq.write_table(pq.read_table(flags.source), source, row_group_size=5_000)
    ingest(workspace, source=str(source), columns=columns)
    encoder = build_encoder("transformers", weights=flags.weights, seed=0, model=flags.encoder, max_length=64)
    model = store_encoder(workspace, "text", encoder.eval())
    extract(workspace, [model])
    return workspace, model


def trained(rows: FeatureRows, levels: Levels) -> FusionHead:
    """A concatenation head of one input: its projection, under one or several classifiers."""
    (model,) = rows.encoders
    inputs = {
        "widths": {model.name: model.card["width"]},
        "modalities": {model.name: "text"},
        "classes": levels.classes,
    }
    return HeadLoop(Deal(rows), RECIPE, levels, inputs, 0, 0, torch.device("cpu")).run(
        Trained("concatenation"), keep=lambda _: None
    )


def test_rows(workspace: Workspace, model: Model) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], list[LabelPath]]]:
    """Vectors and label paths of all test rows, a bucket at a time."""
    for bucket in range(workspace.settings.buckets):
        rows = Catalog(workspace=workspace).labels([bucket])
        rows = rows.filter(pc.equal(rows["split"], "test"))
        yield (
            store_of(workspace, model).read(rows["text_hash"], buckets=[bucket]),
            [path_of(category) for category in rows["category"].to_pylist()],
        )


def accuracy(flags: argparse.Namespace) -> None:
    """Train both heads and score the three ways to answer."""
    workspace, model = prepared(flags)
    labels = training_labels(Catalog(workspace=workspace))
    rows = FeatureRows(workspace, [model], labels.categories, rows_per_bucket(labels))
    by_level, whole = Levels.of(labels.taxonomy, (1.0,) * LEVELS), Levels.of(labels.taxonomy, ())
    heads = {"level": trained(rows, by_level), "path": trained(rows, whole)}
    answers: dict[str, list[Ints]] = {"independent": [], "decoded": [], "paths": []}
    gold: list[LabelPath] = []
    path_codes = labels.taxonomy.path_codes
    for vectors, paths in test_rows(workspace, model):
        gold += paths
        with torch.inference_mode():
            said = {name: head(*as_tensors({model.name: vectors})) for name, head in heads.items()}
        log_probs = [level.log_softmax(dim=1).numpy() for level in by_level.split(said["level"])]
        answers["independent"].append(labels.taxonomy.independent(log_probs))
        answers["decoded"].append(path_codes[by_level.best(said["level"])])
        answers["paths"].append(path_codes[whole.best(said["path"])])
    _tell(labels.taxonomy, gold, {name: np.concatenate(parts) for name, parts in answers.items()})


def _tell(taxonomy: Taxonomy, gold: list[LabelPath], answers: dict[str, Ints]) -> None:
    """Gold nodes that no train row has get codes of their own, which no answer is equal to."""
    known = taxonomy.codes(gold)
    depth = np.array([[len(path) > level for level in range(LEVELS)] for path in gold])
    codes = np.where(depth & (known < 0), np.array(taxonomy.levels), known)
    report(f"{len(gold):,} test rows, {taxonomy.levels} nodes, {len(taxonomy.paths):,} paths", {"rows": len(gold)})
    for name, said in answers.items():
        cut = _until_leaf(taxonomy, said)
        levels = level_accuracies(codes, said)
        invalid = 1 - taxonomy.is_valid(said).mean()
        scores = hierarchical_scores(codes, cut)
        report(
            f"| {name} | {' | '.join(f'{one:.4f}' for one in levels)} | {scores.f1:.4f} | {invalid:.2%} |",
            {"answer": name, "levels": levels.tolist(), "hierarchical_f1": scores.f1, "invalid": invalid},
        )


def _until_leaf(taxonomy: Taxonomy, codes: Ints) -> Ints:
    """Codes without what stands below a node that has no children: nobody would take that for an answer."""
    cut, at = codes.copy(), codes[:, 0]
    for level in range(1, LEVELS):
        has = np.isin(at, taxonomy.parents[level]) & (at >= 0)
        cut[~has, level:] = -1
        at = np.where(has, codes[:, level], -1)
    return cut


def decode(flags: argparse.Namespace) -> None:
    """Time decoding; a tree of about 60 and 600 inner nodes."""
    rng = np.random.default_rng(0)
    paths = {(f"{leaf % 57}", f"{leaf % 570}", f"{leaf}") for leaf in range(flags.leaves)}
    taxonomy = Taxonomy(tuple(paths))
    log_probs = [np.log(rng.dirichlet(np.ones(count), 10_000)).astype(np.float32) for count in taxonomy.levels]
    best = min(timeit.repeat(partial(taxonomy.decode, log_probs), number=1, repeat=3))
    rate = 10_000 / best
    report(f"{rate:,.0f} products/s over {taxonomy.levels}; 1,000,000 in {1e6 / rate:.0f} s", {"per_s": rate})


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    scored = parts.add_parser("accuracy")
    for flag in ("--source", "--weights", "--workspace"):
        scored.add_argument(flag, required=True)
    scored.add_argument("--encoder", default="intfloat/multilingual-e5-small")
    scored.set_defaults(run=accuracy)
    timed = parts.add_parser("decode")
    timed.add_argument("--leaves", type=int, default=5_000)
    timed.set_defaults(run=decode)
    flags = parser.parse_args()
    flags.run(flags)


if __name__ == "__main__":
    main()
