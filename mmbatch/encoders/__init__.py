"""Encoders: a product's text or image in, one vector or one sequence out. The public names of the package.

A kind of encoder is imported where one is built or loaded (`build`, `load`): timm and transformers take each process
that imports them several seconds.
"""

from mmbatch.encoders.base import Encoder, Inputs, Prepared, collate_all, encode, row_sizes, to_tensors, without_weights
from mmbatch.encoders.batches import batches_of
from mmbatch.encoders.build import BUILDERS, build_encoder, require_weights
from mmbatch.encoders.engine import Engine, encode_prepared, engine_for
from mmbatch.encoders.load import load_encoder
from mmbatch.encoders.states import encode_sequences, encode_states

__all__ = [
    "BUILDERS",
    "Encoder",
    "Engine",
    "Inputs",
    "Prepared",
    "batches_of",
    "build_encoder",
    "collate_all",
    "encode",
    "encode_prepared",
    "encode_sequences",
    "encode_states",
    "engine_for",
    "load_encoder",
    "require_weights",
    "row_sizes",
    "to_tensors",
    "without_weights",
]
