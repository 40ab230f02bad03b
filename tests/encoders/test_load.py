import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmbatch.encoders import Encoder, encode, load_encoder
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.load import KINDS
from mmbatch.encoders.ngram import NgramText
from mmbatch.encoders.precomputed import PrecomputedImage
from mmbatch.encoders.recurrent import RecurrentText
from mmbatch.encoders.text import TransformersText
from mmbatch.errors import InputError
from mmbatch.image_vectors import to_npy

Make = Callable[[str], Encoder]

MAKE: dict[str, Make] = {
    "ngram": lambda _: NgramText.from_scratch(buckets=64, width=8, seed=0),
    "precomputed": lambda _: PrecomputedImage.from_scratch(input_width=24, hidden=16, width=8, seed=0),
    "recurrent": lambda _: RecurrentText.from_words(
        words=["red", "mug", "lamp"], vectors=None, word_width=6, hidden=5, width=8, weights=None, seed=0
    ),
    "image": lambda _: TimmImage.from_scratch("test_vit", size=32, seed=0),
    "text": lambda weights: TransformersText.from_pretrained("org/tiny-bert", max_length=24, weights=weights),
    "text-flatten": lambda weights: TransformersText.from_pretrained(
        "org/tiny-camembert", max_length=24, pooling="flatten", separator=" ", weights=weights, seed=0
    ),
    "text-pair": lambda weights: TransformersText.from_pretrained(
        "org/tiny-bert", max_length=24, pooling="pooler", fields="pair", weights=weights
    ),
    "text-flaubert": lambda weights: TransformersText.from_pretrained(
        "org/tiny-flaubert", max_length=24, pooling="first", weights=weights
    ),
}


@pytest.fixture
def saved(small_weights: str, tmp_path: Path) -> Path:
    MAKE["text"](small_weights).save(tmp_path)
    return tmp_path


def rewrite(folder: Path, **changes: object) -> None:
    """Change values of the config in `encoder.json`."""
    description = json.loads((folder / "encoder.json").read_text())
    description["config"].update(changes)
    (folder / "encoder.json").write_text(json.dumps(description))


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_saved_encoder_comes_back_as_it_was(
    make: Make, small_weights: str, products: pa.Table, tmp_path: Path
) -> None:
    encoder = make(small_weights).eval()
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert type(loaded) is type(encoder)
    assert not loaded.training
    assert loaded.config() == encoder.config()
    if isinstance(encoder, PrecomputedImage):
        vectors = np.random.default_rng(0).normal(size=(len(products), encoder.input_width))
        products = products.set_column(products.column_names.index("image"), "image", to_npy(vectors))
    first, second = (encode(one, one.prepare(products).inputs, "cpu") for one in (encoder, loaded))
    assert len(first) == len(products)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_saving_again_writes_the_same_bytes(make: Make, small_weights: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    make(small_weights).save(first)
    load_encoder(first).save(second)
    assert {file.name: file.read_bytes() for file in first.iterdir()} == {
        file.name: file.read_bytes() for file in second.iterdir()
    }


@pytest.mark.parametrize("file", ["encoder.json", "encoder.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kept", [None, 0, 100])
def test_a_missing_or_torn_file_is_named(saved: Path, file: str, kept: int | None) -> None:
    content = (saved / file).read_bytes()
    (saved / file).unlink()
    if kept is not None:
        (saved / file).write_bytes(content[:kept])
    with pytest.raises(InputError, match=rf"{file}: "):
        load_encoder(saved)


def test_an_unknown_kind_is_named(saved: Path) -> None:
    (saved / "encoder.json").write_text('{"kind": "psychic", "config": {}}')
    with pytest.raises(InputError, match=r"encoder\.json: encoder kind is 'psychic', expected one of .*ngram_text, "):
        load_encoder(saved)


def test_a_config_without_its_keys_is_named(saved: Path) -> None:
    (saved / "encoder.json").write_text('{"kind": "ngram_text", "config": {"width": 8}}')
    with pytest.raises(InputError, match=r"encoder\.json: config does not fit a ngram_text encoder: .*'buckets'"):
        load_encoder(saved)


def test_vectors_of_another_code_version_are_refused(saved: Path) -> None:
    rewrite(saved, code=0)
    with pytest.raises(InputError, match=r"encoder\.json: code is 0, this version of mmbatch computes with 1"):
        load_encoder(saved)


def test_weights_of_another_encoder_are_refused(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    MAKE["ngram"]("").save(other)
    (saved / "encoder.safetensors").write_bytes((other / "encoder.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"encoder\.safetensors: not the weights of this encoder: .*embedding\.weight"):
        load_encoder(saved)


def test_another_tokenizer_is_refused(saved: Path) -> None:
    file = saved / "tokenizer.json"
    file.write_text(file.read_text().replace('"mug"', '"jug"'))
    with pytest.raises(InputError, match=r"tokenizer\.json: not the tokenizer of this encoder: sha256 .* expected "):
        load_encoder(saved)


def test_a_kind_is_known_by_its_own_name() -> None:
    assert {kind: imported().kind for kind, imported in KINDS.items()} == {kind: kind for kind in KINDS}


def test_the_package_alone_imports_no_library_of_models() -> None:
    code = "import mmbatch.encoders, sys; print([name for name in ('timm', 'transformers') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
