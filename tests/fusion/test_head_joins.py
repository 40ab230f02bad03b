"""Each head against the formula of its docstring, written out product by product in float64."""

import math

import numpy as np
import pytest
import torch

from mmbatch.fusion.head import FusionHead
from tests.fusion.heads import WIDTHS, make_head, make_inputs, some_missing

NAMES = sorted(WIDTHS)  # image, text@1.0, words


def weights(head: FusionHead) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in head.state_dict().items()}


def layer_norm(x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    variance = sum((value - x.mean()) ** 2 for value in x) / len(x)
    return (x - x.mean()) / math.sqrt(variance + 1e-5) * scale + shift


def reference(head: FusionHead, joined_of, inputs) -> torch.Tensor:
    """`joined_of(w, row)`: a row is the embeddings by sorted name, None where missing."""
    features, present = inputs
    w, rows = weights(head), []
    for i in range(len(features["image"])):
        row = [features[name][i].double().numpy() if present[name][i] else None for name in NAMES]
        rows.append(w["classifier.weight"] @ joined_of(w, row) + w["classifier.bias"])
    return torch.tensor(np.array(rows), dtype=torch.float32)


def concatenated(w: dict[str, np.ndarray], row: list[np.ndarray | None]) -> np.ndarray:
    parts = []
    for i, value in enumerate(row):
        if value is None:
            parts.append(w["missing"][i])
        else:
            normed = layer_norm(value, w[f"norms.{i}.weight"], w[f"norms.{i}.bias"])
            parts.append(w[f"projections.{i}.weight"] @ normed + w[f"projections.{i}.bias"])
    return np.concatenate(parts)


def at_text_width(w: dict[str, np.ndarray], row: list[np.ndarray | None]) -> list[np.ndarray]:
    parts = []
    for i, value in enumerate(row):
        if value is None:
            parts.append(w["text_width.missing"][i])
        elif NAMES[i] == "text@1.0":  # the widest text
            parts.append(value)
        else:
            layer = f"text_width.projections.{i}"
            parts.append(w[f"{layer}.weight"] @ value + w[f"{layer}.bias"])
    return parts


def added(w: dict[str, np.ndarray], row: list[np.ndarray | None]) -> np.ndarray:
    image, text, words = at_text_width(w, row)
    return image + text + words


def simple(w: dict[str, np.ndarray], row: list[np.ndarray | None]) -> np.ndarray:
    return layer_norm(np.concatenate(at_text_width(w, row)), w["norm.weight"], w["norm.bias"])


def gated(w: dict[str, np.ndarray], row: list[np.ndarray | None]) -> np.ndarray:
    x = [
        w[f"missing.{i}"] if value is None else layer_norm(value, w[f"norms.{i}.weight"], w[f"norms.{i}.bias"])
        for i, value in enumerate(row)
    ]
    h = [np.tanh(w[f"projections.{i}.weight"] @ x[i] + w[f"projections.{i}.bias"]) for i in range(len(x))]
    width, gates = len(h[0]), w["gate.weight"] @ np.concatenate(x) + w["gate.bias"]
    joined = np.zeros(width)
    for unit in range(width):
        shares = [math.exp(gates[i * width + unit]) for i in range(len(x))]
        joined[unit] = sum(share / sum(shares) * h[i][unit] for i, share in enumerate(shares))
    return joined


@pytest.mark.parametrize(
    ("kind", "joined_of"), [("concatenation", concatenated), ("addition", added), ("simple", simple), ("gated", gated)]
)
@pytest.mark.parametrize("inputs", [make_inputs(), some_missing()], ids=["whole", "missing"])
def test_a_head_is_its_formula(kind: str, joined_of, inputs):
    head = make_head(kind).eval()
    torch.testing.assert_close(head(*inputs), reference(head, joined_of, inputs), rtol=1e-5, atol=1e-5)


def test_the_gate_of_two_inputs_is_the_gated_multimodal_unit():
    widths = {"a": 3, "b": 5}
    head = make_head("gated", widths=widths, modalities={"a": "text", "b": "image"}, hidden=4).eval()
    w, hidden = weights(head), 4
    a, b = torch.randn(6, 3), torch.randn(6, 5)
    present = {name: torch.ones(6, dtype=torch.bool) for name in widths}
    joined = []
    for row in range(6):
        x = [
            layer_norm(value[row].double().numpy(), w[f"norms.{i}.weight"], w[f"norms.{i}.bias"])
            for i, value in enumerate((a, b))
        ]
        h = [np.tanh(w[f"projections.{i}.weight"] @ x[i] + w[f"projections.{i}.bias"]) for i in range(2)]
        difference = w["gate.weight"][:hidden] - w["gate.weight"][hidden:]
        z = 1 / (1 + np.exp(-(difference @ np.concatenate(x) + w["gate.bias"][:hidden] - w["gate.bias"][hidden:])))
        joined.append(z * h[0] + (1 - z) * h[1])
    found = head.classifier.weight.new_tensor(np.array(joined)) @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(head({"a": a, "b": b}, present), found, rtol=1e-5, atol=1e-5)


def test_the_head_of_the_paper_has_its_sizes():
    sizes = {"camembert": 768, "flaubert": 768, "se-resnext": 2048}
    modalities = {"camembert": "text", "flaubert": "text", "se-resnext": "image"}
    addition = make_head("addition", widths=sizes, modalities=modalities, classes=[27])
    assert addition.classifier.weight.shape == (27, 768)
    assert [name for name, _ in addition.text_width.projections.named_parameters()] == ["2.weight", "2.bias"]
    concatenation = make_head("concatenation", widths=sizes, modalities=modalities, hidden=768, classes=[27])
    assert concatenation.classifier.weight.shape == (27, 3 * 768)
    kakao = make_head(
        "simple",
        widths={"bert": 768, "resnet": 2048},
        modalities={"bert": "text", "resnet": "image"},
        classes=[57, 552, 3190, 404],
    )
    assert kakao.classifier.weight.shape == (57 + 552 + 3190 + 404, 2 * 768)


def test_an_image_as_wide_as_the_text_is_projected_and_the_text_is_not():
    head = make_head("addition", widths={"a": 6, "b": 6}, modalities={"a": "image", "b": "text"})
    assert [name for name, _ in head.text_width.projections.named_parameters()] == ["0.weight", "0.bias"]


@pytest.mark.parametrize("kind", ["concatenation", "gated"])
def test_scale_of_an_input_does_not_matter(kind: str):
    head, (features, present) = make_head(kind).eval(), make_inputs()
    scaled = features | {"image": features["image"] * 1000}
    torch.testing.assert_close(head(scaled, present), head(features, present), rtol=1e-3, atol=1e-3)
