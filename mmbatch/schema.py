"""Column names and Arrow types of every table, with units and what null means.

Every table is partitioned by `bucket`, a stable hash of the product id (`bucket_of`), so that a slice of one
table joins with the same slice of any other without a shuffle.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

Modality = Literal["image", "text"]
Content = Literal["image", "text", "both"]
"""What a vector is computed from: a product's content of one modality, or its text and image together."""
Split = Literal["train", "fusion", "calibration", "golden", "test"]

MODALITIES: tuple[Modality, ...] = ("image", "text")
SPLITS: tuple[Split, ...] = ("train", "fusion", "calibration", "golden", "test")

PATH_SEPARATOR = " > "
"""Joins the levels of a label path into one string for people; a level name never contains it."""

SOURCE = pa.schema(
    [
        ("product_id", pa.string()),
        ("title", pa.string()),
        ("description", pa.string()),
        ("image", pa.binary()),  # encoded file (JPEG, PNG, WebP, GIF, BMP); null: none
        ("image_uri", pa.string()),  # where `image` was read from; null: the bytes came inside the source
        ("label", pa.list_(pa.string())),  # category path, root first; null: not labelled
        ("image_hash", pa.string()),  # of an image that is stored and was not fetched again; null: of `image`, or none
        ("deleted", pa.bool_()),  # the row of a feed says that the product is gone: it has an id and nothing else
        ("position", pa.int64()),  # row number in its source file, from 0
    ]
)
"""One checked row of a raw file, whatever its format and column names were."""

CATALOG = pa.schema(
    [
        ("product_id", pa.string()),
        ("title", pa.string()),  # null: none
        ("description", pa.string()),  # null: none
        ("image_uri", pa.string()),  # null: the bytes came inside the source, or there is no image
        ("label", pa.list_(pa.string())),  # category path, root first; null: not labelled
        ("text_hash", pa.string()),  # 128 bits, hex, of title and description; null: neither
        ("title_hash", pa.int64()),  # 64 bits of the title alone, which tell what of a text was edited; null: none
        ("description_hash", pa.int64()),  # likewise
        ("image_hash", pa.string()),  # 128 bits, hex, of the image file's bytes; null: no image
        ("source", pa.string()),  # URI of the file the row came from
        ("bucket", pa.int32()),
    ]
)
"""One row per product: what the catalog says now."""

IMAGES = pa.schema([("image_hash", pa.string()), ("image", pa.binary()), ("bucket", pa.int32())])
"""Image files that came as bytes or from the web, by content: a changed title never rewrites one."""

SPLIT = pa.schema([("product_id", pa.string()), ("split", pa.string()), ("bucket", pa.int32())])
"""Which labelled product may be used for what: append-only, so that no split is ever drawn twice."""

CORRECTIONS = pa.schema(
    [
        ("correction_id", pa.string()),
        ("product_id", pa.string()),
        ("label", pa.list_(pa.string())),  # category path by a person, root first; null: earlier ones are taken back
        ("label_before", pa.list_(pa.string())),  # what counted when the person looked; null: no label
        ("corrected", pa.timestamp("us", tz="UTC")),
        ("author", pa.string()),
        ("run_id", pa.string()),  # that published the prediction which the person saw; null: there was none
        ("bucket", pa.int32()),
    ]
)
"""One row per label that a person gave: append-only; of a product, the newest counts."""

FEATURES = pa.schema(
    [
        ("product_id", pa.string()),
        ("content_hash", pa.string()),  # what it was computed from: text_hash, image_hash, or a hash of these two
        ("vector", pa.binary()),  # little-endian float16 [width], fixed size
        ("bucket", pa.int32()),
    ]
)
"""One row per product and content that an encoder, or a head over sequences, has seen; its name is the table's."""

SEQUENCES = pa.schema(
    [
        ("product_id", pa.string()),
        ("content_hash", pa.string()),  # text_hash or image_hash the states were computed from
        ("length", pa.int32()),  # tokens, words or patches, at least 1
        ("states", pa.large_binary()),  # little-endian float16 [length, width], in the order of the text or the photo
        ("bucket", pa.int32()),
    ]
)
"""One row per product and content of which the states of an encoder are kept; the encoder is in the table's name."""

PREDICTIONS = pa.schema(
    [
        ("product_id", pa.string()),
        ("label", pa.list_(pa.string())),  # predicted category path, root first; null: to be reviewed
        ("category", pa.string()),  # the same path as one string, levels joined by PATH_SEPARATOR; null: as `label`
        ("confidence", pa.float32()),  # probability of `label`, 0..1
        ("top_categories", pa.list_(pa.string())),  # best first; null: to be reviewed
        ("top_probabilities", pa.list_(pa.float32())),  # of `top_categories`
        ("model_categories", pa.map_(pa.string(), pa.string())),  # model -> its own best category
        ("model_probabilities", pa.map_(pa.string(), pa.float32())),  # model -> its probability for that
        ("decision", pa.string()),  # accepted | backed_off | review
        ("decided_category", pa.string()),  # `category` where accepted, else an inner node; null: to be reviewed
        ("modality_text", pa.float32()),  # contribution to the score of `category`, in nats; null: not explained
        ("modality_image", pa.float32()),
        ("modality_fused", pa.float32()),
        ("predictor", pa.string()),  # name@fingerprint; with edits of the taxonomy: see docs/tables.md
        ("text_hash", pa.string()),  # inputs the prediction was made from; null: modality missing
        ("title_hash", pa.int64()),  # as in the catalog when the prediction was made
        ("description_hash", pa.int64()),
        ("image_hash", pa.string()),
        ("quarantined", pa.list_(pa.string())),  # modalities that are missing because they are in quarantine, sorted
        ("run_id", pa.string()),
        ("bucket", pa.int32()),
    ]
)
"""One row per product: always what is published."""

CHANGES = pa.schema(
    [
        ("product_id", pa.string()),
        ("category_before", pa.string()),  # as `category` of PREDICTIONS; null: no prediction, or to be reviewed
        ("category_after", pa.string()),
        ("decided_before", pa.string()),  # as `decided_category`
        ("decided_after", pa.string()),
        ("confidence_before", pa.float32()),  # null: no prediction
        ("confidence_after", pa.float32()),
        ("reason", pa.string()),  # new | removed | title | description | image | encoder | head | taxonomy | rollback
        ("differing", pa.list_(pa.string())),  # all of title ... taxonomy in which the two predictions' inputs differ
        ("run_id", pa.string()),  # of the run that published the change
        ("bucket", pa.int32()),
    ]
)
"""One row per product and publication that changed its category, or what was decided."""

QUARANTINE = pa.schema(
    [
        ("quarantine_id", pa.string()),  # stable hash of everything below but run_id: a row is kept once
        ("stage", pa.string()),  # ingest | extract
        ("source", pa.string()),  # URI of the raw file, or the table it came from
        ("position", pa.int64()),  # row number in `source`, from 0; null: not a row of a raw file
        ("product_id", pa.string()),  # null: the row has none
        ("modality", pa.string()),  # null: the whole row was rejected; else only this part of it
        ("reason", pa.string()),  # reason code, see docs/quarantine.md
        ("message", pa.string()),  # what was found, for a person
        ("run_id", pa.string()),
        ("bucket", pa.int32()),
    ]
)
"""What is rejected at present, each thing once."""

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("job", pa.string()),
        ("started", pa.timestamp("us", tz="UTC")),
        ("seconds", pa.float64()),
        ("settings", pa.string()),  # JSON: what decided the outcome
        ("counts", pa.string()),  # JSON: rows by outcome, and everything else the run reports
        ("versions", pa.string()),  # JSON: table -> version after the run
    ]
)
"""The run ledger: one row per finished run."""

TRIALS = pa.schema(
    [
        ("run_id", pa.string()),  # of the sweep that tried it
        ("encoder", pa.string()),  # name, without a fingerprint
        ("trial", pa.int32()),  # number within the sweep; 0: the recipe itself
        ("recipe", pa.string()),  # digest, as in the card of a model that was made by it
        ("learning_rate", pa.float64()),  # this field and those below: as in mmbatch.training.Training
        ("classifier_learning_rate", pa.float64()),
        ("batch_size", pa.int32()),
        ("weight_decay", pa.float64()),
        ("label_smoothing", pa.float64()),
        ("dropout", pa.float64()),
        ("layer_decay", pa.float64()),
        ("epochs", pa.int32()),  # finished ones
        ("macro_f1", pa.float64()),  # of the best epoch, on the fusion rows; null: none was finished
        ("scores", pa.list_(pa.float64())),  # macro_f1 after each epoch
        ("seconds", pa.float64()),  # of its epochs
        ("stopped", pa.bool_()),  # before its last epoch, as others were better
        ("reason", pa.string()),  # why it failed; null: it did not
        ("bucket", pa.int32()),
    ]
)
"""One row per recipe that a sweep tried, and one more each time that a failed one is tried again."""


def bucket_of(product_ids: pa.Array | pa.ChunkedArray | Sequence[str], buckets: int) -> np.ndarray:
    """Bucket of each product, int32 `[N]`, in `range(buckets)`.

    The hash is pandas' SipHash of the id's UTF-8 bytes: vectorised and the same on every machine and version.
    """
    ids = np.asarray(product_ids, dtype=object)
    return np.asarray(pd.util.hash_array(ids, categorize=False) % np.uint64(buckets), dtype=np.int32)
