"""Encoders: a product's text or image in, one vector out. The public names of the package."""

from mmbatch.encoders.base import Encoder, Prepared, encode, to_tensors
from mmbatch.encoders.build import BUILDERS, build_encoder, require_weights
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.load import load_encoder
from mmbatch.encoders.ngram import NgramText
from mmbatch.encoders.text import TransformersText

__all__ = [
    "BUILDERS",
    "Encoder",
    "NgramText",
    "Prepared",
    "TimmImage",
    "TransformersText",
    "build_encoder",
    "encode",
    "load_encoder",
    "require_weights",
    "to_tensors",
]
