import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmbatch.errors import InputError
from mmbatch.fusion.cross_attention import Attention
from mmbatch.fusion.head import CrossAttentionHead
from tests.fusion.heads import WIDTHS, make_head, make_inputs, some_missing
from tests.fusion.test_head_joins import layer_norm, weights

NAMES = sorted(WIDTHS)  # image, text@1.0, words
LENGTHS = {"image": 4, "text@1.0": 3, "words": 5}

Inputs = tuple[dict[str, Tensor], dict[str, Tensor]]


def sequences(rows: int = 5) -> Inputs:
    """Of different lengths; row 2 has no image, row 3 no text, row 4 nothing. NaN where a position is not filled."""
    generator = torch.Generator().manual_seed(2)
    features, present = {}, {}
    for name, length in LENGTHS.items():
        features[name] = torch.randn(rows, length, WIDTHS[name], generator=generator)
        filled_B1 = torch.randint(1, length + 1, (rows, 1), generator=generator)
        present[name] = torch.arange(length) < filled_B1
    present["image"][2] = False
    present["text@1.0"][3] = False
    for name in present:
        present[name][4] = False
    return {name: features[name].masked_fill(~present[name][..., None], float("nan")) for name in features}, present


def as_sequences(inputs: Inputs) -> Inputs:
    """Vectors as sequences of one position."""
    return tuple({name: value.unsqueeze(1) for name, value in part.items()} for part in inputs)


def attended(w: dict[str, np.ndarray], layer: str, x: list[np.ndarray], c: list[np.ndarray], heads: int) -> list:
    """Loops over queries and attention heads."""
    width = len(x[0])
    key, value = w[f"{layer}.key_value.weight"][:width], w[f"{layer}.key_value.weight"][width:]
    read = []
    for query_position in x:
        parts = []
        for n in range(heads):
            own = slice(n * width // heads, (n + 1) * width // heads)
            q = w[f"{layer}.query.weight"][own] @ query_position
            scores = np.array([q @ (key[own] @ position) for position in c]) / np.sqrt(width / heads)
            shares = np.exp(scores) / np.exp(scores).sum()
            parts.append(sum(share * (value[own] @ position) for share, position in zip(shares, c, strict=True)))
        read.append(w[f"{layer}.output.weight"] @ np.concatenate(parts))
    return read


def block(w: dict[str, np.ndarray], layer: str, x: list[np.ndarray], c: list[np.ndarray], heads: int) -> list:
    def normed(position: np.ndarray, norm: str) -> np.ndarray:
        return layer_norm(position, w[f"{layer}.{norm}.weight"], w[f"{layer}.{norm}.bias"])

    read = attended(
        w,
        f"{layer}.attention",
        [normed(position, "attention_norm") for position in x],
        [normed(position, "attention_norm") for position in c],
        heads,
    )
    after = []
    for position, found in zip(x, read, strict=True):
        kept = position + found
        inner = w[f"{layer}.feed_forward.1.weight"] @ normed(kept, "feed_forward.0") + w[f"{layer}.feed_forward.1.bias"]
        leaky = np.where(inner > 0, inner, 0.01 * inner)
        after.append(kept + w[f"{layer}.feed_forward.3.weight"] @ leaky + w[f"{layer}.feed_forward.3.bias"])
    return after


def positions(w: dict[str, np.ndarray], name: str, value: Tensor, filled: Tensor) -> list[np.ndarray]:
    """The filled positions of one product's input at the text's width, or the embedding that stands for them."""
    index = NAMES.index(name)
    if not filled.any():
        return [w["text_width.missing"][index]]
    found = list(value[filled].double().numpy())
    if name == "text@1.0":
        return found
    layer = f"text_width.projections.{index}"
    return [w[f"{layer}.weight"] @ position + w[f"{layer}.bias"] for position in found]


def reference(head: CrossAttentionHead, inputs: Inputs, *, blocks: int = 2, heads: int = 3) -> Tensor:
    features, present = inputs
    w, rows = weights(head), []
    for row in range(len(features["image"])):
        image, text, words = (positions(w, name, features[name][row], present[name][row]) for name in NAMES)
        text, original = text + words, text + words
        context = [*text, *image]
        for i in range(blocks):
            text = block(w, f"text_blocks.{i}", text, context, heads)
            image = block(w, f"image_blocks.{i}", image, context, heads)
        common = w["common.weight"] @ np.concatenate([np.mean(text, axis=0), np.mean(image, axis=0)]) + w["common.bias"]
        joined = np.concatenate([common, np.mean(original, axis=0)])
        normed = layer_norm(joined, w["norm.weight"], w["norm.bias"])
        rows.append(w["classifier.weight"] @ normed + w["classifier.bias"])
    return torch.tensor(np.array(rows), dtype=torch.float32)


@pytest.mark.parametrize("inputs", [make_inputs(), some_missing()], ids=["whole", "missing"])
def test_the_head_of_vectors_is_its_formula(inputs: Inputs):
    head = make_head("cross-attention").eval()
    torch.testing.assert_close(head(*inputs), reference(head, as_sequences(inputs)), rtol=1e-5, atol=1e-5)


def test_the_head_of_sequences_is_its_formula():
    head = make_head("cross-attention").eval()
    torch.testing.assert_close(head(*sequences()), reference(head, sequences()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("blocks", "heads"), [(1, 1), (1, 6), (3, 2)])
def test_any_number_of_blocks_and_heads(blocks: int, heads: int):
    head = make_head("cross-attention", blocks=blocks, heads=heads).eval()
    expected = reference(head, sequences(), blocks=blocks, heads=heads)
    torch.testing.assert_close(head(*sequences()), expected, rtol=1e-5, atol=1e-5)


def test_a_vector_is_a_sequence_of_one_position():
    head, inputs = make_head("cross-attention").eval(), some_missing()
    torch.testing.assert_close(head(*as_sequences(inputs)), head(*inputs), rtol=1e-5, atol=1e-6)


def test_tokens_go_with_the_vector_of_an_image():
    head, (features, present) = make_head("cross-attention").eval(), sequences()
    vectors, has = some_missing()
    mixed = features | {"image": vectors["image"]}, present | {"image": has["image"]}
    same = features | {"image": vectors["image"][:, None]}, present | {"image": has["image"][:, None]}
    torch.testing.assert_close(head(*mixed), reference(head, same), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 6])
def test_attention_is_that_of_torch(heads: int, masked: bool):
    torch.manual_seed(0)
    ours, theirs = Attention(width=12, heads=heads), nn.MultiheadAttention(12, heads, bias=False, batch_first=True)
    theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key_value.weight])
    theirs.out_proj.weight.data = ours.output.weight
    queries, context = torch.randn(4, 3, 12), torch.randn(4, 5, 12)
    readable = torch.arange(5) < torch.tensor([[5], [1], [3], [2]]) if masked else torch.ones(4, 5, dtype=torch.bool)
    expected, _ = theirs(queries, context, context, key_padding_mask=~readable)
    found = ours(queries, context, readable[:, None, None, :] if masked else None)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_every_parameter_gets_a_finite_gradient_from_sequences():
    head = make_head("cross-attention", dropout=0.0, modality_dropout=0.0)
    nn.functional.cross_entropy(head.by_level(head(*sequences()))[1], torch.arange(5)).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_padding_is_not_read_and_trains_nothing():
    head, (features, present) = make_head("cross-attention").eval(), sequences()
    features, present = ({name: value[:2] for name, value in part.items()} for part in (features, present))
    assert not present["words"].all()
    logits = head(features, present)
    other = {name: value.nan_to_num(7.0) for name, value in features.items()}
    assert torch.equal(head(other, present), logits)
    longer = {name: nn.functional.pad(value, (0, 0, 0, 3), value=float("nan")) for name, value in features.items()}
    wider = {name: nn.functional.pad(value, (0, 3)) for name, value in present.items()}
    torch.testing.assert_close(head(longer, wider), logits, rtol=1e-5, atol=1e-6)
    logits.square().sum().backward()
    assert head.text_width.missing.grad.abs().sum() == 0


def test_gaps_between_positions_are_allowed():
    head, (features, present) = make_head("cross-attention").eval(), sequences()
    turned = {name: value.flip(1) for name, value in features.items()}
    moved = {name: value.flip(1) for name, value in present.items()}
    torch.testing.assert_close(head(turned, moved), head(features, present), rtol=1e-5, atol=1e-5)


def test_a_product_of_tokens_does_not_depend_on_the_others():
    head, (features, present) = make_head("cross-attention").eval(), sequences()
    together = head(features, present)
    for row in range(5):
        alone = head(*({name: value[[row]] for name, value in part.items()} for part in (features, present)))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-6)


def test_hiding_takes_whole_sequences():
    head, (features, present) = make_head("cross-attention", dropout=0.0, modality_dropout=1.0), sequences()
    features, present = ({name: value[[0] * 60] for name, value in part.items()} for part in (features, present))
    without = [
        head.eval()(features, present | {name: torch.zeros_like(present[name]) for name in names})[0].detach()
        for names in (["image"], ["text@1.0", "words"])
    ]
    hidden = head.train()(features, present).detach()
    found = [int(torch.stack([torch.dist(row, one) for one in without]).argmin()) for row in hidden]
    assert set(found) == {0, 1}
    torch.testing.assert_close(hidden, torch.stack([without[i] for i in found]), rtol=1e-4, atol=1e-5)


def test_an_input_with_one_filled_position_can_be_hidden():
    head, (features, present) = make_head("cross-attention", dropout=0.0, modality_dropout=1.0), sequences(rows=20)
    features = {name: value[[0] * 20].nan_to_num(0.5) for name, value in features.items()}
    present = {name: torch.zeros_like(mask) for name, mask in present.items()}
    present["image"][:, -1] = present["text@1.0"][:, 0] = True
    whole = head.eval()(features, present)[0]
    without = [head(features, present | {name: torch.zeros_like(present[name])})[0] for name in ("image", "text@1.0")]
    for row in head.train()(features, present):
        assert not torch.allclose(row, whole, atol=1e-3)
        assert any(torch.allclose(row, one, atol=1e-5) for one in without)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(5, 3, dtype=torch.bool), r"features \[5, 4, 10\] and present \[5, 3\], expected \[5, 4, 10\]"),
        (torch.ones(5, dtype=torch.bool), r"present \[5\], expected \[5, 4, 10\] and \[5, 4\]"),
    ],
)
def test_a_mask_must_fit_its_sequence(mask: Tensor, message: str):
    features, present = sequences()
    with pytest.raises(ValueError, match=message):
        make_head("cross-attention")(features, present | {"image": mask})


def test_a_sequence_needs_a_position():
    features, present = sequences()
    empty = {"image": torch.zeros(5, 0, 10)}, {"image": torch.zeros(5, 0, dtype=torch.bool)}
    with pytest.raises(ValueError, match="of one position or more"):
        make_head("cross-attention")(features | empty[0], present | empty[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 4}, "found 4 attention heads and a text width of 6, expected heads that divide the width"),
        ({"heads": 0}, "found 0 attention heads and a text width of 6"),
        ({"blocks": 0}, "blocks of the cross-attention head: found 0, expected 1 or more"),
        ({"modalities": dict.fromkeys(WIDTHS, "text")}, "needs an image input, found texts only"),
    ],
)
def test_blocks_that_cannot_be_are_named(change: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        make_head("cross-attention", **change)
