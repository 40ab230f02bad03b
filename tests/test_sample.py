import io
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmbatch import sample
from mmbatch.errors import InputError
from mmbatch.sample import (
    LEAF_SHARES,
    SAME_DRAWING,
    SAME_WORDS,
    SAMPLE,
    SHARES,
    TAXONOMY,
    sample_batches,
    write_sample,
)
from mmbatch.sample_drawings import draw_picture
from mmbatch.sample_words import NOUNS, draw_product, write_description, write_title

ROWS = 5000
JPEG = b"\xff\xd8"
GOLDEN_TITLES = [
    "Seat Bergen by Vialdi - white SP-31813",
    "ROMAN POCHE BLUE LANTERN PRESS LES ENFANTS DU BROUILLARD, 192 PAGES, NO-62089",
]
"""Another random stream or vocabulary changes them: samples drawn before and after would not agree."""


def table(*, rows: int, seed: int = 0, start: int = 0, batch_rows: int = 1000) -> pa.Table:
    batches = sample_batches(rows=rows, seed=seed, start=start, batch_rows=batch_rows)
    return pa.Table.from_batches(batches, schema=SAMPLE)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return table(rows=ROWS).to_pylist()


def close(found: int, share: float) -> bool:
    """Whether a count of `ROWS` draws lies within four standard deviations of its expectation."""
    return abs(found - ROWS * share) <= 4 * np.sqrt(ROWS * share * (1 - share))


def is_readable(image: bytes) -> bool:
    try:
        Image.open(io.BytesIO(image)).load()
    except OSError:
        return False
    return True


def test_the_same_seed_draws_the_same_rows_and_another_seed_others() -> None:
    assert table(rows=60, seed=3).equals(table(rows=60, seed=3))
    first, other = table(rows=60, seed=3), table(rows=60, seed=4)
    assert not set(first["title"].to_pylist()) & set(other["title"].to_pylist())


def test_more_rows_keep_the_first_ones_whatever_the_batch_size() -> None:
    assert table(rows=300).slice(0, 120).combine_chunks().equals(table(rows=120, batch_rows=7).combine_chunks())


def test_any_slice_can_be_drawn_alone(rows: list[dict[str, Any]]) -> None:
    assert table(rows=90, start=4_321).to_pylist() == rows[4_321:4_411]


def test_the_first_words_stay_what_they_are(rows: list[dict[str, Any]]) -> None:
    assert [row["title"] for row in rows[:2]] == GOLDEN_TITLES


def test_rows_are_drawn_only_when_they_are_asked_for() -> None:
    batches = sample_batches(rows=10**12, seed=0, batch_rows=5)
    assert [batch.num_rows for batch in itertools.islice(batches, 3)] == [5, 5, 5]


def test_the_last_batch_holds_the_rest() -> None:
    assert [batch.num_rows for batch in sample_batches(rows=25, seed=0, batch_rows=10)] == [10, 10, 5]


@pytest.mark.parametrize("wrong", [{"rows": -1}, {"start": -1}, {"batch_rows": 0}])
def test_arguments_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} {next(iter(wrong.values()))}"):
        sample_batches(**{"rows": 10, "seed": 0, **wrong})


def test_every_leaf_is_present_under_its_department(rows: list[dict[str, Any]]) -> None:
    paths = {tuple(row["category_path"]) for row in rows if row["category_path"] is not None}
    assert paths == {(department, leaf) for department, leaves in TAXONOMY.items() for leaf in leaves}
    assert len(paths) == 24


def test_classes_are_heavy_tailed(rows: list[dict[str, Any]]) -> None:
    assert set(LEAF_SHARES) == {leaf for leaves in TAXONOMY.values() for leaf in leaves}
    assert sum(LEAF_SHARES.values()) == pytest.approx(1)
    assert min(LEAF_SHARES.values()) == pytest.approx(0.007, abs=0.0005)
    assert max(LEAF_SHARES.values()) > 0.2
    counts = Counter(row["category_path"][1] for row in rows if row["category_path"])
    labelled = 1 - SHARES["no_label"]
    assert all(close(counts[leaf], share * labelled) for leaf, share in LEAF_SHARES.items())


def test_shares_of_missing_parts(rows: list[dict[str, Any]]) -> None:
    assert close(sum(row["description"] is None for row in rows), SHARES["no_description"])
    assert close(sum(row["image"] is None for row in rows), SHARES["no_image"])
    assert close(sum(row["category_path"] is None for row in rows), SHARES["no_label"])


def test_images_are_small_jpegs_but_for_the_broken_ones(rows: list[dict[str, Any]]) -> None:
    images = [row["image"] for row in rows if row["image"] is not None]
    good = [image for image in images if is_readable(image)]
    assert close(len(images) - len(good), SHARES["broken_image"])
    broken = [image for image in images if not is_readable(image)]
    assert {image.startswith(JPEG) for image in broken} == {True, False}  # cut files, and other bytes
    first = Image.open(io.BytesIO(good[0]))
    assert (first.format, first.size, first.mode) == ("JPEG", (96, 96), "RGB")
    assert 1_500 < np.mean([len(image) for image in good]) < 4_000


def test_copies_have_an_id_of_their_own(rows: list[dict[str, Any]]) -> None:
    seen = Counter((row["title"], row["description"], row["image"]) for row in rows if row["title"])
    copies = sum(count - 1 for count in seen.values())
    assert close(copies, SHARES["same_content"])
    assert len(seen) == len({title for title, _, _ in seen})  # other products never share a title
    same = [row for row in rows if seen[row["title"], row["description"], row["image"]] > 1 and row["product_id"]]
    assert len({row["product_id"] for row in same}) >= len(same) - 1


def test_some_images_come_back_under_another_title(rows: list[dict[str, Any]]) -> None:
    titles: dict[bytes, set[str]] = {}
    for row in rows:
        if row["image"] and row["image"].startswith(JPEG):
            titles.setdefault(row["image"], set()).add(row["title"])
    assert close(sum(len(found) - 1 for found in titles.values()), SHARES["same_image"])


def test_every_kind_of_bad_row_is_there_and_rare(rows: list[dict[str, Any]]) -> None:
    ids = Counter(row["product_id"] for row in rows if row["product_id"])
    empty = [row for row in rows if row["title"] is None]
    bad = {
        "no_id": sum(row["product_id"] is None for row in rows),
        "same_id": sum(count - 1 for count in ids.values()),
        "empty": len(empty),
    }
    assert all(0 < count < 12 for count in bad.values()), bad
    assert all(row["description"] is None and row["image"] is None for row in empty)


def test_wrong_labels_are_other_leaves() -> None:
    labels = [sample._label(0, row, "Sofas") for row in range(ROWS)]
    wrong = [label for label in labels if label is not None and label != ["Furniture", "Sofas"]]
    assert close(len(wrong), SHARES["wrong_label"])
    assert all(leaf in TAXONOMY[department] for department, leaf in wrong)


def test_half_of_the_products_are_sold_in_french() -> None:
    languages = [draw_product(leaf="Lamps", rng=sample._stream(0, row, "t")).language for row in range(1000)]
    assert 430 < languages.count("fr") < 570
    assert set(languages) == {"en", "fr"}


@pytest.mark.parametrize("family", SAME_WORDS)
def test_words_of_image_told_leaves_are_alike(family: tuple[str, ...]) -> None:
    texts = set()
    for leaf in family:
        rng = sample._stream(0, 1, "text")
        product = draw_product(leaf=leaf, rng=rng)
        texts.add((write_title(product, rng), write_description(product, rng)))
    assert len(texts) == 1


@pytest.mark.parametrize("family", SAME_DRAWING)
def test_pictures_of_text_told_leaves_are_alike(family: tuple[str, ...]) -> None:
    colour = (190, 60, 60)
    assert len({draw_picture(leaf=leaf, colour=colour, rng=sample._stream(0, 1, "image")) for leaf in family}) == 1
    assert len({NOUNS[leaf]["fr"] for leaf in family}) == len(family)


def test_a_folder_of_files_holds_the_same_rows(tmp_path: Path) -> None:
    uris = write_sample(str(tmp_path / "new" / "raw"), rows=25, seed=7, rows_per_file=10)
    names = ["sample-seed7-000000000-000000010", "sample-seed7-000000010-000000020", "sample-seed7-000000020-000000025"]
    assert uris == [str(tmp_path / "new" / "raw" / f"{name}.parquet") for name in names]
    assert pa.concat_tables([pq.read_table(uri) for uri in uris]).to_pylist() == table(rows=25, seed=7).to_pylist()
    assert len(list((tmp_path / "new" / "raw").iterdir())) == 3


def test_files_that_are_there_are_not_drawn_again(tmp_path: Path) -> None:
    first, second = write_sample(str(tmp_path), rows=20, seed=7, rows_per_file=10)
    Path(first).write_bytes(b"kept")
    Path(second).unlink()
    assert write_sample(str(tmp_path), rows=30, seed=7, rows_per_file=10)[:2] == [first, second]
    assert Path(first).read_bytes() == b"kept"
    assert pq.read_table(second).to_pylist() == table(rows=10, seed=7, start=10).to_pylist()


def test_a_run_that_dies_while_writing_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = table(rows=1).to_batches()[0]
    while_writing: list[str] = []

    def dies(seed: int, first: int, end: int) -> pa.RecordBatch:
        if first < 1000:
            return one
        while_writing.extend(path.name for path in tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        write_sample(str(tmp_path), rows=2000, seed=0)
    assert [name.startswith(".") and name.endswith(".part") for name in while_writing] == [True]
    assert list(tmp_path.iterdir()) == []


def test_an_object_store_uri_is_written_through_fsspec() -> None:
    (uri,) = write_sample("memory://sample-bucket/raw/", rows=3, seed=1)
    assert uri == "memory://sample-bucket/raw/sample-seed1-000000000-000000003.parquet"
    with fsspec.open(uri) as file:
        assert pq.read_table(file).to_pylist() == table(rows=3, seed=1).to_pylist()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"cannot write to {tmp_path}/file"):
        write_sample(str(tmp_path / "file"), rows=3, seed=1)


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"rows_per_file": 0}])
def test_no_rows_to_write_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} 0"):
        write_sample(str(tmp_path), **{"rows": 10, "seed": 0, **wrong})
