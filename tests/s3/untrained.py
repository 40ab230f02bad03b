"""Encoders and a predictor that were never trained: they cost a second, and what they store is as comparable."""

import tempfile
from pathlib import Path

import numpy as np

from mmbatch.encoders import Encoder
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.ngram import NgramText
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.models import Kind, Model, publish_model
from mmbatch.predictor import EncoderPart, Predictor, Scorer
from mmbatch.workspace import Workspace
from tests.made_predictor import predictor_of

CATEGORIES = (("Fashion",), ("Home",), ("Media",))
FITTED_ROWS = 90


def publish_models(workspace: Workspace) -> None:
    """Store a text and an image encoder and a predictor of three categories; the same in every workspace."""
    encoders: dict[str, Encoder] = {
        "ngram-text": NgramText.from_scratch(buckets=256, width=16, seed=0),
        "small-image": TimmImage.from_scratch("test_resnet", size=64, seed=0),
    }
    parts = tuple(
        EncoderPart(
            id=_publish(workspace, "encoder", name, encoder, modality=encoder.modality, width=encoder.width).id,
            modality=encoder.modality,
            width=encoder.width,
        )
        for name, encoder in encoders.items()
    )
    rng = np.random.default_rng(0)
    classes = len(CATEGORIES)
    classifiers = {
        part.name: (rng.normal(size=(classes, part.width)).astype(np.float32), np.zeros(classes, np.float32))
        for part in parts
    }
    scorer = Scorer(encoders=parts, classifiers=classifiers, head=None, levels=Levels(Taxonomy(CATEGORIES)))
    vectors = {part.name: rng.normal(size=(FITTED_ROWS, part.width)).astype(np.float16) for part in parts}
    given = {name: (rows, np.ones(FITTED_ROWS, bool)) for name, rows in vectors.items()}
    predictor = predictor_of(scorer, given, np.arange(FITTED_ROWS) % classes)
    _publish(workspace, "predictor", "predictor", predictor, encoders=[part.id for part in parts])


def _publish(workspace: Workspace, kind: Kind, name: str, made: Encoder | Predictor, **card: object) -> Model:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made.save(folder)
        files = sorted(path.name for path in folder.iterdir())
        return publish_model(workspace, kind=kind, name=name, folder=folder, identity=files, recipe="", card=card)
