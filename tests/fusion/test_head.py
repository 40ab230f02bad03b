import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbatch.errors import InputError
from mmbatch.fusion.base import hide_one
from mmbatch.fusion.head import HEADS, FusionHead, build_head, load_head
from mmbatch.training import MODALITY_DROPOUT
from tests.fusion.heads import ARGUMENTS, CLASSES, MODALITIES, WIDTHS, make_head, make_inputs, some_missing

KINDS = sorted(ARGUMENTS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def missing_embeddings(head: FusionHead) -> list[torch.Tensor]:
    """Gradients of what stands for each input, by name of the input."""
    parameters = dict(head.named_parameters())
    if "missing.0" in parameters:
        return [parameters[f"missing.{i}"].grad for i in range(len(WIDTHS))]
    (name,) = [name for name in parameters if name.endswith("missing")]
    return list(parameters[name].grad)


def test_every_kind_is_tested():
    assert sorted(HEADS) == KINDS
    assert [make_head(kind).kind for kind in KINDS] == KINDS


@every_kind
def test_logits_have_one_column_a_class_of_each_level(kind: str):
    head = make_head(kind)
    logits = head(*make_inputs(rows=7))
    assert logits.shape == (7, 8)
    levels = head.by_level(logits)
    assert [tuple(level.shape) for level in levels] == [(7, 3), (7, 5)]
    assert torch.equal(torch.cat(levels, dim=1), logits)


@every_kind
def test_logits_are_the_classifiers_of_the_joined_embedding(kind: str):
    head, inputs = make_head(kind).eval(), some_missing()
    joined = head.embed(*inputs)
    assert joined.shape == (5, head.classifier.in_features)
    assert torch.equal(head.classifier(joined), head(*inputs))
    with pytest.raises(ValueError, match="found inputs"):
        head.embed({}, inputs[1])


@every_kind
def test_a_level_is_classified_by_a_linear_layer_of_its_own(kind: str):
    head, inputs = make_head(kind).eval(), make_inputs()
    before = head.by_level(head(*inputs))
    with torch.no_grad():
        head.classifier.weight[: CLASSES[0]] += 1
    after = head.by_level(head(*inputs))
    assert not torch.isclose(before[0], after[0]).any()
    assert torch.equal(before[1], after[1])


@every_kind
def test_every_parameter_gets_a_finite_gradient(kind: str):
    head = make_head(kind, dropout=0.0, modality_dropout=0.0)
    logits = head(*some_missing())
    assert logits.isfinite().all()
    torch.nn.functional.cross_entropy(head.by_level(logits)[1], torch.arange(5)).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@every_kind
def test_only_what_is_missing_trains_what_stands_for_it(kind: str):
    head, (features, present) = make_head(kind).eval(), make_inputs()
    present["image"][2:] = False
    head(features, present).square().sum().backward()
    image, text, words = (gradient.abs().sum() for gradient in missing_embeddings(head))
    assert image > 0
    assert text == words == 0


@every_kind
def test_what_stands_in_a_missing_row_is_not_read(kind: str):
    head, (features, present) = make_head(kind).eval(), some_missing()
    logits = head(features, present)
    assert logits.isfinite().all()
    assert torch.equal(head({name: value.nan_to_num(9.0) for name, value in features.items()}, present), logits)


@every_kind
def test_a_product_does_not_depend_on_the_others(kind: str):
    head, (features, present) = make_head(kind).eval(), some_missing(rows=6)
    together = head(features, present)
    for row in range(6):
        alone = head(
            {name: value[[row]] for name, value in features.items()},
            {name: value[[row]] for name, value in present.items()},
        )
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)


@every_kind
def test_no_products_have_no_logits(kind: str):
    assert make_head(kind)(*make_inputs(rows=0)).shape == (0, 8)


@every_kind
def test_a_missing_input_changes_the_logits_of_its_row_only(kind: str):
    head, (features, present) = make_head(kind).eval(), make_inputs()
    before = head(features, present)
    present["text@1.0"][3] = False
    changed = (head(features, present) != before).any(dim=1)
    assert changed.tolist() == [False, False, False, True, False]


@every_kind
def test_order_of_inputs_does_not_matter(kind: str):
    head, (features, present) = make_head(kind).eval(), make_inputs()
    turned = {"widths": dict(reversed(WIDTHS.items())), "modalities": dict(reversed(MODALITIES.items()))}
    other = make_head(kind, **turned).eval()
    assert other.config() == head.config()
    assert torch.equal(
        head(features, present), other(dict(reversed(features.items())), dict(reversed(present.items())))
    )


@every_kind
def test_evaluation_repeats_itself_and_training_hides(kind: str):
    head, inputs = make_head(kind, dropout=0.0), make_inputs(rows=400)
    evaluated = head.eval()(*inputs)
    assert torch.equal(head(*inputs), evaluated)
    hidden = (head.train()(*inputs) != evaluated).any(dim=1).float().mean().item()
    assert hidden == pytest.approx(MODALITY_DROPOUT, abs=0.08)


@every_kind
def test_hiding_can_be_turned_off(kind: str):
    head, inputs = make_head(kind, dropout=0.0, modality_dropout=0.0), make_inputs(rows=50)
    assert torch.equal(head.train()(*inputs), head.eval()(*inputs))


@every_kind
def test_dropout_acts_in_training_only(kind: str):
    head, inputs = make_head(kind, dropout=0.5, modality_dropout=0.0), make_inputs()
    assert not torch.equal(head.train()(*inputs), head(*inputs))
    assert torch.equal(head.eval()(*inputs), head(*inputs))


@every_kind
def test_what_stands_for_an_input_is_learned_where_every_product_has_every_input(kind: str):
    head = make_head(kind)
    head(*make_inputs(rows=400)).square().sum().backward()
    assert all(gradient.abs().sum() > 0 for gradient in missing_embeddings(head))


@every_kind
def test_no_product_loses_its_only_input(kind: str):
    head, (features, present) = make_head(kind, dropout=0.0, modality_dropout=1.0), make_inputs(rows=400)
    present["image"][:] = present["words"][:] = False
    assert torch.equal(head.train()(features, present), head.eval()(features, present))


def test_a_hidden_modality_is_one_of_several_and_goes_whole():
    """Of two texts and an image: both texts go, or the image; and nothing where there are texts only."""
    torch.manual_seed(0)
    present_BM = torch.tensor([[True, True, True], [True, True, False], [True, False, True]]).repeat(1000, 1)
    left_BM = hide_one(present_BM, ["text", "text", "image"], share=0.3).reshape(1000, 3, 3)
    rows = [{tuple(left) for left in left_BM[:, kind].tolist()} for kind in range(3)]
    assert rows[0] == {(True, True, True), (False, False, True), (True, True, False)}
    assert rows[1] == {(True, True, False)}
    assert rows[2] == {(True, False, True), (False, False, True), (True, False, False)}
    assert left_BM[:, 0, 0].float().mean() == pytest.approx(0.85, abs=0.05)
    assert left_BM[:, 0, 2].float().mean() == pytest.approx(0.85, abs=0.05)


@every_kind
def test_learns_a_rule_that_needs_both_inputs(kind: str):
    torch.manual_seed(0)
    features = {"a": torch.randn(400, 16), "b": torch.randn(400, 16)}
    present = {name: torch.ones(400, dtype=torch.bool) for name in features}
    labels = (features["a"][:, 0] + features["b"][:, 0] > 0).long()
    head = build_head(
        kind=kind,
        widths={"a": 16, "b": 16},
        modalities={"a": "text", "b": "image"},
        classes=[2],
        dropout=0.0,
        **(ARGUMENTS[kind] | ({"heads": 4} if kind == "cross-attention" else {})),
    )
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(features, present), labels).backward()
        optimizer.step()
    accuracy = (head.eval()(features, present).argmax(1) == labels).float().mean()
    assert accuracy > 0.9  # either input alone: 0.75


@every_kind
def test_save_and_load_give_the_same_logits(kind: str, tmp_path: Path):
    head, inputs = make_head(kind, modality_dropout=0.1), some_missing()
    head.save(tmp_path / "new")
    loaded = load_head(tmp_path / "new")
    assert not loaded.training
    assert type(loaded) is type(head)
    assert loaded.config() == head.config()
    assert loaded.config()["kind"] == kind
    assert loaded.config()["modality_dropout"] == 0.1
    assert torch.equal(loaded(*inputs), head.eval()(*inputs))


@pytest.mark.parametrize("missing", ["head.json", "head.safetensors"])
def test_load_says_which_file_is_missing(tmp_path: Path, missing: str):
    make_head("concatenation").save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=missing):
        load_head(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"), [("head.safetensors", b"not a tensor"), ("head.json", b"{"), ("head.json", b"\xff")]
)
def test_load_refuses_damaged_files(tmp_path: Path, file: str, content: bytes):
    make_head("gated").save(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match="no fusion head in"):
        load_head(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kind": "stack"},
            r"'stack', expected one of \['addition', 'concatenation', 'cross-attention', 'gated'",
        ),
        ({"kind": ["gated"]}, r"found kind of fusion head \['gated'\]"),
        ({"kind": "simple"}, "'hidden'"),
        ({"classes": [9]}, "does not fit head.json"),
        ({"classes": 9}, "head.json: .* the concatenation head"),
        ({"widths": ["image"]}, "head.json: .* the concatenation head"),
        ({"hidden": 0}, "head.json: hidden width of the concatenation head: found 0"),
        ({"depth": 2}, "'depth'"),
    ],
)
def test_load_refuses_another_configuration(tmp_path: Path, change: dict[str, object], message: str):
    head = make_head("concatenation")
    head.save(tmp_path)
    (tmp_path / "head.json").write_text(json.dumps(head.config() | change))
    with pytest.raises(InputError, match=message) as caught:
        load_head(tmp_path)
    assert "\n" not in str(caught.value)


def test_load_refuses_a_configuration_that_is_no_object(tmp_path: Path):
    make_head("simple").save(tmp_path)
    (tmp_path / "head.json").write_text("[1]")
    with pytest.raises(InputError, match=r"head.json: found a JSON list, expected an object"):
        load_head(tmp_path)


@every_kind
def test_wrong_inputs_are_named(kind: str):
    head, (features, present) = make_head(kind), make_inputs()
    names = r"\['image', 'text@1.0', 'words'\]"
    with pytest.raises(ValueError, match=rf"features of the {kind} head: found inputs \['image'\], expected {names}"):
        head({"image": features["image"]}, present)
    with pytest.raises(ValueError, match=rf"present of the {kind} head: found inputs \[\], expected {names}"):
        head(features, {})
    with pytest.raises(ValueError, match=r"'image': found features \[5, 9\] .* expected \[5, 10\]"):
        head(features | {"image": torch.zeros(5, 9)}, present)
    with pytest.raises(ValueError, match=r"present \[4\]"):
        head(features, present | {"image": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"'image': found present of type torch.float32, expected torch.bool"):
        head(features, present | {"image": torch.ones(5)})


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"cross-attention"}))
def test_heads_of_one_embedding_refuse_a_sequence(kind: str):
    features, present = make_inputs()
    sequence = {"image": torch.zeros(5, 2, 10)}, {"image": torch.ones(5, 2, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"features \[5, 2, 10\] and present \[5, 2\], expected \[5, 10\] and \[5\]"):
        make_head(kind)(features | sequence[0], present | sequence[1])


@every_kind
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": {}, "modalities": {}}, "at least one input"),
        ({"widths": WIDTHS | {"words": 0}}, "input 'words' of the .* head: found width 0"),
        ({"classes": []}, r"classes of the .* head: found \[\]"),
        ({"classes": [3, 0]}, r"classes of the .* head: found \[3, 0\], expected 1 or more on each level"),
        ({"dropout": 1.5}, "dropout of the .* head: found 1.5, expected 0 to 1"),
        ({"dropout": math.nan}, "dropout of the .* head: found nan"),
        ({"modality_dropout": -0.1}, "modality_dropout of the .* head: found -0.1"),
        ({"layers": 3}, "'layers'"),
    ],
)
def test_bad_arguments_are_named(kind: str, change: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        make_head(kind, **change)


@pytest.mark.parametrize("kind", ["concatenation", "gated"])
def test_hidden_width_must_be_positive(kind: str):
    with pytest.raises(InputError, match=f"hidden width of the {kind} head: found 0, expected 1 or more"):
        make_head(kind, hidden=0)


def test_an_unknown_kind_is_named():
    with pytest.raises(InputError, match="kind of fusion head 'stack', expected one of"):
        build_head(kind="stack", widths=WIDTHS, modalities=MODALITIES, classes=[3])


@pytest.mark.parametrize("kind", ["addition", "cross-attention", "simple"])
@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        (dict.fromkeys(WIDTHS, "image"), "head needs a text input, found images only: .'image', 'text@1.0', 'words'."),
        ({"image": "image"}, r"modalities of the .* head: found inputs \['image'\], expected \['image', 'text@1.0'"),
        (MODALITIES | {"words": "sound"}, r"modality of input 'words': found 'sound', expected one of \['image', 'te"),
    ],
)
def test_bad_modalities_are_named(kind: str, modalities: dict[str, str], message: str):
    with pytest.raises(InputError, match=message):
        make_head(kind, modalities=modalities)
