"""`flipkart-small`: MiniLM and EfficientNet-Lite0, fine-tuned on a subset of the Flipkart sample with its images.

The text and image task is that of github.com/param-mehta "Product-Category-Classification-using-Multi-modal-network"
(first level of the category tree); the encoders are today's small pretrained ones.
"""

from mmbatch.presets.base import EncoderRecipe, HeadRecipe, Preset, Training
from mmbatch.sources import Columns

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
            training=Training(epochs=5, batch_size=32, learning_rate=1e-4, classifier_learning_rate=1e-3),
        ),
        EncoderRecipe(
            name="efficientnet-lite0",
            modality="image",
            kind="timm",
            arguments={"model": "tf_efficientnet_lite0"},
            training=Training(epochs=5, batch_size=32, learning_rate=5e-4, classifier_learning_rate=5e-3),
        ),
    ),
    head=HeadRecipe(hidden=256, dropout=0.3, epochs=20, batch_size=64, learning_rate=1e-3, weight_decay=0.05),
    source="github.com/param-mehta/Product-Category-Classification-using-Multi-modal-network (task)",
)
