import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmbatch.errors import InputError
from mmbatch.fusion.head import HIDDEN_SHARE, ConcatenationHead, _hide_one, load_head

WIDTHS = {"text@1.0": 6, "image": 10}


def make_head(dropout: float = 0.5) -> ConcatenationHead:
    torch.manual_seed(0)
    head = ConcatenationHead(widths=WIDTHS, classes=3, hidden=4, dropout=dropout)
    torch.nn.init.normal_(head.missing)
    return head


def make_inputs(rows: int = 5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    features = {name: torch.randn(rows, width, generator=generator) for name, width in WIDTHS.items()}
    return features, {name: torch.ones(rows, dtype=torch.bool) for name in WIDTHS}


def test_logits_have_one_column_a_class():
    assert make_head()(*make_inputs(rows=5)).shape == (5, 3)


def test_order_of_inputs_does_not_matter():
    features, present = make_inputs()
    turned = {name: features[name] for name in reversed(features)}
    torch.manual_seed(0)
    other = ConcatenationHead(widths=dict(reversed(WIDTHS.items())), classes=3, hidden=4, dropout=0.5).eval()
    other.load_state_dict(make_head().state_dict())
    assert torch.equal(make_head().eval()(features, present), other(turned, present))


def test_scale_of_an_input_does_not_matter():
    head, (features, present) = make_head().eval(), make_inputs()
    scaled = features | {"image": features["image"] * 1000}
    torch.testing.assert_close(head(scaled, present), head(features, present), rtol=1e-3, atol=1e-3)


def test_missing_input_is_not_read_and_reaches_no_gradient():
    head, (features, present) = make_head().eval(), make_inputs()
    present["image"][2:] = False
    broken = features | {"image": features["image"].clone()}
    broken["image"][2:] = float("nan")
    assert torch.equal(head(broken, present), head(features, present))
    head(broken, present).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert head.missing.grad[0].abs().sum() > 0  # of "image", first in sorted order
    assert head.missing.grad[1].abs().sum() == 0


def test_missing_input_changes_the_logits_of_its_row_only():
    head, (features, present) = make_head().eval(), make_inputs()
    before = head(features, present)
    present["text@1.0"][3] = False
    changed = (head(features, present) != before).any(dim=1)
    assert changed.tolist() == [False, False, False, True, False]


def test_learns_a_rule_that_needs_both_inputs():
    torch.manual_seed(0)
    features = {"a": torch.randn(400, 16), "b": torch.randn(400, 16)}
    present = {name: torch.ones(400, dtype=torch.bool) for name in features}
    labels = (features["a"][:, 0] + features["b"][:, 0] > 0).long()
    head = ConcatenationHead(widths={"a": 16, "b": 16}, classes=2, hidden=8, dropout=0.0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(features, present), labels).backward()
        optimizer.step()
    accuracy = (head.eval()(features, present).argmax(1) == labels).float().mean()
    assert accuracy > 0.9  # either input alone: 0.75


def test_missing_embedding_is_learned_where_every_product_has_every_input():
    head, (features, present) = make_head(), make_inputs(rows=400)
    head(features, present).square().sum().backward()
    assert (head.missing.grad.abs().sum(dim=1) > 0).all()


def test_no_product_loses_its_only_input():
    head, (features, present) = make_head(dropout=0.0), make_inputs(rows=400)
    present["image"][:] = False
    assert torch.equal(head.train()(features, present), head.eval()(features, present))


def test_a_hidden_input_is_one_that_the_product_has():
    present_BM = torch.tensor([[True, False, True]]).repeat(1000, 1)
    torch.manual_seed(0)
    left_BM = _hide_one(present_BM)
    assert not left_BM[:, 1].any()
    assert left_BM.any(dim=1).all()
    assert left_BM[:, 0].float().mean() == pytest.approx(1 - HIDDEN_SHARE / 2, abs=0.05)
    assert left_BM[:, 2].float().mean() == pytest.approx(1 - HIDDEN_SHARE / 2, abs=0.05)


def test_save_and_load_give_the_same_logits(tmp_path: Path):
    head, inputs = make_head(), make_inputs()
    head.save(tmp_path / "new")
    loaded = load_head(tmp_path / "new")
    assert not loaded.training
    assert loaded.config() == head.config()
    assert torch.equal(loaded(*inputs), head.eval()(*inputs))


@pytest.mark.parametrize("missing", ["head.json", "head.safetensors"])
def test_load_says_which_file_is_missing(tmp_path: Path, missing: str):
    make_head().save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=missing):
        load_head(tmp_path)


def test_load_refuses_damaged_weights(tmp_path: Path):
    make_head().save(tmp_path)
    (tmp_path / "head.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(InputError, match="no fusion head in"):
        load_head(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"), [({"kind": "stack"}, "'stack'"), ({"classes": 9}, "does not fit head.json")]
)
def test_load_refuses_another_configuration(tmp_path: Path, change: dict[str, object], message: str):
    head = make_head()
    head.save(tmp_path)
    (tmp_path / "head.json").write_text(json.dumps(head.config() | change))
    with pytest.raises(InputError, match=message):
        load_head(tmp_path)


def test_wrong_inputs_are_named():
    head, (features, present) = make_head(), make_inputs()
    with pytest.raises(ValueError, match=r"found inputs \['image'\], expected \['image', 'text@1.0'\]"):
        head({"image": features["image"]}, present)
    with pytest.raises(ValueError, match=r"'image': found features \[5, 9\] .* expected \[5, 10\]"):
        head(features | {"image": torch.zeros(5, 9)}, present)
    with pytest.raises(ValueError, match=r"present \[4\]"):
        head(features, present | {"image": torch.ones(4, dtype=torch.bool)})


def test_a_head_needs_an_input():
    with pytest.raises(InputError, match="at least one input"):
        ConcatenationHead(widths={}, classes=3, hidden=4, dropout=0.0)
