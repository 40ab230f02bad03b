"""`flipkart-small`: MiniLM and EfficientNet-Lite0, fine-tuned on a subset of the Flipkart sample with its images.

The text and image task is that of github.com/param-mehta "Product-Category-Classification-using-Multi-modal-network"
(first level of the category tree); the encoders are today's small pretrained ones. With 840 products to learn from,
lower layers keep their pretrained values, and an encoder of character and word n-grams, which knows brands and model
numbers that MiniLM's vocabulary cuts to pieces, stands beside MiniLM.
"""

from mmbatch.presets.base import EncoderRecipe, HeadRecipe, Preset
from mmbatch.sources import Columns
from mmbatch.training import Training

FLIPKART_SMALL = Preset(
    name="flipkart-small",
    level=1,
    columns=Columns(id="product_id", title="title", description="description", image="image", label=("category_path",)),
    encoders=(
        EncoderRecipe(
            name="minilm",
            modality="text",
            kind="transformers",
            arguments={"model": "sentence-transformers/all-MiniLM-L6-v2", "max_length": 128},
            training=Training(
                epochs=3,
                batch_size=16,
                learning_rate=1e-4,
                classifier_learning_rate=1e-3,
                label_smoothing=0.1,
                frozen=("backbone.embeddings", *(f"backbone.encoder.layer.{layer}" for layer in range(3))),
            ),
        ),
        EncoderRecipe(
            name="ngram-text",
            modality="text",
            kind="ngram",
            arguments={"buckets": 2**15, "width": 128},
            training=Training(
                epochs=10, batch_size=32, learning_rate=5e-3, classifier_learning_rate=5e-3, label_smoothing=0.1
            ),
        ),
        EncoderRecipe(
            name="efficientnet-lite0",
            modality="image",
            kind="timm",
            arguments={"model": "tf_efficientnet_lite0"},
            training=Training(
                epochs=5,
                batch_size=32,
                learning_rate=3e-4,
                classifier_learning_rate=3e-3,
                label_smoothing=0.1,
                dropout=0.2,
                frozen=("backbone.conv_stem", "backbone.bn1", *(f"backbone.blocks.{block}" for block in range(4))),
                frozen_batch_norm=True,
            ),
        ),
    ),
    head=HeadRecipe(
        hidden=64,
        dropout=0.3,
        epochs=20,
        batch_size=64,
        learning_rate=3e-3,
        weight_decay=0.05,
        label_smoothing=0.1,  # as the encoders': without it the head is over-confident and late fusion leans on it
    ),
)
