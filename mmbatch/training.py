"""How an encoder is fine-tuned, as plain data: what a preset sets and the training loop reads."""

from dataclasses import dataclass


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
class Training:
    """How an encoder is fine-tuned. AdamW, linear decay after warm-up, gradient norm clipped at 1."""

    epochs: int
    """Passes over the train rows; the epoch with the best macro-F1 on the fusion rows is kept."""
    batch_size: int
    """Products per optimiser step, over all workers together."""
    learning_rate: float
    """Peak rate of the encoder's own weights."""
    classifier_learning_rate: float
    """Peak rate of the new classification layer."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay."""
    warmup_share: float = 0.1
    """Share of all steps in which the rate rises from zero."""
    label_smoothing: float = 0.0
    """Probability mass spread over the other classes."""
    dropout: float = 0.1
    """Dropped share of the embedding before the classification layer."""
    frozen: tuple[str, ...] = ()
    """Prefixes of the encoder's parameter names that keep their pretrained values: its lower layers, as a rule."""
    frozen_batch_norm: bool = False
    """Keep the pretrained statistics of every batch normalisation: batches of few products estimate them badly."""
