"""Fusion head in which the text looks at itself and the image, and the image at itself and the text.

Shape letters as in `mmbatch.fusion.base`, and: Q positions of the queries, S positions of the context, N attention
heads, D width of an attention head.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mmbatch.errors import InputError
from mmbatch.fusion.base import FusionHead
from mmbatch.fusion.text_width import TextWidth
from mmbatch.schema import Modality
from mmbatch.training import MODALITY_DROPOUT


class Attention(nn.Module):
    """Multi-head attention of queries x over the positions c of a context, as `nn.MultiheadAttention(bias=False)`.

        q_n = W_Q,n x    k_n = W_K,n c    v_n = W_V,n c        of each attention head n, D = H / N wide
        W_O [softmax(q_1 k_1^T / sqrt(D)) v_1; ...; softmax(q_N k_N^T / sqrt(D)) v_N]

    It computes no more than that class with `need_weights=False`, by the same kernel.

    Source: Vaswani et al., "Attention Is All You Need", 2017, section 3.2; without biases as in the source of
    `CrossAttentionHead`.
    """

    def __init__(self, *, width: int, heads: int) -> None:
        """Make an untrained layer of `heads` attention heads, which must divide `width`."""
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, query_BQH: Tensor, context_BSH: Tensor, readable_B11S: Tensor | None = None) -> Tensor:
        """What each query reads, `[B, Q, H]`, from the positions where `readable_B11S` is True; None means all.

        Every product must have a readable position.
        """
        key_BSH, value_BSH = self.key_value(context_BSH).chunk(2, dim=-1)
        read_BNQD = nn.functional.scaled_dot_product_attention(
            self._split(self.query(query_BQH)), self._split(key_BSH), self._split(value_BSH), attn_mask=readable_B11S
        )
        read_BQH: Tensor = self.output(read_BNQD.transpose(1, 2).flatten(2))
        return read_BQH

    def _split(self, value_BTH: Tensor) -> Tensor:
        rows, positions, width = value_BTH.shape
        return value_BTH.view(rows, positions, self.heads, width // self.heads).transpose(1, 2)


class CrossAttentionBlock(nn.Module):
    """Pre-norm attention over the context and a feed-forward network of twice the width, each with a residual.

    x <- x + dropout(Attention(LayerNorm(x), LayerNorm(c)))        one norm for both
    x <- x + dropout(W_2 LeakyReLU(W_1 LayerNorm'(x) + b_1) + b_2)
    """

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        """Make an untrained block."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width=width, heads=heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.LeakyReLU(), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BQH: Tensor, context_BSH: Tensor, readable_B11S: Tensor | None = None) -> Tensor:
        """The queries after this block, `[B, Q, H]`; the arguments are those of `Attention`."""
        read_BQH = self.attention(self.attention_norm(x_BQH), self.attention_norm(context_BSH), readable_B11S)
        x_BQH = x_BQH + self.dropout(read_BQH)
        after_BQH: Tensor = x_BQH + self.dropout(self.feed_forward(x_BQH))
        return after_BQH


class CrossAttentionHead(FusionHead):
    """Text queries and image queries each go through `blocks` blocks over the text and the image bound together.

        t = text positions, i = image positions, brought to the texts' width H        c = [t; i]
        t' = block_B(... block_1(t, c), c)        i' = block'_B(... block'_1(i, c), c)
        joined = LayerNorm([W [mean t'; mean i'] + b; mean t])

    An embedding `[B, F]` is one position; a sequence of tokens or patches `[B, T, F]` is T, of which those that are not
    filled are neither read nor counted in the means. Several encoders of one modality are further positions of it. The
    embedding learned for a missing input is one position.

    Source: jihoon99's "Multi-Modal Cross Attention Network for e-Commerce Product Categorization" (Kakao arena), of one
    text and one image position: 1, 2, 6 or 12 blocks of 1, 2, 4 or 6 attention heads; LayerNorm, dropout and Linear for
    each of four levels (see `SimpleHead` for the norm). There the dropout after the attention is applied twice.
    """

    kind: ClassVar[str] = "cross-attention"
    ranks: ClassVar[tuple[int, ...]] = (2, 3)

    def __init__(
        self,
        *,
        widths: Mapping[str, int],
        modalities: Mapping[str, Modality],
        classes: Sequence[int],
        blocks: int,
        heads: int,
        dropout: float,
        modality_dropout: float = MODALITY_DROPOUT,
    ) -> None:
        """Make an untrained head.

        Args:
            widths: name of each input -> width F of its embedding.
            modalities: name of each input -> what its encoder reads.
            classes: number of classes of each level, root first.
            blocks: blocks of each of the two modalities.
            heads: attention heads N of each block.
            dropout: share that is dropped in training, in the blocks and of the joined embedding, 0..1.
            modality_dropout: as in `FusionHead`.

        Raises:
            InputError: as `FusionHead` and `TextWidth`; there is no image; there is no block; the attention heads do
                not divide the width.
        """
        super().__init__(
            widths=widths,
            modalities=modalities,
            classes=classes,
            dropout=dropout,
            modality_dropout=modality_dropout,
            blocks=blocks,
            heads=heads,
        )
        self.text_width = TextWidth(kind=self.kind, widths=self.widths, modalities=modalities)
        width = self.text_width.width
        self._check_blocks(blocks=blocks, heads=heads, width=width)
        self.text_blocks, self.image_blocks = (
            nn.ModuleList(CrossAttentionBlock(width=width, heads=heads, dropout=dropout) for _ in range(blocks))
            for _ in ("text", "image")
        )
        self.common = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(2 * width)
        self.classifier = nn.Linear(2 * width, sum(self.classes))

    def join(self, known: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        """Joined embedding `[B, 2 H]`."""
        masks = [_as_sequence(mask) for mask in present]
        values = self.text_width([_as_sequence(value) for value in known], masks)
        text, image = (self._positions(modality, values, masks) for modality in ("text", "image"))
        context_BSH = torch.cat([text.values, image.values], dim=1)
        readable_B11S = None  # vectors are all to be read, and without a mask faster kernels can serve
        if any(value.ndim == 3 for value in known):
            readable_B11S = torch.cat([text.filled, image.filled], dim=1).squeeze(-1)[:, None, None, :]
        text_BTH, image_BTH = text.values, image.values
        for text_block, image_block in zip(self.text_blocks, self.image_blocks, strict=True):
            text_BTH = text_block(text_BTH, context_BSH, readable_B11S)
            image_BTH = image_block(image_BTH, context_BSH, readable_B11S)
        common_BH = self.common(torch.cat([text.mean(text_BTH), image.mean(image_BTH)], dim=1))
        joined_BJ: Tensor = self.norm(torch.cat([common_BH, text.mean(text.values)], dim=1))
        return joined_BJ

    def _check_blocks(self, *, blocks: int, heads: int, width: int) -> None:
        if "image" not in self.modalities.values():
            raise InputError(f"the {self.kind} head needs an image input, found texts only: {list(self.widths)}")
        if blocks < 1:
            raise InputError(f"blocks of the {self.kind} head: found {blocks}, expected 1 or more")
        if heads < 1 or width % heads:
            raise InputError(
                f"the {self.kind} head: found {heads} attention heads and a text width of {width}, "
                "expected heads that divide the width"
            )

    def _positions(self, modality: Modality, values: Sequence[Tensor], masks: Sequence[Tensor]) -> "_Positions":
        own = [i for i, found in enumerate(self.modalities.values()) if found == modality]
        return _Positions(
            values=torch.cat([values[i] for i in own], dim=1),
            filled=torch.cat([_filled(masks[i]) for i in own], dim=1),
        )


class _Positions(NamedTuple):
    """All positions of one modality."""

    values: Tensor
    """Float `[B, T, H]`."""
    filled: Tensor
    """Which of them count, bool `[B, T, 1]`."""

    def mean(self, values_BTH: Tensor) -> Tensor:
        """Mean `[B, H]` over the positions that count."""
        return (values_BTH * self.filled).sum(dim=1) / self.filled.sum(dim=1)


def _as_sequence(value: Tensor) -> Tensor:
    return value if value.ndim == 3 else value.unsqueeze(1)


def _filled(present_BT1: Tensor) -> Tensor:
    """Positions to read: those present, or the first one, where the learned embedding stands, if there are none."""
    first_T1 = torch.arange(present_BT1.shape[1], device=present_BT1.device).unsqueeze(1) == 0
    return present_BT1 | (first_T1 & ~present_BT1.any(dim=1, keepdim=True))
