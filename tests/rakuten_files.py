"""The Rakuten challenge's folder with made-up products, in either of its issues."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from mmbatch.sample_drawings import draw_picture

Form = Literal["tsv", "csv"]

TOP_LEVELS = {
    "Books": ("10", "2280", "2403", "2522", "2705"),
    "Children": ("1280", "1281", "1300", "1301", "1302", "1320"),
    "Household": ("1560", "1920", "2060", "2220", "2582", "2583", "2585"),
    "Entertainment": ("40", "50", "60", "1140", "1160", "1180", "1940", "2462", "2905"),
}
"""Top level category -> its codes: the challenge's 27, spread over four of them."""
CODES = [code for codes in TOP_LEVELS.values() for code in codes]
TOP_OF = {code: top for top, codes in TOP_LEVELS.items() for code in codes}

NO_DESCRIPTION = 29_800 / 84_916
"""Share of the challenge's products without one."""

_NOUNS = ("Coussin", "Piscine", "Figurine", "Console", "Poupée", "Roman", "Lampe", "Manette", "Cahier")
_TRAITS = ("gonflable", "en bois", "d'été", "rétro", "« édition limitée »", "noir et blanc", 'de 12"', "neuf")
_LEAVES = ("Novels", "Mugs", "Lamps", "Keyboards", "Sneakers", "Tablets", "Sofas", "Dresses", "Kettles")
_COLOURS = ((180, 60, 50), (60, 110, 180), (230, 200, 90), (80, 150, 90))


class Item(NamedTuple):
    number: int
    title: str
    description: str
    product: int
    image: int
    code: str
    """What it is; the challenge tells of labelled products only."""
    photo: bytes


def make_items(*, train: int, test: int, seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Labelled products, the 27 codes in turn, and products to predict, numbered on from these."""
    items = [_item(number, Random(f"{seed}/{number}")) for number in range(train + test)]
    return items[:train], items[train:]


def _item(number: int, rng: Random) -> Item:
    at = number % len(CODES)
    noun, trait = _NOUNS[at % len(_NOUNS)], _TRAITS[at % len(_TRAITS)]
    about = f"{noun} {trait}, référence {CODES[at]}.<br />\nLivré\tsous 48h ; {rng.choice(_TRAITS)}"
    return Item(
        number=number,
        title=f"{noun} {rng.choice(_TRAITS)} {CODES[at]}",
        description="" if rng.random() < NO_DESCRIPTION else about,
        product=3_000_000_000 + 7 * number,
        image=1_000_000_000 + 3 * number,
        code=CODES[at],
        photo=draw_picture(leaf=_LEAVES[at % len(_LEAVES)], colour=_COLOURS[at % len(_COLOURS)], rng=rng),
    )


def write_challenge(
    folder: Path, train: Sequence[Item], test: Sequence[Item], *, form: Form, taxonomy: bool = True, photos: str = ""
) -> Path:
    """The folder, its photos below `photos`; the file of top level categories is one of the TSV issue only."""
    folder.mkdir(parents=True)
    if form == "tsv":
        header = ["Integer_id", "Title", "Description", "Image_id", "Product_id"]
        write_rows(folder / "X_train.tsv", header, map(_tsv_row, train))
        write_rows(folder / "x_test_task1_phase1.tsv", header, map(_tsv_row, test))
        write_rows(folder / "Y_train.tsv", ["Integer_id", "Prdtypecode"], ((item.number, item.code) for item in train))
        if taxonomy:
            write_rows(folder / "catalog_english_taxonomy.tsv", ["Prdtypecode", "Top level category"], TOP_OF.items())
    else:
        header = ["", "designation", "description", "productid", "imageid"]
        write_rows(folder / "X_train_update.csv", header, map(_csv_row, train))
        write_rows(folder / "X_test_update.csv", header, map(_csv_row, test))
        write_rows(folder / "Y_train_CVw08PX.csv", ["", "prdtypecode"], ((item.number, item.code) for item in train))
    for name, items in zip(
        ("image_training" if form == "tsv" else "image_train", "image_test"), (train, test), strict=True
    ):
        place = folder / photos / name
        place.mkdir(parents=True)
        for item in items:
            (place / photo_name(item)).write_bytes(item.photo)
    return folder


def photo_name(item: Item) -> str:
    return f"image_{item.image}_product_{item.product}.jpg"


def write_rows(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """As CSV or, by the file's name, TSV."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter="\t" if file.suffix == ".tsv" else ",").writerows([header, *rows])


def read_rows(file: Path) -> list[list[str]]:
    """Header and rows."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream, delimiter="\t" if file.suffix == ".tsv" else ","))


def _tsv_row(item: Item) -> list[object]:
    return [item.number, item.title, item.description, item.image, item.product]


def _csv_row(item: Item) -> list[object]:
    return [item.number, item.title, item.description, item.product, item.image]
