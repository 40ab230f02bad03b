"""Encoders: a product's text or image in, one vector out. The public names of the package."""

from mmbatch.encoders.base import Encoder, Inputs, Prepared, collate_all, encode, to_tensors
from mmbatch.encoders.batches import batches_of
from mmbatch.encoders.build import BUILDERS, build_encoder, require_weights
from mmbatch.encoders.engine import Engine, encode_prepared, engine_for
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.load import load_encoder
from mmbatch.encoders.ngram import NgramText
from mmbatch.encoders.text import TransformersText

__all__ = [
    "BUILDERS",
    "Encoder",
    "Engine",
    "Inputs",
    "NgramText",
    "Prepared",
    "TimmImage",
    "TransformersText",
    "batches_of",
    "build_encoder",
    "collate_all",
    "encode",
    "encode_prepared",
    "engine_for",
    "load_encoder",
    "require_weights",
    "to_tensors",
]
