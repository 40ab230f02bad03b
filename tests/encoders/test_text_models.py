"""Poolings, fields and architectures of `TransformersText`, on small twins of the models that systems use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from mmbatch.encoders import build_encoder, collate_all, encode, engine_for, load_encoder, row_sizes, to_tensors
from mmbatch.encoders.openvino_engine import OpenVinoEngine
from mmbatch.encoders.pooling import FlattenedTokens
from mmbatch.encoders.text import TransformersText
from mmbatch.errors import InputError

BERT, CAMEMBERT, FLAUBERT = "org/tiny-bert", "org/tiny-camembert", "org/tiny-flaubert"
KAKAO = {"model": BERT, "pooling": "pooler", "fields": "pair", "max_length": 24}
COMBINATIONS = [
    *((model, pooling) for model in (BERT, CAMEMBERT, FLAUBERT) for pooling in ("mean", "first", "flatten")),
    (BERT, "pooler"),
]


def make(weights: str, **arguments: Any) -> TransformersText:
    settings: dict[str, Any] = {"model": BERT, "max_length": 24, "weights": weights, "seed": 3} | arguments
    return TransformersText.from_pretrained(**settings).eval()


def table(titles: list[str | None], descriptions: list[str | None]) -> pa.Table:
    return pa.table({"title": pa.array(titles, pa.string()), "description": pa.array(descriptions, pa.string())})


def vectors(encoder: TransformersText, batch: pa.Table) -> np.ndarray:
    return encode(encoder, encoder.prepare(batch).inputs, "cpu").astype(np.float32)


def plain_vector(encoder: TransformersText, pooling: str, folder: Path, ids: list[int]) -> Tensor:
    """Of one text, without padding, by transformers alone."""
    output = AutoModel.from_pretrained(folder).eval()(input_ids=torch.tensor([ids]))
    states_LW = output.last_hidden_state[0]
    if pooling == "mean":
        return states_LW.mean(dim=0)
    if pooling == "first":
        return states_LW[0]
    if pooling == "pooler":
        return output.pooler_output[0]
    padded_MW = torch.zeros(encoder.max_length, encoder.width)
    padded_MW[: len(ids)] = states_LW
    return encoder.get_submodule("pooling.linear")(padded_MW.flatten())


@pytest.mark.parametrize(("model", "pooling"), COMBINATIONS)
def test_equals_plain_transformers_for_each_text_alone(
    small_weights: str, products: pa.Table, model: str, pooling: str
) -> None:
    encoder = make(small_weights, model=model, pooling=pooling)
    prepared = encoder.prepare(products).inputs
    together = encode(encoder, prepared, "cpu")
    folder = Path(small_weights) / model.replace("/", "--")
    for row in (0, 3, 11):
        ids = prepared["ids"][prepared["offsets"][row] : prepared["offsets"][row + 1]].tolist()
        with torch.inference_mode():
            expected = plain_vector(encoder, pooling, folder, ids).numpy()
        np.testing.assert_allclose(together[row], expected, atol=2e-3)


@pytest.mark.parametrize(("model", "pooling"), COMBINATIONS)
def test_a_saved_encoder_gives_the_same_bits(
    small_weights: str, products: pa.Table, tmp_path: Path, model: str, pooling: str
) -> None:
    encoder = make(small_weights, model=model, pooling=pooling)
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.config() == encoder.config()
    np.testing.assert_array_equal(encode(loaded, loaded.prepare(products).inputs, "cpu"), vectors(encoder, products))


@pytest.mark.parametrize(("model", "pooling"), COMBINATIONS)
def test_every_weight_is_trained(small_weights: str, products: pa.Table, model: str, pooling: str) -> None:
    encoder = make(small_weights, model=model, pooling=pooling).train()
    inputs = collate_all(encoder, encoder.prepare(products).inputs)
    encoder(**to_tensors(inputs, "cpu")).square().sum().backward()
    assert [name for name, weight in encoder.named_parameters() if weight.grad is None] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"pooling": "first"},
        {"pooling": "flatten", "model": CAMEMBERT},
        {"pooling": "first", "model": FLAUBERT},
        KAKAO,
    ],
    ids=["bert-first", "camembert-flatten", "flaubert-first", "bert-pooler-pair"],
)
def test_openvino_gives_the_same_vectors(small_weights: str, products: pa.Table, arguments: Mapping[str, Any]) -> None:
    encoder = make(small_weights, **arguments)
    engine = engine_for(encoder, "cpu", threads=1, contents=1_000_000)
    assert isinstance(engine, OpenVinoEngine)
    for rows in (1, 5, 12):
        batch = products.slice(12 - rows, rows)
        found = engine(collate_all(encoder, encoder.prepare(batch).inputs)).astype(np.float32)
        expected = vectors(encoder, batch)
        cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosines.min() >= 0.9999


def test_new_weights_come_from_the_seed_alone(small_weights: str) -> None:
    before = torch.get_rng_state()
    encoders = [
        build_encoder("transformers", model=BERT, max_length=24, pooling="flatten", weights=small_weights, seed=seed)
        for seed in (5, 5, 6)
    ]
    first, again, other = (encoder.get_parameter("pooling.linear.weight") for encoder in encoders)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_flattened_tokens_equal_texts_padded_to_the_longest_that_may_be() -> None:
    torch.manual_seed(0)
    pooling = FlattenedTokens(tokens=10, width=4)
    states_BMW, lengths = torch.randn(3, 10, 4), torch.tensor([2, 6, 1])
    mask_BM = (torch.arange(10) < lengths[:, None]).to(torch.uint8)
    expected = pooling.linear((states_BMW * mask_BM[..., None]).flatten(1))
    torch.testing.assert_close(pooling(states_BMW[:, :6], mask_BM[:, :6]), expected)
    torch.testing.assert_close(pooling(states_BMW, mask_BM), expected)


@pytest.mark.parametrize("model", [CAMEMBERT, FLAUBERT])
def test_a_pooler_that_is_not_there_is_refused(small_weights: str, model: str) -> None:
    with pytest.raises(InputError, match=r"tiny-camembert: weights do not fit .*pooler|a flaubert model has none"):
        make(small_weights, model=model, pooling="pooler")


def test_a_pooler_that_the_weights_lack_is_refused(small_weights: str, tmp_path: Path) -> None:
    source, folder = Path(small_weights) / "org--tiny-bert", tmp_path / "org--tiny-bert"
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    kept = {name: one for name, one in load_file(source / "model.safetensors").items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"tiny-bert: weights do not fit the model, .*pooler\.dense\.weight"):
        make(str(tmp_path), pooling="pooler")


@pytest.mark.parametrize("argument", ["pooling", "fields"])
def test_an_unknown_setting_is_named(small_weights: str, argument: str) -> None:
    with pytest.raises(InputError, match=f"{argument} is 'all', expected "):
        make(small_weights, **{argument: "all"})


def test_a_pair_is_tokenised_as_transformers_does(small_weights: str) -> None:
    encoder = make(small_weights, **KAKAO)
    titles, descriptions = ["red mug", "lamp", "soft " * 20], ["with a handle", "steel " * 30, "blue " * 15]
    tokens = AutoTokenizer.from_pretrained(Path(small_weights) / "org--tiny-bert")(
        titles, descriptions, truncation="longest_first", max_length=24, padding=True, return_token_type_ids=True
    )
    arrays = collate_all(encoder, encoder.prepare(table([*titles], [*descriptions])).inputs)
    assert {name: array.tolist() for name, array in arrays.items()} == dict(tokens)
    assert arrays["token_type_ids"].dtype == np.uint8


def test_a_pair_goes_through_bert_with_its_token_types(small_weights: str, products: pa.Table) -> None:
    encoder = make(small_weights, **KAKAO)
    arrays = collate_all(encoder, encoder.prepare(products).inputs)
    bert = AutoModel.from_pretrained(Path(small_weights) / "org--tiny-bert").eval()
    with torch.inference_mode():
        expected = bert(**{name: torch.tensor(array).long() for name, array in arrays.items()}).pooler_output.numpy()
    np.testing.assert_allclose(vectors(encoder, products), expected, atol=2e-3)


@pytest.mark.parametrize("model", [BERT, CAMEMBERT, FLAUBERT])
def test_one_field_of_a_pair_is_a_single_text(small_weights: str, model: str) -> None:
    pair, joined = (make(small_weights, model=model, fields=fields) for fields in ("pair", "joined"))
    batch = table(["red mug", None, None, " "], [None, "red mug", None, "lamp"])
    assert pair.prepare(batch).failures == joined.prepare(batch).failures
    np.testing.assert_array_equal(vectors(pair, batch), vectors(joined, batch))
    both = table(["red mug"], ["lamp"])
    assert np.abs(vectors(pair, both) - vectors(joined, both)).max() > 1e-3


def test_token_types_are_for_models_that_have_them(small_weights: str, products: pa.Table) -> None:
    for model in (CAMEMBERT, FLAUBERT):
        encoder = make(small_weights, model=model, fields="pair")
        assert sorted(encoder.prepare(products).inputs) == ["ids", "offsets"]


def test_the_separator_stands_between_title_and_description(small_weights: str) -> None:
    spaced, dotted = make(small_weights, separator=" "), make(small_weights)
    batch = table(["red mug"], ["lamp"])
    np.testing.assert_array_equal(vectors(spaced, batch), vectors(dotted, table(["red mug lamp"], [None])))
    assert encode_length(spaced, batch) + 1 == encode_length(dotted, batch)


def encode_length(encoder: TransformersText, batch: pa.Table) -> int:
    return int(row_sizes(encoder, batch)[0])


def test_config_tells_apart_what_changes_the_vectors(small_weights: str) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"pooling": "first"},
        {"pooling": "pooler"},
        {"pooling": "flatten"},
        {"fields": "pair"},
        {"separator": " "},
        {"max_length": 23},
    ]
    configs = [make(small_weights, **one).config() for one in settings]
    assert all(configs[a] != configs[b] for a in range(len(configs)) for b in range(a))
    assert make(small_weights, fields="pair", separator=" ").config() == configs[4]  # a pair has no separator


@pytest.mark.parametrize(("model", "positions"), [(BERT, 44), (CAMEMBERT, 32), (FLAUBERT, 30)])
def test_a_text_may_fill_all_positions_and_no_more(small_weights: str, model: str, positions: int) -> None:
    encoder = make(small_weights, model=model, max_length=positions)
    long = table(["mug " * 60], [None])
    assert encode_length(encoder, long) == positions
    assert np.isfinite(vectors(encoder, long)).all()
    with pytest.raises(InputError, match=rf"{model}: max_length is {positions + 1}, expected 1 to {positions} tokens"):
        make(small_weights, model=model, max_length=positions + 1)


PUBLISHED: Mapping[str, dict[str, Any]] = {
    "camembert-base": {
        "model_type": "camembert",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "vocab_size": 32005,
        "pad_token_id": 1,
        "bos_token_id": 5,
        "eos_token_id": 6,
    },
    "flaubert/flaubert_base_cased": {
        "model_type": "flaubert",
        "emb_dim": 768,
        "n_heads": 12,
        "n_layers": 12,
        "n_langs": 1,
        "langs": ["fr"],
        "lang2id": {"fr": 0},
        "max_position_embeddings": 512,
        "mlm_steps": [["fr", None]],
        "pre_norm": False,
        "layerdrop": 0.0,
        "vocab_size": 68729,
        "n_words": 68729,
    },
    "kykim/bert-kor-base": {
        "model_type": "bert",
        "embedding_size": 768,
        "max_position_embeddings": 512,
        "pooler_type": "first_token_transform",
        "type_vocab_size": 2,
        "vocab_size": 42000,
    },
}


FULL = [
    ("camembert-base", "flatten", 256, 110_031_360, 256 * 768 * 768 + 768),
    ("flaubert/flaubert_base_cased", "first", 256, 138_233_088, 0),
    ("kykim/bert-kor-base", "pooler", 30, 117_706_752, 768 * 768 + 768),
]


def full_size(model: str, pooling: Any, max_length: int) -> TransformersText:
    """The published architecture with random weights and a tokenizer of one word."""
    tokenizer = Tokenizer(models.WordLevel({"mug": 4}, unk_token="mug"))
    tokenizer.enable_padding(pad_id=1)
    return TransformersText(
        backbone=AutoModel.from_config(AutoConfig.for_model(**PUBLISHED[model])),
        tokenizer=tokenizer,
        max_length=max_length,
        pooling=pooling,
        fields="joined",
        separator=" ",
    )


@pytest.mark.parametrize(("model", "pooling", "max_length", "backbone", "added"), FULL)
def test_the_full_models_have_their_published_size(
    model: str, pooling: str, max_length: int, backbone: int, added: int
) -> None:
    """CamemBERT's paper says 110 million, FlauBERT's 138; of the Korean BERT the vocabulary is published."""
    with torch.device("meta"):
        encoder = full_size(model, pooling, max_length)
    assert encoder.width == 768
    assert sum(weight.numel() for weight in encoder.backbone.parameters()) == backbone
    assert sum(weight.numel() for weight in encoder.pooling.parameters()) == added


@pytest.mark.slow
@pytest.mark.parametrize(("model", "pooling", "max_length"), [one[:3] for one in FULL])
def test_the_full_models_encode(model: str, pooling: str, max_length: int) -> None:
    encoder = full_size(model, pooling, max_length).eval()
    found = vectors(encoder, table(["mug", None], ["mug", "mug"]))
    assert found.shape == (2, 768)
    assert found.any(axis=1).all()
