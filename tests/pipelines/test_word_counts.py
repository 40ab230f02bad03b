"""The words of the train rows are counted in Ray tasks, bucket by bucket."""

from collections.abc import Iterator

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from mmbatch.catalog import Catalog
from mmbatch.errors import InputError
from mmbatch.pipelines import word_counts
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.word_counts import most_frequent_words
from mmbatch.sources import Columns
from mmbatch.workspace import Settings, Workspace

pytestmark = pytest.mark.filterwarnings("ignore::Warning:ray")
"""Ray warns of its own settings while it makes its context."""

TITLES = {
    "train": ["Red mugs", "Blue MUGS", "the red lamp", "shirts", "a shirt with buttons", "mug", "red", None],
    "fusion": ["kettle kettle kettle kettle kettle"],
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """Nine products in four buckets; two have the same text."""
    folder = tmp_path_factory.mktemp("counted")
    titles = [*TITLES["train"], *TITLES["fusion"]]
    source = {"id": [f"p{i}" for i in range(len(titles))], "title": titles}
    pq.write_table(pa.table(source), folder / "source.parquet")
    workspace = Workspace.create(str(folder / "w"), Settings(preset="sample", level=1, seed=0, buckets=4))
    ingest(workspace, source=str(folder / "source.parquet"), columns=Columns(id="id", title="title"))
    yield Catalog(workspace=workspace)
    ray.shutdown()


def rows_of(catalog: Catalog) -> pd.DataFrame:
    keys = catalog.keys().to_pandas().rename(columns={"text_hash": "content_hash"})
    split = ["fusion" if int(product[1:]) >= len(TITLES["train"]) else "train" for product in keys["product_id"]]
    return keys.assign(split=split)[keys["content_hash"].notna()]


def test_the_most_frequent_words_of_the_train_rows_come_first(catalog: Catalog) -> None:
    rows = rows_of(catalog)
    assert rows["bucket"].nunique() > 1
    assert most_frequent_words(catalog, rows, language="en", most=100) == [
        "mug", "red", "shirt", "blue", "button", "lamp",
    ]  # fmt: skip
    assert most_frequent_words(catalog, rows.sample(frac=1, random_state=0), language="en", most=2) == ["mug", "red"]


def test_a_bucket_reports_no_more_words_than_it_may(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(catalog)
    bucket, part = max(rows[rows["split"] == "train"].groupby("bucket"), key=lambda group: len(group[1]))
    unit = {"bucket": bucket, "hashes": part["content_hash"].tolist()}
    [every] = word_counts._count(unit, catalog=catalog, language="en", most=100)
    monkeypatch.setattr(word_counts, "TEXTS", 1)
    [few] = word_counts._count(unit, catalog=catalog, language="en", most=1)
    assert len(every["words"]) > 1
    assert few == {"words": every["words"][:1], "counts": every["counts"][:1]}
    assert every["counts"] == sorted(every["counts"], reverse=True)


def test_an_unknown_language_is_refused_before_ray_starts(catalog: Catalog) -> None:
    with pytest.raises(InputError, match="language 'xx'"):
        most_frequent_words(catalog, rows_of(catalog), language="xx", most=2)
