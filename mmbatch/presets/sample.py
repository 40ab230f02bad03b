"""`sample`: a small pair of encoders trained from scratch, for the built-in catalog and a first look at any other.

It follows no published system: it is sized so that a laptop without a GPU trains it in a minute or two.
"""

from mmbatch.presets.base import Preset
from mmbatch.sources import Columns
from mmbatch.training import Augmentation, EncoderRecipe, HeadRecipe, Training

SAMPLE = Preset(
    name="sample",
    level=2,
    columns=Columns(id="product_id", title="title", description="description", image="image", label=("category_path",)),
    encoders=(
        EncoderRecipe(
            name="ngram-text",
            modality="text",
            kind="ngram",
            arguments={"buckets": 2**14, "width": 128},
            training=Training(epochs=8, batch_size=64, learning_rate=5e-3, classifier_learning_rate=5e-3),
        ),
        EncoderRecipe(
            name="small-image",
            modality="image",
            kind="timm-from-scratch",
            arguments={"model": "test_resnet", "size": 64},
            training=Training(
                epochs=10,
                batch_size=64,
                learning_rate=5e-3,
                classifier_learning_rate=5e-3,
                augmentation=Augmentation(),
            ),
        ),
    ),
    head=HeadRecipe(hidden=128, dropout=0.2, epochs=20, batch_size=128, learning_rate=1e-3, weight_decay=0.01),
    precision=0.9,  # a catalog of this size has two hundred calibration rows, too few for more
)
