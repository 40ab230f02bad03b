"""How encoders are fine-tuned and fusion heads are trained, as plain data: what a preset sets and the loops read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmbatch.schema import Modality

Optimizer = Literal["adamw", "adam", "radam"]
"""AdamW (Loshchilov & Hutter 2019), Adam (Kingma & Ba 2015) or RAdam (Liu et al. 2020)."""

Schedule = Literal["linear", "cosine", "constant"]
"""How a rate goes from its peak to zero after the warm-up; `constant` stays at the peak."""

MODALITY_DROPOUT = 0.3
"""Share of the products with several modalities that lose one of them in a training step: else, in a catalog where
nearly every product has all, what stands for a missing one would stay as it was initialised."""

HeadKind = Literal["addition", "concatenation", "cross-attention", "gated", "simple"]
"""Keys of `mmbatch.fusion.head.HEADS`."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random views of a training photo, after Szegedy et al. 2015 (a part of random area and ratio, resized).

    The defaults are mild: a product shot keeps nearly all of its product.
    """

    area: tuple[float, float] = (0.7, 1.0)
    """Least and greatest share of the photo that a view shows."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width over height of that part."""
    degrees: float = 10.0
    """A view is turned by at most this angle, to either side; what comes in from outside is white."""
    flip: bool = True
    """Mirror half of the views."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al. 2022) on the linear layers of a text backbone."""

    rank: int = 8
    """Inner width of an adapter."""
    alpha: float = 16.0
    """An adapter's output counts `alpha / rank` times."""
    dropout: float = 0.0
    """Dropped share of an adapter's input."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get one, as `query` and `value`; none named, all of the backbone's get one."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How an encoder is fine-tuned. What is off by default is used only where a preset or a flag asks for it."""

    epochs: int
    """Passes over the train rows; the epoch with the best macro-F1 on the fusion rows is kept."""
    batch_size: int
    """Products per optimiser step, over all workers together."""
    learning_rate: float
    """Peak rate of the encoder's own weights."""
    classifier_learning_rate: float
    """Peak rate of the new classification layer."""
    optimizer: Optimizer = "adamw"
    """What takes the steps."""
    weight_decay: float = 0.01
    """Decoupled decay in AdamW; in Adam and RAdam added to the gradient, as torch does. Not on biases and norms."""
    schedule: Schedule = "linear"
    """How the rate falls after the warm-up."""
    warmup_share: float = 0.1
    """Share of all steps in which the rate rises from zero."""
    clip: float = 1.0
    """Largest norm of the gradient of all weights together; 0 clips nothing."""
    layer_decay: float = 1.0
    """Factor of the rate from one layer to the one below it (Clark et al. 2020, ELECTRA); 1 trains all alike."""
    label_smoothing: float = 0.0
    """Probability mass spread over the other classes."""
    level_weights: tuple[float, ...] = ()
    """Weight in the loss of each level of the categories, root first: every level gets a classifier of its own. None
    named, whole category paths are classes of one classifier."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: a product counts in the loss by the inverse of its class's share (King & Zeng 2001)."""
    sampling: Literal["natural", "balanced"] = "natural"
    """`balanced`: products are drawn with replacement so that classes are seen equally often."""
    activation: Literal["none", "tanh", "relu"] = "none"
    """Between the embedding and the classification layer."""
    dropout: float = 0.1
    """Dropped share of the embedding before the classification layer."""
    augmentation: Augmentation | None = None
    """Random views of photos; None shows each as it is."""
    mixup: float = 0.0
    """Alpha of the beta distribution that mixes pairs of photos (Zhang et al. 2018); 0 mixes none."""
    cutmix: float = 0.0
    """The same for patches of photos (Yun et al. 2019); with both, each batch takes one or the other."""
    frozen: tuple[str, ...] = ()
    """Prefixes of the encoder's parameter names that keep their pretrained values: its lower layers, as a rule."""
    frozen_batch_norm: bool = False
    """Keep the pretrained statistics of every batch normalisation: batches of few products estimate them badly."""
    lora: Lora | None = None
    """Train low-rank adapters on a frozen text backbone instead of its weights."""
    patience: int | None = None
    """Epochs without a better macro-F1 on the fusion rows after which training stops; None runs them all."""
    compile: bool = False
    """Compile the network with `torch.compile`: about a minute at the start, worth it on a GPU and long runs."""


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe:
    """An encoder, and how it is fine-tuned."""

    name: str
    """Name in tables and reports."""
    modality: Modality
    """What it encodes."""
    kind: str
    """Key of `mmbatch.encoders.BUILDERS`."""
    arguments: Mapping[str, Any]
    """Keyword arguments of that builder."""
    training: Training
    """How it is fine-tuned."""


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """Which fusion heads are tried, and how each is trained on stored features."""

    kinds: tuple[HeadKind, ...] = ("concatenation",)
    """Each is trained on the same rows; the one with the best macro-F1 on the fusion rows is kept."""
    hidden: int
    """Width of each input's projection in the concatenation and the gated head; the others have that of the texts."""
    blocks: int = 1
    """Blocks of the cross-attention head."""
    attention_heads: int = 1
    """Attention heads of each of its blocks; they must divide the width of the texts."""
    sequences: bool = False
    """Cross-attention over token states and patches in place of one vector an encoder."""
    sequence_rows: int = 20_000
    """Labelled products, at most, whose sequences are stored to train on; train and fusion rows in proportion."""
    dropout: float
    """Dropped share of the joined embedding."""
    modality_dropout: float = MODALITY_DROPOUT
    """Share of the products with several modalities that lose one of them in a training step."""
    level_weights: tuple[float, ...] = ()
    """As in `Training`."""
    epochs: int
    """Passes over the train rows; the epoch with the lowest log-loss on the fusion rows is kept."""
    batch_size: int
    """Products per step, over all workers together."""
    learning_rate: float
    """Peak rate."""
    optimizer: Optimizer = "adamw"
    """What takes the steps."""
    weight_decay: float
    """As in `Training`."""
    schedule: Schedule = "cosine"
    """How the rate falls after the warm-up."""
    warmup_share: float = 0.0
    """Share of all steps in which the rate rises from zero."""
    label_smoothing: float = 0.0
    """Probability mass spread over the other classes."""

    def arguments(self, kind: HeadKind) -> dict[str, Any]:
        """Arguments of `mmbatch.fusion.head.build_head` for a head of this kind."""
        own: dict[str, Any] = {}
        if kind in ("concatenation", "gated"):
            own = {"hidden": self.hidden}
        elif kind == "cross-attention":
            own = {"blocks": self.blocks, "heads": self.attention_heads}
        return {"kind": kind, "dropout": self.dropout, "modality_dropout": self.modality_dropout, **own}


@dataclass(frozen=True, kw_only=True)
class LateFusionRecipe:
    """How the late fusion boosts; names are LightGBM's where it has one.

    The defaults were chosen by cross-validation on fusion rows of the sample catalog: few rows call for small trees and
    small steps.
    """

    objective: Literal["candidates", "multiclass"] = "candidates"
    """`multiclass`: a tree per class in each round, for few classes and many rows, the paper's. `candidates`: one tree
    over products and the classes that some model ranks high."""
    candidates: int = 5
    """Best classes of each model, and of the weighting, that are candidates; at least 2."""
    num_leaves: int = 7
    """Leaves of a tree."""
    min_child_samples: int = 20
    """Rows of a leaf, at least."""
    min_child_weight: float = 0.001
    """Sum of second derivatives in a leaf, at least."""
    reg_alpha: float = 0.0
    """L1 penalty of a leaf's value."""
    reg_lambda: float = 5.0
    """L2 penalty of a leaf's value."""
    colsample_bytree: float = 0.8
    """Share of the features that a tree may split by."""
    learning_rate: float = 0.03
    """Factor of each tree."""
