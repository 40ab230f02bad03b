"""Counts the words of the texts that an encoder learns from: its vocabulary."""

from collections import Counter
from functools import partial
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.catalog import Catalog
from mmbatch.encoders.cleaning import clean_words, require_language
from mmbatch.encoders.product_text import product_texts
from mmbatch.pipelines.cluster import start_ray, stream
from mmbatch.pipelines.resources import WORDS
from mmbatch.pipelines.rows import by_bucket

KEPT = 10
"""How many times as many words as are wanted a bucket reports, at most: what bounds the driver's memory.

A bucket is a random part of the products. A word that is among the most frequent of all is therefore among ten times
as many of a bucket, or so rare there that its count hardly matters; a bucket of fewer words reports all of them.
"""

TEXTS = 4096
"""Texts that are cleaned at a time."""


def most_frequent_words(catalog: Catalog, rows: pd.DataFrame, *, language: str, most: int) -> list[str]:
    """The most frequent words of the train rows' texts, cleaned: by falling count, then by the word.

    Equal catalogs give equal lists, whatever order the counts arrive in.

    Args:
        catalog: whose texts are counted.
        rows: `Labels.with_modality("text")`; only its train rows are read.
        language: of `mmbatch.encoders.cleaning.languages`; `InputError` for another one.
        most: words at most.
    """
    require_language(language)
    start_ray(catalog.workspace)
    units = [{"bucket": bucket, "hashes": part["content_hash"].tolist()} for bucket, part in by_bucket(rows, "train")]
    count = partial(_count, catalog=catalog.pinned(), language=language, most=KEPT * most)
    total: Counter[str] = Counter()
    for counted in stream(units, count, ask=WORDS):
        total.update(dict(zip(counted["words"], counted["counts"], strict=True)))
    return [word for word, _ in _ordered(total)[:most]]


def _count(unit: dict[str, Any], *, catalog: Catalog, language: str, most: int) -> list[dict[str, Any]]:
    """The `most` most frequent words of one bucket's rows, and how often each occurs."""
    texts = product_texts(catalog.content("text", unit["bucket"], pa.array(unit["hashes"], pa.string())))
    present = texts.drop_null().combine_chunks()
    total: Counter[str] = Counter()
    for start in range(0, len(present), TEXTS):
        found = pc.value_counts(clean_words(present.slice(start, TEXTS), language=language).values)
        words, counts = (found.field(name).to_pylist() for name in ("values", "counts"))
        total.update(dict(zip(words, counts, strict=True)))
    kept = _ordered(total)[:most]
    return [{"words": [word for word, _ in kept], "counts": [count for _, count in kept]}]


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
