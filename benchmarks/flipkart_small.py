"""The whole job on 1,050 Flipkart products over several seeds, beside linear baselines on the same splits.

    python -m benchmarks.flipkart_small --source flipkart_1050.parquet --weights DIR --workspaces DIR [--seeds 5]

Baselines: TF-IDF, frozen MiniLM and frozen EfficientNet-Lite0 under logistic regression (C=10), and the average of the
three's probabilities. They are fitted on train and fusion rows, the job's models on train rows (late fusion: fusion
rows); all are scored on test rows. Prints a Markdown table: mean and standard deviation over the seeds.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from mmbatch.catalog import Catalog
from mmbatch.encoders import Encoder, build_encoder, encode
from mmbatch.metrics import f1_scores
from mmbatch.workspace import Workspace

Scores = dict[str, tuple[float, float]]


def run_pipeline(source: str, weights: str, workspace: Path, seed: int) -> Scores:
    """Test macro- and micro-F1 of every model of one run of the job."""
    flags = ["--workspace", str(workspace), "--source", source, "--weights", weights, "--seed", str(seed), "--json"]
    command = [sys.executable, "-m", "jobs.pipeline", "--preset", "flipkart-small", *flags]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    table = json.loads(done.stdout)["evaluate"]["counts"]["table"]
    return {row["model"]: (row["macro"], row["micro"]) for row in table if row["split"] == "test"}


def frozen_vectors(source: str, weights: str) -> dict[str, np.ndarray]:
    """L2-normalised vectors of the pretrained encoders; zeros where a product has no image."""
    rows = pq.read_table(source)
    encoders: dict[str, Encoder] = {
        "MiniLM (frozen)": build_encoder(
            "transformers", weights=weights, seed=0, model="sentence-transformers/all-MiniLM-L6-v2", max_length=256
        ),
        "EfficientNet-Lite0 (frozen)": build_encoder("timm", weights=weights, seed=0, model="tf_efficientnet_lite0"),
    }
    found = {}
    for name, encoder in encoders.items():
        encoder.eval()
        vectors = np.zeros((rows.num_rows, encoder.width), np.float32)
        for start in range(0, rows.num_rows, 32):
            prepared = encoder.prepare(rows.slice(start, 32))
            vectors[start + prepared.good] = encode(encoder, prepared.inputs, torch.device("cpu"))
        found[name] = normalize(vectors)
    return found


def baselines(source: str, vectors: Mapping[str, np.ndarray], split: pd.Series) -> Scores:
    """Test macro- and micro-F1 of the linear models on one split."""
    rows = pq.read_table(source).to_pandas()
    texts = (rows["title"].fillna("") + ". " + rows["description"].fillna("")).tolist()
    gold = pd.factorize(rows["category_path"].map(lambda path: path[0]), sort=True)[0]
    side = rows["product_id"].map(split)
    train, test = np.flatnonzero(side != "test"), np.flatnonzero(side == "test")
    tfidf = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, strip_accents="unicode")
    inputs = {"TF-IDF": (tfidf.fit_transform([texts[i] for i in train]), tfidf.transform([texts[i] for i in test]))}
    inputs |= {name: (vector[train], vector[test]) for name, vector in vectors.items()}
    probabilities = {
        name: LogisticRegression(C=10, max_iter=1000).fit(fit, gold[train]).predict_proba(score)
        for name, (fit, score) in inputs.items()
    }
    probabilities["average of the three"] = np.mean(list(probabilities.values()), axis=0)
    scores = {name: f1_scores(gold[test], p.argmax(axis=1)) for name, p in probabilities.items()}
    return {name: (score.macro, score.micro) for name, score in scores.items()}


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--workspaces", required=True, type=Path, help="folder for one workspace per seed")
    parser.add_argument("--seeds", type=int, default=5)
    flags = parser.parse_args()
    vectors = frozen_vectors(flags.source, flags.weights)
    runs: dict[str, list[tuple[float, float]]] = {}
    for seed in range(flags.seeds):
        workspace = flags.workspaces / f"seed{seed}"
        scores = run_pipeline(flags.source, flags.weights, workspace, seed)
        labels = Catalog(workspace=Workspace.open(str(workspace))).labels().to_pandas()
        scores = baselines(flags.source, vectors, labels.set_index("product_id")["split"]) | scores
        for name, pair in scores.items():
            runs.setdefault(name, []).append(pair)
        print(seed, {name: round(macro, 4) for name, (macro, _) in scores.items()}, file=sys.stderr, flush=True)
    print("| model | macro-F1 | micro-F1 |\n|---|---|---|")
    for name, pairs in runs.items():
        (macro, micro), (macro_sd, micro_sd) = np.mean(pairs, axis=0), np.std(pairs, axis=0, ddof=1)
        print(f"| {name} | {macro:.4f} ± {macro_sd:.4f} | {micro:.4f} ± {micro_sd:.4f} |")


if __name__ == "__main__":
    main()
