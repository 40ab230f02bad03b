"""What a preset is: a named, typed configuration in Python."""

from collections.abc import Mapping
from dataclasses import dataclass

from mmbatch.schema import Modality
from mmbatch.sources import Columns


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


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe:
    """One encoder of a preset."""

    name: str
    """Name in tables and reports."""
    modality: Modality
    """What it encodes."""
    kind: str
    """Key of `mmbatch.encoders.BUILDERS`."""
    arguments: Mapping[str, str | int]
    """Keyword arguments of that builder."""
    training: Training
    """How it is fine-tuned."""


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """The fusion head and how it is trained on stored features."""

    hidden: int
    """Width of the projection of each encoder and of the hidden layer."""
    dropout: float
    """Dropped share of the joined embedding."""
    epochs: int
    """Passes over the train rows; the epoch with the lowest log-loss on the fusion rows is kept."""
    batch_size: int
    """Products per step."""
    learning_rate: float
    """AdamW's peak rate."""
    weight_decay: float
    """AdamW's decoupled decay."""
    label_smoothing: float = 0.0
    """Probability mass spread over the other classes."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything a source system's recipe sets together."""

    name: str
    """What `--preset` names."""
    level: int
    """Depth of the category path that is learned."""
    columns: Columns
    """Column names of its raw files."""
    encoders: tuple[EncoderRecipe, ...]
    """In any order; they are always visited by name."""
    head: HeadRecipe
    """The fusion head."""
