import pyarrow as pa
import pytest

from mmbatch.encoders.product_text import product_pairs, product_texts


@pytest.mark.parametrize(
    ("title", "description", "text"),
    [
        ("Mug", "Holds 30 cl.", "Mug. Holds 30 cl."),
        ("Mug", None, "Mug"),
        (None, "Holds 30 cl.", "Holds 30 cl."),
        ("  Mug ", "\n", "Mug"),
        ("", "Holds 30 cl.", "Holds 30 cl."),
        (None, None, None),
        (" ", "", None),
    ],
)
def test_joins_what_is_there(title: str | None, description: str | None, text: str | None) -> None:
    columns = {"title": ["Lamp", title], "description": [None, description]}
    texts = product_texts(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}))
    assert texts.to_pylist() == ["Lamp", text]


def test_the_separator_is_the_callers() -> None:
    assert product_texts(pa.table({"title": ["Mug"], "description": ["Blue"]}), " ").to_pylist() == ["Mug Blue"]


def test_a_pair_keeps_its_fields_apart() -> None:
    batch = pa.table({"title": [" Mug", "Mug", None, ""], "description": ["Blue ", " ", "Blue", None]})
    assert product_pairs(batch) == [("Mug", "Blue"), "Mug", "Blue", None]
