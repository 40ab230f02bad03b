import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from mmbatch.encoders import Encoder, encode
from mmbatch.encoders.foreign import Fit, load_foreign
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.ngram import NgramText
from mmbatch.encoders.precomputed import PrecomputedImage
from mmbatch.encoders.text import TransformersText
from mmbatch.errors import InputError

Weights = dict[str, Any]


@pytest.fixture
def image() -> TimmImage:
    return TimmImage.from_scratch("test_resnet", size=32, seed=0)


@pytest.fixture
def text(small_weights: str) -> TransformersText:
    return TransformersText.from_pretrained("org/tiny-bert", max_length=24, weights=small_weights)


@pytest.fixture(scope="session")
def resnet() -> Weights:
    """Someone else's trained network, with its classifier of 1,000 classes."""
    torch.manual_seed(5)
    return dict(timm.create_model("test_resnet").state_dict())


@pytest.fixture(scope="session")
def bert(small_weights: str) -> Weights:
    """Someone else's fine-tuned text classifier, with a pooler."""
    torch.manual_seed(6)
    config = BertConfig.from_pretrained(f"{small_weights}/org--tiny-bert", num_labels=7)
    return dict(BertForSequenceClassification(config).state_dict())


def saved(folder: Path, content: object, name: str = "model.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def under(prefix: str, weights: Weights) -> Weights:
    return {f"{prefix}{name}": value for name, value in weights.items()}


def snapshot(encoder: Encoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def assert_untouched(encoder: Encoder, before: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_plain_state_dict_gives_the_other_networks_vectors(
    image: TimmImage, resnet: Weights, products: pa.Table, tmp_path: Path
) -> None:
    save_file(resnet, tmp_path / "resnet.safetensors")
    fit = load_foreign(image, tmp_path / "resnet.safetensors")
    other: Any = timm.create_model("test_resnet")
    other.load_state_dict(resnet)
    other.reset_classifier(0)
    pixels = {"pixels": torch.tensor(image.prepare(products).inputs["pixels"])}
    with torch.inference_mode():
        expected = other.eval()((pixels["pixels"].permute(0, 3, 1, 2) - image.mean) / image.std)
        assert torch.allclose(image.eval()(**pixels), expected, atol=1e-5)
    assert (fit.missing, fit.wrong_shape, fit.prefix) == ((), {}, "")
    assert fit.unexpected == ("fc.bias", "fc.weight")
    assert set(fit.loaded) == set(image.state_dict())
    assert fit.describe() == (
        f"{tmp_path}/resnet.safetensors: {len(fit.loaded)} tensors fit; 2 unused of the file: fc.bias, fc.weight"
    )


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda weights: under("module.", weights), "module."),
        (lambda weights: under("module.model.backbone.", weights), "module.model."),
        (lambda weights: {"state_dict": weights, "epoch": 3}, "state_dict."),
        (
            lambda weights: {
                "model": under("module.", weights),
                "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
            },
            "model.module.",
        ),
    ],
)
def test_prefixes_and_wrappers_are_found(
    image: TimmImage, resnet: Weights, tmp_path: Path, wrap: Callable[[Weights], Weights], prefix: str
) -> None:
    fit = load_foreign(image, saved(tmp_path, wrap(resnet)))
    assert (fit.prefix, fit.missing) == (prefix, ())
    assert {name.rpartition(".")[2] for name in fit.unexpected} - {"exp_avg"} == {"bias", "weight"}
    assert sum(".fc." in name for name in fit.unexpected) == 2
    for name in fit.loaded:
        assert torch.equal(image.state_dict()[name], resnet[name.removeprefix("backbone.")])
    assert f"tensors fit under '{prefix}'" in fit.describe()


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "MODEL.PTH"])
def test_a_fine_tuned_classifiers_text_backbone(
    text: TransformersText, bert: Weights, tmp_path: Path, name: str
) -> None:
    fit = load_foreign(text, saved(tmp_path, bert, name))
    assert fit.prefix == "bert."
    assert set(fit.loaded) == set(text.state_dict())
    assert {one.split(".")[0] for one in fit.unexpected} == {"bert", "classifier"}
    assert [one for one in fit.unexpected if one.startswith("bert.")] == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
    ]
    name = "backbone.encoder.layer.1.output.dense.weight"
    assert torch.equal(text.state_dict()[name], bert["bert.encoder.layer.1.output.dense.weight"])


def with_projection(seed: int) -> PrecomputedImage:
    """An encoder with a trained layer beside its backbone."""
    encoder = PrecomputedImage.from_scratch(input_width=6, hidden=5, width=4, seed=seed)
    torch.manual_seed(seed)
    encoder.projection = nn.Linear(4, 3)
    return encoder


def test_an_encoders_own_weights_and_those_beside_its_backbone(tmp_path: Path) -> None:
    first, second, third = map(with_projection, (1, 2, 3))
    assert load_foreign(second, saved(tmp_path, first.state_dict())).missing == ()
    assert_untouched(second, snapshot(first))
    renamed = {name.replace("backbone.", "trunk."): value for name, value in first.state_dict().items()}
    fit = load_foreign(third, saved(tmp_path, under("net.", renamed)))
    assert (fit.prefix, fit.missing, fit.unexpected) == ("net.trunk.", (), ())
    assert_untouched(third, snapshot(first))


def test_what_lies_beside_the_backbone_may_be_missing(tmp_path: Path) -> None:
    encoder, other = with_projection(1), PrecomputedImage.from_scratch(input_width=6, hidden=5, width=4, seed=2)
    before = encoder.state_dict()["projection.weight"].clone()
    fit = load_foreign(encoder, saved(tmp_path, other.state_dict()))
    assert fit.missing == ("projection.bias", "projection.weight")
    assert torch.equal(encoder.state_dict()["projection.weight"], before)
    assert torch.equal(encoder.state_dict()["backbone.2.weight"], other.state_dict()["backbone.2.weight"])


def test_an_encoder_without_a_backbone_is_taken_as_a_whole(tmp_path: Path) -> None:
    first, second = (NgramText.from_scratch(buckets=32, width=4, seed=seed) for seed in (1, 2))
    fit = load_foreign(second, saved(tmp_path, under("model.", first.state_dict())))
    assert (fit.loaded, fit.prefix) == (("embedding.weight",), "model.")
    with pytest.raises(
        InputError, match=r"model\.pth: no tensor fits this encoder; found 1 like embedding\.weight \(3, 4"
    ):
        load_foreign(second, saved(tmp_path, {"embedding.weight": torch.ones(3, 4)}))


def test_tensors_of_a_gpu_come_to_the_cpu(image: TimmImage, resnet: Weights, tmp_path: Path) -> None:
    file = tmp_path / "gpu.pth"
    torch.save(resnet, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()  # a pickle, in which each tensor names its device
    assert b"X\x03\0\0\0cpu" in content
    file.write_bytes(content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
    fit = load_foreign(image, file)
    assert len(fit.loaded) == len(image.state_dict())
    assert {value.device.type for value in image.state_dict().values()} == {"cpu"}
    assert torch.equal(image.state_dict()["backbone.conv1.0.weight"], resnet["conv1.0.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_the_encoders_own(
    image: TimmImage, resnet: Weights, products: pa.Table, tmp_path: Path, dtype: torch.dtype
) -> None:
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in resnet.items()}
    save_file(cast, tmp_path / "half.safetensors")
    fit = load_foreign(image, tmp_path / "half.safetensors")
    assert len(fit.loaded) == len(image.state_dict())
    weight = image.state_dict()["backbone.conv1.0.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, cast["conv1.0.weight"].float())
    assert len(encode(image.eval(), image.prepare(products).inputs, "cpu")) == len(products)


def test_batches_tracked_may_be_missing(image: TimmImage, resnet: Weights, tmp_path: Path) -> None:
    without = {name: value for name, value in resnet.items() if not name.endswith("num_batches_tracked")}
    fit = load_foreign(image, saved(tmp_path, without))
    assert fit.missing
    assert all(name.endswith("num_batches_tracked") for name in fit.missing)


def test_an_optional_tensor_of_another_shape_is_told_and_left(
    image: TimmImage, resnet: Weights, tmp_path: Path
) -> None:
    name = next(name for name in resnet if name.endswith("num_batches_tracked"))
    before = image.state_dict()[f"backbone.{name}"].clone()
    fit = load_foreign(image, saved(tmp_path, resnet | {name: torch.zeros(3, dtype=torch.long)}))
    assert fit.wrong_shape == {f"backbone.{name}": ((3,), ())}
    assert f"1 of another shape: backbone.{name} (3,) instead of ()" in fit.describe()
    assert torch.equal(image.state_dict()[f"backbone.{name}"], before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer4.0.conv1.weight": None}, r"1 missing: backbone\.layer4\.0\.conv1\.weight;"),
        (
            {"conv1.1.running_mean": None} if False else {"bn1.running_mean": None},
            "1 missing: backbone.bn1.running_mean;",
        ),
        (
            {"layer4.0.conv1.weight": torch.ones(2, 3)},
            r"1 of another shape: backbone\.layer4\.0\.conv1\.weight \(2, 3\) instead of \(",
        ),
    ],
)
def test_a_backbone_that_does_not_fit_whole_is_refused_and_left_as_it_was(
    image: TimmImage, resnet: Weights, tmp_path: Path, change: Weights, message: str
) -> None:
    before = snapshot(image)
    weights = {name: value for name, value in (resnet | change).items() if value is not None}
    with pytest.raises(InputError, match=rf"nothing was loaded: .*model\.pth: .*{message}") as raised:
        load_foreign(image, saved(tmp_path, weights))
    assert "\n" not in str(raised.value)
    assert_untouched(image, before)


def test_another_architecture_is_refused(image: TimmImage, bert: Weights, tmp_path: Path) -> None:
    before = snapshot(image)
    with pytest.raises(InputError, match=r"model\.pth: no tensor fits this encoder; found 41 like bert\.embeddings"):
        load_foreign(image, saved(tmp_path, bert))
    other = timm.create_model("resnet18").state_dict()
    with pytest.raises(
        InputError, match=r"not the weights of this timm_image encoder, nothing was loaded: .* and \d+ more"
    ):
        load_foreign(image, saved(tmp_path, other))
    assert_untouched(image, before)


def test_a_larger_model_of_the_same_architecture_is_refused(text: TransformersText, tmp_path: Path) -> None:
    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96)
    before = snapshot(text)
    with pytest.raises(InputError, match=r"layer\.0\.intermediate\.dense\.weight \(96, 32\) instead of \(48, 32\)"):
        load_foreign(text, saved(tmp_path, under("roberta.", dict(BertModel(config).state_dict()))))  # type: ignore[no-untyped-call]
    assert_untouched(text, before)


def test_two_networks_that_fit_alike_are_not_chosen_between(image: TimmImage, resnet: Weights, tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in resnet.items()}
    before = snapshot(image)
    with pytest.raises(InputError, match=r"fits equally well under 'model\.', 'model_ema\.'; expected a file with one"):
        load_foreign(image, saved(tmp_path, {"model": resnet, "model_ema": other}))
    assert_untouched(image, before)
    assert load_foreign(image, saved(tmp_path, {"model": resnet, "same": resnet})).prefix == "same."


class Harmful:
    """What a hostile file holds: unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_pickle_is_not_run(image: TimmImage, resnet: Weights, tmp_path: Path, plain: bool) -> None:
    before, content = snapshot(image), {"state_dict": resnet, "extra": Harmful(tmp_path / "made")}
    file = saved(tmp_path, content)
    if plain:
        file.write_bytes(pickle.dumps({"extra": Harmful(tmp_path / "made")}))
    with pytest.raises(InputError, match=r"model\.pth: (asks for \w+\.mkdir, whose code is not run|damaged)") as raised:
        load_foreign(image, file)
    assert "weights_only" not in str(raised.value)
    assert not (tmp_path / "made").exists()
    assert_untouched(image, before)


def test_a_whole_module_is_refused(image: TimmImage, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"asks for torch\.nn\.modules\.linear\.Linear, whose code is not run"):
        load_foreign(image, saved(tmp_path, nn.Linear(2, 2)))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model.bin"])
@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.99])
def test_a_truncated_file_is_refused(image: TimmImage, resnet: Weights, tmp_path: Path, name: str, kept: float) -> None:
    file = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(resnet, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    before = snapshot(image)
    with pytest.raises(InputError, match=f"{name}: damaged") as raised:
        load_foreign(image, file)
    assert "\n" not in str(raised.value)
    assert_untouched(image, before)


def test_files_that_are_no_state_dict(image: TimmImage, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights\.h5: expected a state dict in a file that ends in \.safetensors, "):
        load_foreign(image, tmp_path / "weights.h5")
    with pytest.raises(InputError, match=r"none\.pth: cannot be read: No such file"):
        load_foreign(image, tmp_path / "none.pth")
    for content in ({}, [torch.ones(2)], torch.ones(2), {"epoch": 3}):
        with pytest.raises(InputError, match=r"model\.pth: holds no tensors"):
            load_foreign(image, saved(tmp_path, content))


def test_a_dict_that_holds_itself_is_refused(image: TimmImage, tmp_path: Path) -> None:
    loop: Weights = {"weight": torch.ones(1)}
    loop["self"] = loop
    with pytest.raises(InputError, match=r"model\.pth: damaged"):
        load_foreign(image, saved(tmp_path, loop))


def test_a_file_of_an_object_store(image: TimmImage, resnet: Weights, tmp_path: Path) -> None:
    file = saved(tmp_path, resnet)
    fsspec.filesystem("memory").pipe("/weights/model.pth", file.read_bytes())
    assert load_foreign(image, "memory://weights/model.pth").missing == ()


def test_long_lists_are_cut_short() -> None:
    names = tuple(f"layer.{number}" for number in range(25))
    fit = Fit(file="a.pth", prefix="", loaded=("x",), missing=names, unexpected=("a\nb",), wrong_shape={})
    assert fit.describe() == (
        f"a.pth: 1 tensors fit; 25 missing: {', '.join(names[:20])} and 5 more; 1 unused of the file: a b"
    )
