from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from mmbatch.encoders.batches import batches_of
from mmbatch.encoders.product_text import product_texts
from mmbatch.encoders.text import TransformersText

SHARED_DATA = Path(__file__).resolve().parents[2] / "../shared/data"
WINDOW = 2048


def test_rows_of_like_length_go_together_within_budget_and_rows() -> None:
    lengths = np.array([9, 2, 3, 9, 2, 1])
    batches = batches_of(lengths, budget=9, most=3)
    assert [rows.tolist() for rows in batches] == [[5, 1, 4], [2], [0], [3]]


def test_a_row_beyond_the_budget_is_a_batch_alone() -> None:
    assert [rows.tolist() for rows in batches_of(np.array([5, 50, 4]), budget=10, most=8)] == [[2, 0], [1]]


def test_no_rows_give_no_batches() -> None:
    assert batches_of(np.zeros(0, np.int64), budget=10, most=8) == []


@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_in_one_batch_and_no_batch_could_take_another_row(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 257, 500)
    batches = batches_of(lengths, budget=1024, most=16)
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    for rows, following in zip(batches, [*batches[1:], None], strict=True):
        assert len(rows) <= 16
        assert len(rows) * lengths[rows].max() <= 1024
        if following is not None:
            assert len(rows) == 16 or (len(rows) + 1) * lengths[following[0]] > 1024


@pytest.mark.parametrize(
    ("catalog", "weights", "copies"),
    [
        ("flipkart_1050", "sentence-transformers--all-MiniLM-L6-v2", 2),
        ("cdiscount_fr_50k", "intfloat--multilingual-e5-small", 1),
    ],
)
def test_padding_is_at_most_three_percent_of_the_tokens_of_real_products(
    real_weights: str, catalog: str, weights: str, copies: int
) -> None:
    file = SHARED_DATA / f"{catalog}.parquet"
    if not file.is_file():
        pytest.skip(f"no {catalog} beside this checkout (../shared/data)")
    tokenizer = Tokenizer.from_file(str(Path(real_weights) / weights / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.no_padding()
    texts = product_texts(pq.read_table(file, columns=["title", "description"])).drop_null().slice(0, 2 * WINDOW)
    lengths = np.tile([len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts.to_pylist())], copies)
    for budget in TransformersText.budgets:
        shares = [
            padded_share(window, batches_of(window, budget=budget.budget, most=budget.most))
            for window in np.split(lengths, range(WINDOW, len(lengths), WINDOW))
            if len(window) == WINDOW
        ]
        assert shares
        assert max(shares) <= 0.03


def padded_share(lengths: np.ndarray, batches: list[np.ndarray]) -> float:
    seen = sum(int(lengths[rows].max()) * len(rows) for rows in batches)
    return 1 - int(lengths.sum()) / seen
