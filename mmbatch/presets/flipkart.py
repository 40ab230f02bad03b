"""`flipkart`: a BiLSTM over GloVe vectors and MobileNet, as published; `flipkart-small`: encoders of today.

Both follow github.com/param-mehta "Product-Category-Classification-using-Multi-modal-network" (first level of the
category tree). There the words are cleaned, GloVe's 100 numbers a word and MobileNet's ImageNet weights stay frozen,
Adam runs at 1e-4 over batches of 64 for up to 50 epochs, and training stops after 3 epochs without gain. The layer of
256 numbers that it puts on MobileNet is the fusion head's here: what is stored is MobileNet's own vector.

`flipkart-small`: MiniLM and EfficientNet-Lite0, fine-tuned on a subset of the Flipkart sample with its images.

With 840 products to learn from,
lower layers keep their pretrained values, and an encoder of character and word n-grams, which knows brands and model
numbers that MiniLM's vocabulary cuts to pieces, stands beside MiniLM.
"""

from dataclasses import replace

from mmbatch.presets.base import EncoderRecipe, HeadRecipe, Preset
from mmbatch.sources import Columns
from mmbatch.training import Augmentation, Training

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
                augmentation=Augmentation(),
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

_PUBLISHED = Training(
    epochs=50,
    batch_size=64,
    learning_rate=1e-4,
    classifier_learning_rate=1e-4,
    optimizer="adam",
    weight_decay=0.0,
    schedule="constant",
    warmup_share=0.0,
    clip=0.0,
    dropout=0.3,
    patience=3,
)

FLIPKART = Preset(
    name="flipkart",
    level=1,
    columns=Columns(
        id="uniq_id",
        title="product_name",
        description="description",
        image="image",
        label=("product_category_tree",),
        label_separator=" >> ",
    ),
    encoders=(
        EncoderRecipe(
            name="bilstm",
            modality="text",
            kind="recurrent",
            arguments={"vectors": "glove.6B.100d", "most_words": 9_999},
            training=_PUBLISHED,
        ),
        EncoderRecipe(
            name="mobilenet",
            modality="image",
            kind="timm",
            arguments={"model": "mobilenetv1_100", "framing": "crop"},
            training=replace(_PUBLISHED, frozen=("backbone",), frozen_batch_norm=True),
        ),
    ),
    head=HeadRecipe(hidden=256, dropout=0.3, epochs=20, batch_size=64, learning_rate=1e-3, weight_decay=0.01),
)
