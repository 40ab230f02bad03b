"""Writes made-up products in the layout of the Kakao arena's HDF5 files: `train.chunk.01`, `train.chunk.02`, ...

    python -m benchmarks.kakao_chunks --folder DIR --rows N [--chunks K] [--seed 0]

Each file holds one group, `train`, of byte strings (`pid`, `product`, `brand`, `maker`, `model`, `price`, `updttm`),
codes of four levels (`bcateid`, `mcateid`, `scateid`, `dcateid`; -1: no such level) and vectors (`img_feat`, float32,
2,048 numbers). There are as many categories as in the arena: 57, 552, 3,190 and 404. The shares of products without the
lower levels and the spread of the rest are assumed. A title has a word for each level of its category and vectors lie
around a centre of their middle category, both with noise. The same seed, rows and chunks give the same products.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LEVELS = {"bcateid": 57, "mcateid": 552, "scateid": 3_190, "dcateid": 404}
"""Categories of each level, root first."""

SHARES = (0.10, 0.83, 0.07)
"""Products whose category ends at the second, third and fourth level."""

WIDTH = 2_048
"""Numbers in a vector."""

_TEXT = {"pid": 11, "product": 96, "brand": 16, "maker": 16, "model": 32, "price": 8, "updttm": 14}  # bytes
_BLOCK_ROWS = 10_000  # made and written at a time
_SMALLS_WITH_SUBS = 100
_UPDATED = (1_483_228_800, 1_514_764_800)  # the year 2017, in seconds since 1970
_SIGNAL = 0.07  # of a centre, in standard deviations of the noise, in each of the numbers
_WRONG_WORDS = 0.1  # share of a title's words that are any other's
_SYLLABLES = [a + b for a in "bdgklmnprst" for b in "aeiou"]


class _Tree(NamedTuple):
    """What is the same for all products."""

    paths: np.ndarray
    """int32 `[P, 4]`: the codes of each category, from 1; -1: no such level."""
    share: np.ndarray
    """float64 `[P]`: the share of products in each."""
    words: pa.Array
    """A word for each category of every level."""
    centres: np.ndarray
    """float32 `[M, W]`: the vector of each middle category."""


def write_chunks(folder: Path, *, rows: int, files: int = 1, seed: int = 0, **storage: Any) -> list[Path]:
    """Write the files of the arena's train part; `storage` goes to h5py's `create_dataset` (compression, chunks)."""
    tree = _tree(seed)
    paths = [folder / f"train.chunk.{number:02d}" for number in range(1, files + 1)]
    edges = [rows * number // files for number in range(files + 1)]
    for path, first, stop in zip(paths, edges, edges[1:], strict=False):
        _write(path, tree, first=first, stop=stop, seed=seed, **storage)
    return paths


def _write(file: Path, tree: _Tree, *, first: int, stop: int, seed: int, **storage: Any) -> None:
    """Write the products from `first` up to `stop` in one file."""
    kinds = {name: f"S{width}" for name, width in _TEXT.items()} | dict.fromkeys(LEVELS, "<i4")
    with h5py.File(file, "w") as stored:
        group = stored.create_group("train")
        for name, kind in kinds.items():
            group.create_dataset(name, shape=(stop - first,), dtype=kind, **storage)
        group.create_dataset("img_feat", shape=(stop - first, WIDTH), dtype="<f4", **storage)
        for start in range(first, stop, _BLOCK_ROWS):
            end = min(start + _BLOCK_ROWS, stop)
            for name, values in _products(tree, np.arange(start, end), seed).items():
                group[name][start - first : end - first] = values


def _tree(seed: int) -> _Tree:
    rng = np.random.default_rng(seed)
    mains, middles, smalls, subs = LEVELS.values()
    main_of = _parents(rng, mains, middles)
    middle_of = _parents(rng, middles, smalls)
    small_of = rng.choice(rng.choice(smalls, _SMALLS_WITH_SUBS, replace=False), subs)
    small, no_small, no_sub = np.arange(smalls), np.full(middles, -2), np.full(middles + smalls, -2)
    levels = [
        [main_of, main_of[middle_of], main_of[middle_of[small_of]]],
        [np.arange(middles), middle_of, middle_of[small_of]],
        [no_small, small, small_of],
        [no_sub, np.arange(subs)],
    ]
    paths = np.stack([np.concatenate(level) for level in levels], axis=1)
    share = np.concatenate(
        [of * _skewed(rng, count) for of, count in zip(SHARES, (middles, smalls, subs), strict=True)]
    )
    words = pa.array(_word(number) for number in rng.permutation(len(_SYLLABLES) ** 3)[: sum(LEVELS.values())])
    centres = rng.standard_normal((mains, WIDTH), np.float32)[main_of]
    centres += rng.standard_normal((middles, WIDTH), np.float32)
    return _Tree((paths + 1).astype(np.int32), share, words, centres * np.float32(_SIGNAL))


def _parents(rng: np.random.Generator, parents: int, children: int) -> np.ndarray:
    """int64 `[children]`: the parent of each; every parent has a child."""
    return np.concatenate([np.arange(parents), rng.integers(parents, size=children - parents)])


def _skewed(rng: np.random.Generator, count: int) -> np.ndarray:
    """float64 `[count]`: shares that fall with one over the rank, in any order."""
    share = 1 / (10 + rng.permutation(count))
    return np.asarray(share / share.sum())


def _word(number: int) -> str:
    base = len(_SYLLABLES)
    return "".join(_SYLLABLES[number // base**place % base] for place in range(3))


def _products(tree: _Tree, number: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The columns of these products."""
    rng = np.random.default_rng([seed, int(number[0])])
    rows = len(number)
    codes_N4 = tree.paths[rng.choice(len(tree.share), rows, p=tree.share)]
    brand = _named(rng, "brand", rows, kinds=3_000)
    model = pc.binary_join_element_wise("mod", pa.array(rng.integers(10**6, size=rows)).cast(pa.string()), "-")
    text = {
        "pid": pa.array([f"O{one:010d}" for one in number]),
        "product": _titles(tree, rng, codes_N4, brand, model),
        "brand": pc.fill_null(brand, ""),
        "maker": pc.fill_null(_named(rng, "maker", rows, kinds=1_000), ""),
        "model": model,
        "price": pa.array(rng.integers(1, 10_000, rows) * 100).cast(pa.string()),
        "updttm": pc.strftime(pa.array(rng.integers(*_UPDATED, rows), pa.timestamp("s")), "%Y%m%d%H%M%S"),
    }
    vectors = rng.standard_normal((rows, WIDTH), np.float32) + tree.centres[codes_N4[:, 1] - 1]
    return {
        **{name: np.array(values.to_pylist(), f"S{_TEXT[name]}") for name, values in text.items()},
        **dict(zip(LEVELS, codes_N4.T, strict=True)),
        "img_feat": np.maximum(vectors, 0),  # as a network's last activation leaves them
    }


def _named(rng: np.random.Generator, what: str, rows: int, *, kinds: int) -> pa.Array:
    """Names of brands or makers; null where a product has none."""
    number = pa.array(rng.integers(kinds, size=rows), mask=rng.random(rows) < 0.2)
    return pc.binary_join_element_wise(what, number.cast(pa.string()), "")


def _titles(tree: _Tree, rng: np.random.Generator, codes_N4: np.ndarray, *more: pa.Array) -> pa.Array:
    """Words of the category, some of them wrong, and what else a title says."""
    offsets = np.concatenate([[0], np.cumsum([*LEVELS.values()])[:-1]])
    wrong = rng.random(codes_N4.shape) < _WRONG_WORDS
    at_N4 = np.where(wrong, rng.integers(len(tree.words), size=codes_N4.shape), offsets + codes_N4 - 1)
    words = [tree.words.take(pa.array(at, mask=code < 0)) for at, code in zip(at_N4.T, codes_N4.T, strict=True)]
    return pc.binary_join_element_wise(more[0], *words, *more[1:], " ", null_handling="skip")


def main() -> None:
    """Write the files and print what they hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="new folder")
    parser.add_argument("--rows", required=True, type=int, help="in all files together")
    parser.add_argument("--chunks", type=int, default=1, help="files")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True)
    files = write_chunks(flags.folder, rows=flags.rows, files=flags.chunks, seed=flags.seed)
    size = sum(file.stat().st_size for file in files)
    print(f"{flags.rows:,} products, {size / 1e9:.1f} GB in {os.path.relpath(flags.folder)}", file=sys.stderr)
    print(json.dumps({"rows": flags.rows, "files": len(files), "bytes": size}))


if __name__ == "__main__":
    main()
