import logging
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load, save

from mmbatch.encoders import Encoder, Inputs, collate_all, encode, encode_prepared, engine_for
from mmbatch.encoders.engine import CpuEngine, Engine
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.ngram import NgramText
from mmbatch.encoders.openvino_engine import OpenVinoEngine
from mmbatch.encoders.text import TransformersText

MANY = 1_000_000
MINILM = "sentence-transformers/all-MiniLM-L6-v2"

Make = Callable[[str], Encoder]
SMALL: dict[str, Make] = {
    "ngram": lambda _: NgramText.from_scratch(buckets=512, width=16, seed=0),
    "resnet": lambda _: TimmImage.from_scratch("test_resnet", size=32, seed=0),
    "vit": lambda _: TimmImage.from_scratch("test_vit", size=32, seed=0),  # resizes its positions: not convertible
    "bert": lambda weights: TransformersText.from_pretrained("org/tiny-bert", max_length=24, weights=weights),
}
REAL: dict[str, Make] = {
    "lite0": lambda weights: TimmImage.from_pretrained("tf_efficientnet_lite0", size=None, weights=weights),
    "minilm": lambda weights: TransformersText.from_pretrained(MINILM, max_length=64, weights=weights),
}


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a, b = first.astype(np.float64), second.astype(np.float64)
    found: np.ndarray = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


@pytest.fixture(scope="module")
def engines(small_weights: str) -> dict[str, tuple[Encoder, Engine]]:
    """Each small encoder with the engine that it gets for a large catalog on a CPU."""
    made = {name: make(small_weights).eval() for name, make in SMALL.items()}
    return {name: (one, engine_for(one, "cpu", threads=1, contents=MANY)) for name, one in made.items()}


@pytest.mark.parametrize("name", SMALL)
def test_equals_torch_for_every_row_and_every_batch_size(
    engines: dict[str, tuple[Encoder, Engine]], products: pa.Table, name: str
) -> None:
    encoder, engine = engines[name]
    for rows in (1, 2, 12):
        inputs = encoder.prepare(products.slice(12 - rows, rows)).inputs
        expected = encode(encoder, inputs, "cpu")
        vectors = engine(collate_all(encoder, inputs))
        assert vectors.dtype.str == "<f2"
        assert vectors.shape == (rows, encoder.width)
        assert cosines(vectors, expected).min() >= 0.9999


@pytest.mark.parametrize("name", REAL)
def test_equals_torch_on_pretrained_weights(real_weights: str, products: pa.Table, name: str) -> None:
    encoder = REAL[name](real_weights).eval()
    inputs = encoder.prepare(products).inputs
    engine = engine_for(encoder, "cpu", threads=1, contents=MANY)
    assert isinstance(engine, OpenVinoEngine)
    assert cosines(encode_prepared(encoder, engine, inputs), encode(encoder, inputs, "cpu")).min() >= 0.9999


def test_openvino_is_for_large_catalogs_and_for_networks_that_it_can_compile(
    engines: dict[str, tuple[Encoder, Engine]],
) -> None:
    kinds = {name: type(engine) for name, (_, engine) in engines.items()}
    assert kinds == {"ngram": CpuEngine, "resnet": OpenVinoEngine, "vit": CpuEngine, "bert": OpenVinoEngine}
    assert isinstance(engine_for(engines["bert"][0], "cpu", threads=1, contents=299), CpuEngine)


def test_what_openvino_cannot_convert_stays_on_torch_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    encoder = SMALL["vit"]("").eval()
    with caplog.at_level(logging.WARNING, logger="mmbatch.encoders.engine"):
        engine = engine_for(encoder, "cpu", threads=1, contents=MANY)
    assert isinstance(engine, CpuEngine)
    messages = [record.getMessage() for record in caplog.records if record.name == "mmbatch.encoders.engine"]
    assert messages[0].startswith("timm_image stays on torch: OpenVINO cannot convert its network: ")
    assert "_upsample_bicubic2d_aa" in messages[0]


def test_rows_keep_their_places_through_batches_of_like_length(
    engines: dict[str, tuple[Encoder, Engine]], products: pa.Table
) -> None:
    encoder, engine = engines["bert"]
    shuffled = products.take(np.random.default_rng(0).permutation(12))
    inputs = load(save(encoder.prepare(shuffled).inputs))
    alone = np.concatenate(
        [encode(encoder, encoder.prepare(shuffled.slice(row, 1)).inputs, "cpu") for row in range(12)]
    )
    np.testing.assert_allclose(encode_prepared(encoder, engine, inputs), alone, atol=2e-3)


def test_nothing_prepared_gives_no_vectors(engines: dict[str, tuple[Encoder, Engine]]) -> None:
    encoder, engine = engines["bert"]
    assert encode_prepared(encoder, engine, {}).shape == (0, 32)


@pytest.mark.parametrize("name", SMALL)
def test_read_only_arrays_are_taken_and_left_alone(
    engines: dict[str, tuple[Encoder, Engine]], products: pa.Table, name: str
) -> None:
    encoder, engine = engines[name]
    inputs = collate_all(encoder, encoder.prepare(products).inputs)
    before = {key: array.copy() for key, array in inputs.items()}
    for array in inputs.values():
        array.flags.writeable = False
    first, second = engine(inputs), engine(inputs)
    np.testing.assert_array_equal(first, second)
    for key, array in inputs.items():
        np.testing.assert_array_equal(array, before[key])


@pytest.mark.parametrize("contents", [1, MANY])
def test_vectors_beyond_float16_name_their_rows(products: pa.Table, contents: int) -> None:
    encoder = TimmImage.from_scratch("test_resnet", size=32, seed=0).eval()
    inputs = collate_all(encoder, encoder.prepare(products).inputs)
    with torch.no_grad():
        encoder.std.fill_(1e-9)
    engine = engine_for(encoder, "cpu", threads=1, contents=contents)
    with pytest.raises(ValueError, match=r"encoder timm_image: vectors of rows \[0, 1, .*, 11\] are not finite"):
        engine(inputs)


def test_openvino_refuses_weights_that_are_not_finite() -> None:
    encoder = TimmImage.from_scratch("test_resnet", size=32, seed=0).eval()
    with torch.no_grad():
        next(encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="encoder timm_image: its weights are not finite"):
        OpenVinoEngine(encoder, threads=1)


def test_a_training_encoder_is_refused(small_weights: str) -> None:
    encoder = SMALL["bert"](small_weights).train()
    with pytest.raises(RuntimeError, match=r"transformers_text is in training mode: call eval\(\)"):
        engine_for(encoder, "cpu", threads=1, contents=1)


def test_openvino_reports_nothing_to_its_maker(engines: dict[str, tuple[Encoder, Engine]]) -> None:
    assert isinstance(engines["bert"][1], OpenVinoEngine)
    assert sys.modules["openvino_telemetry"] is None
    assert "openvino_telemetry.backend" not in sys.modules


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SMALL)
def test_a_gpu_equals_the_cpu_and_takes_the_next_batch_before_it_waits(
    small_weights: str, products: pa.Table, name: str
) -> None:
    encoder = SMALL[name](small_weights).eval()
    batches = [
        collate_all(encoder, encoder.prepare(products.slice(start, rows)).inputs) for start, rows in ((0, 5), (5, 7))
    ]
    with torch.inference_mode():
        expected = [CpuEngine(encoder, threads=1)(batch) for batch in batches]
    taken: list[int] = []

    def take() -> Iterator[Inputs]:
        for number, batch in enumerate(batches):
            taken.append(number)
            yield batch

    found = engine_for(encoder, "cuda", threads=1, contents=1).run(take())
    assert cosines(next(found), expected[0]).min() >= 0.999
    assert taken == [0, 1]
    assert cosines(next(found), expected[1]).min() >= 0.999
