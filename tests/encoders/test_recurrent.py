from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from mmbatch.encoders import (
    build_encoder,
    collate_all,
    encode,
    encode_prepared,
    engine_for,
    load_encoder,
    row_sizes,
    to_tensors,
)
from mmbatch.encoders import require_weights as require
from mmbatch.encoders.recurrent import RecurrentText
from mmbatch.errors import InputError

WORDS = ["red", "blue", "mug", "lamp", "shirt", "kettle", "steel", "soft", "handle"]


def small(seed: int = 0, words: list[str] | None = None, max_length: int = 100) -> RecurrentText:
    return RecurrentText.from_words(
        words=WORDS if words is None else words,
        vectors=None,
        word_width=6,
        hidden=5,
        width=8,
        max_length=max_length,
        weights=None,
        seed=seed,
    )


@pytest.fixture(scope="module")
def encoder() -> RecurrentText:
    return small().eval()


@pytest.fixture
def vectors_folder(tmp_path: Path) -> str:
    """A `--weights` folder with `glove.3d`: vectors of three words."""
    (tmp_path / "glove.3d").mkdir()
    (tmp_path / "glove.3d" / "glove.3d.txt").write_text("the 9 9 9\nlamp 1 2 3\nmug 4 5 6\nred 7 8 9\n")
    return str(tmp_path)


def titles(*texts: str | None) -> pa.Table:
    return pa.table({"title": pa.array(texts, pa.string()), "description": pa.nulls(len(texts), pa.string())})


def state_after(words_LE: Tensor, lstm: torch.nn.LSTM, suffix: str) -> Tensor:
    """The last state `[H]` of one direction, gate by gate (Hochreiter & Schmidhuber 1997, with forget gates)."""
    into, over, bias, second = (
        getattr(lstm, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    state, memory = torch.zeros(lstm.hidden_size), torch.zeros(lstm.hidden_size)
    for word in words_LE:
        into_gate, forget, new, out = (into @ word + bias + over @ state + second).chunk(4)
        memory = torch.sigmoid(forget) * memory + torch.sigmoid(into_gate) * torch.tanh(new)
        state = torch.sigmoid(out) * torch.tanh(memory)
    return state


@torch.no_grad()
def row_by_row(encoder: RecurrentText, ids: list[list[int]]) -> np.ndarray:
    rows = []
    for row in ids:
        words_LE = encoder.embedding.weight[row]
        both = [state_after(words_LE, encoder.lstm, ""), state_after(words_LE.flip(0), encoder.lstm, "_reverse")]
        rows.append(torch.relu(encoder.projection.weight @ torch.cat(both) + encoder.projection.bias))
    return torch.stack(rows).numpy()


def test_known_words_in_their_order_and_nothing_else(encoder: RecurrentText) -> None:
    prepared = encoder.prepare(titles("The RED mugs, with a red toaster", "lamps!"))
    assert prepared.inputs["ids"].tolist() == [1, 3, 1, 4]
    assert prepared.inputs["offsets"].tolist() == [0, 3, 4]
    assert {name: array.dtype for name, array in prepared.inputs.items()} == {"ids": np.int32, "offsets": np.int64}


def test_vectors_are_those_of_a_plain_lstm(encoder: RecurrentText, products: pa.Table) -> None:
    inputs = encoder.prepare(products).inputs
    ids = [row.tolist() for row in np.split(inputs["ids"], inputs["offsets"][1:-1])]
    with torch.inference_mode():
        found = encoder(**to_tensors(collate_all(encoder, inputs), "cpu")).numpy()
    assert len({len(row) for row in ids}) > 3
    assert np.ptp(found, axis=0).max() > 0.1
    np.testing.assert_allclose(found, row_by_row(encoder, ids), atol=1e-6)


def test_a_vector_depends_neither_on_padding_nor_on_order(encoder: RecurrentText, products: pa.Table) -> None:
    inputs = encoder.prepare(products).inputs
    rows = np.random.default_rng(0).permutation(len(products))
    with torch.inference_mode():
        together = encoder(**to_tensors(encoder.collate(inputs, rows), "cpu"))
        alone = [encoder(**to_tensors(encoder.collate(inputs, rows[i : i + 1]), "cpu")) for i in range(len(rows))]
        wide = {name: torch.from_numpy(array) for name, array in encoder.collate(inputs, rows).items()}
        wide["ids"] = torch.nn.functional.pad(wide["ids"], (0, 40), value=3)
        padded = encoder(**wide)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)
    torch.testing.assert_close(together, padded, atol=1e-6, rtol=0)


def test_engine_and_plain_way_agree(encoder: RecurrentText, products: pa.Table) -> None:
    inputs = encoder.prepare(products).inputs
    fast = encode_prepared(encoder, engine_for(encoder, "cpu", threads=1, contents=10**6), inputs)
    np.testing.assert_allclose(fast, encode(encoder, inputs, "cpu"), atol=1e-3)


def test_a_text_is_cut_after_its_first_known_words() -> None:
    encoder = small(max_length=3).eval()
    inputs = encoder.prepare(titles("toaster red blue the mug lamp shirt", "red", "lamp red")).inputs
    assert inputs["ids"].tolist() == [1, 2, 3, 1, 4, 1]
    assert inputs["offsets"].tolist() == [0, 3, 4, 6]


def test_a_text_of_unknown_words_has_a_vector(encoder: RecurrentText) -> None:
    prepared = encoder.prepare(titles("mug", "toaster", "and the", "!", "lamp"))
    assert prepared.failures == []
    assert prepared.inputs["ids"].tolist() == [3, 0, 0, 0, 4]
    vectors = encode(encoder, prepared.inputs, "cpu")
    np.testing.assert_array_equal(vectors[1], vectors[2])
    assert np.abs(vectors[0].astype(np.float64) - vectors[1]).max() > 0.01


def test_a_product_without_text_fails_alone(encoder: RecurrentText) -> None:
    prepared = encoder.prepare(titles("mug", None, " ", "lamp"))
    assert prepared.good.tolist() == [0, 3]
    assert [(row, reason) for row, reason, _ in prepared.failures] == [(1, "no_text"), (2, "no_text")]
    assert encoder.prepare(titles(None)).inputs == {}


def test_lengths_are_the_words_that_are_read(encoder: RecurrentText) -> None:
    assert row_sizes(encoder, titles("red mugs for you", None, "toaster")).tolist() == [2, 0, 1]


def test_weights_come_from_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = small(1).state_dict(), small(1).state_dict(), small(2).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lstm.weight_hh_l0"], other["lstm.weight_hh_l0"])


def test_as_many_weights_as_the_keras_layers_have() -> None:
    encoder = RecurrentText.from_words(
        words=[f"w{i}" for i in range(20)], vectors=None, word_width=100, weights=None, seed=0
    )
    lstm = 2 * 4 * ((100 + 512) * 512 + 512)  # two directions, four gates: input and state to state, one bias
    trained = sum(weight.numel() for weight in encoder.parameters() if weight.requires_grad)
    assert trained == 21 * 100 + lstm + (2 * 512 + 1) * 256
    assert encoder.lstm.bias_ih_l0[512:1024].tolist() == [1.0] * 512
    assert not encoder.lstm.bias_hh_l0.any()


def test_pretrained_words_are_frozen_and_the_others_left_out(vectors_folder: str) -> None:
    encoder = build_encoder(
        "recurrent",
        weights=vectors_folder,
        seed=0,
        words=["mug", "toaster", "red"],
        vectors="glove.3d",
        hidden=5,
        width=8,
    )
    assert isinstance(encoder, RecurrentText)
    assert encoder.embedding.weight.tolist() == [[0, 0, 0], [4, 5, 6], [7, 8, 9]]
    assert encoder.prepare(titles("toaster mug")).inputs["ids"].tolist() == [1]
    encoder(**to_tensors(collate_all(encoder, encoder.prepare(titles("red mug")).inputs), "cpu")).sum().backward()
    assert encoder.embedding.weight.grad is None
    assert encoder.lstm.weight_ih_l0.grad is not None


def test_pretrained_vectors_of_another_language_are_refused(vectors_folder: str) -> None:
    with pytest.raises(InputError, match=r"glove\.3d\.txt: has none of the 1 words of the texts"):
        RecurrentText.from_words(words=["tasse"], vectors="glove.3d", weights=vectors_folder, seed=0)


@pytest.mark.parametrize(("vectors", "width"), [(None, None), ("glove.3d", 3)])
def test_word_vectors_are_pretrained_or_new(vectors: str | None, width: int | None, vectors_folder: str) -> None:
    with pytest.raises(InputError, match=r"vectors is .* and word_width is .*, expected one of the two"):
        RecurrentText.from_words(words=WORDS, vectors=vectors, word_width=width, weights=vectors_folder, seed=0)


def test_no_words_are_refused() -> None:
    with pytest.raises(InputError, match="no text to learn from has a word"):
        small(words=[])


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(InputError, match="language 'xx'"):
        RecurrentText.from_words(words=WORDS, vectors=None, word_width=4, language="xx", weights=None, seed=0)


def test_missing_vectors_are_known_before_training(vectors_folder: str, no_hub: None) -> None:
    require("recurrent", {"vectors": None, "word_width": 8}, None)
    require("recurrent", {"vectors": "glove.3d"}, vectors_folder)
    with pytest.raises(InputError, match=r"glove\.6B\.100d are on no hub"):
        require("recurrent", {"vectors": "glove.6B.100d"}, None)


@pytest.mark.parametrize("change", [lambda file: file.write_text("red\nblue\n"), lambda file: file.unlink()])
def test_another_vocabulary_is_refused(tmp_path: Path, change: object) -> None:
    small().save(tmp_path)
    assert callable(change)
    change(tmp_path / "vocabulary.txt")
    with pytest.raises(InputError, match=r"vocabulary\.txt: (not the vocabulary of this encoder: sha256|cannot be)"):
        load_encoder(tmp_path)


def test_another_version_of_the_lemmas_is_refused(tmp_path: Path) -> None:
    small().save(tmp_path)
    file = tmp_path / "encoder.json"
    file.write_text(file.read_text().replace("simplemma ", "simplemma 1."))
    with pytest.raises(InputError, match=r"encoder\.json: cleaning is .*, this version of mmbatch computes with .*"):
        load_encoder(tmp_path)


def test_weights_in_one_storage_as_on_a_gpu_are_saved(tmp_path: Path, products: pa.Table) -> None:
    encoder = small()
    weights = list(encoder.lstm.parameters())
    storage = torch.cat([weight.detach().flatten() for weight in weights])
    for weight, part in zip(weights, storage.split([weight.numel() for weight in weights]), strict=True):
        weight.data = part.view(weight.shape)
    encoder.save(tmp_path)
    inputs = encoder.prepare(products).inputs
    np.testing.assert_array_equal(encode(load_encoder(tmp_path), inputs, "cpu"), encode(encoder.eval(), inputs, "cpu"))


def test_learns_what_the_order_of_words_says() -> None:
    encoder = small()
    classifier = torch.nn.Linear(8, 2)
    seen = encoder.prepare(titles("red mug lamp", "blue mug lamp", "mug lamp", "red lamp mug", "blue lamp mug")).inputs
    optimiser = torch.optim.Adam([*encoder.parameters(), *classifier.parameters()], lr=2e-2)
    for _ in range(80):
        loss = torch.nn.functional.cross_entropy(
            classifier(encoder(**to_tensors(collate_all(encoder, seen), "cpu"))), torch.tensor([0, 0, 0, 1, 1])
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    new = encoder.prepare(titles("steel mug lamp", "steel lamp mug")).inputs
    assert classifier(encoder(**to_tensors(collate_all(encoder, new), "cpu"))).argmax(dim=1).tolist() == [0, 1]
    assert not encoder.embedding.weight[0].any()
