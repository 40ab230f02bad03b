"""What docs/notebook.md promises: its lines run, and what they give is what is published."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import mmbatch
from mmbatch.catalog import Catalog
from mmbatch.encoders import encode, load_encoder
from mmbatch.errors import InputError
from mmbatch.models import fetch_model, open_model
from mmbatch.schema import PREDICTIONS
from mmbatch.workspace import Workspace
from tests.conftest import ROOT
from tests.published_shop import PRODUCTS

(EXAMPLE,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/notebook.md").read_text(), re.DOTALL)


def test_the_lines_of_the_page_run(shop: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ws").symlink_to(shop.uri)
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(compile(EXAMPLE, "docs/notebook.md", "exec"), found)
    assert sorted(found["table"]["product_id"]) == sorted(PRODUCTS)
    assert found["answers"].predictions["category"].to_pylist()[0] in ("even", "odd")


def test_predictions_are_all_columns_unless_some_are_named(shop: Workspace) -> None:
    assert mmbatch.open(shop.uri).predictions().schema.names == PREDICTIONS.names


def test_features_are_those_of_the_products_as_they_are(shop: Workspace) -> None:
    opened = mmbatch.open(shop.uri)
    ids, vectors = opened.features("ngram-text")
    assert sorted(ids) == sorted(set(PRODUCTS) - {"image only", "blank title"})
    (name,) = [name for name in opened.predictor.card["encoders"] if name.startswith("ngram-text@")]
    encoder = load_encoder(fetch_model(open_model(shop, kind="encoder", model_id=name)))
    texts = Catalog(workspace=shop).table.read(["product_id", "title", "description"])
    content = texts.take(pc.index_in(pa.array(ids), value_set=texts["product_id"].combine_chunks()))
    np.testing.assert_array_equal(vectors, encode(encoder, encoder.prepare(content).inputs, "cpu"))
    assert sorted(opened.features("image")[0]) == ["blank title", "both", "image only"]


def test_an_encoder_that_there_is_not_is_named(shop: Workspace) -> None:
    with pytest.raises(InputError, match=r"^features of 'text': found encoders image, ngram-text, expected one of"):
        mmbatch.open(shop.uri).features("text")


def test_the_models_are_loaded_once(shop: Workspace) -> None:
    opened = mmbatch.open(shop.uri)
    assert opened.online is opened.online


def test_no_workspace_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no workspace\.json there"):
        mmbatch.open(str(tmp_path))


def test_importing_the_package_loads_nothing() -> None:
    check = "import sys, mmbatch; print([name for name in ('pyarrow', 'numpy', 'ray', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
