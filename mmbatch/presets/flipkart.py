"""`flipkart`: a BiLSTM over GloVe vectors and MobileNet, as published; `flipkart-small`: encoders of today.

Both learn the first level of the category tree of the Flipkart sample, `flipkart_com-ecommerce_sample.csv` as it is on
Kaggle: `--source` takes the file as it stands. Its images are web addresses, fetched at ingest from the sites that
`--images-from` names, such as http://img5a.flixcart.com:80; without it they go to quarantine and the texts are trained.

`flipkart` follows "Product-Category-Classification-using-Multi-modal-network"; where README and code differ, the
README counts.

    setting                               source
    words cleaned, stop words removed,    README, utils.py (`mmbatch.encoders.cleaning` says what differs)
    lemmas
    10,000 words, of which Keras keeps    train_text_model.py, utils.py
    9,999; 100 words of a text
    GloVe 6B, 100 numbers a word, frozen  README; train_text_model.py goes on training them
    BiLSTM of 512 -> 256, ReLU            train_text_model.py (`RecurrentText` says what differs)
    photos resized to 224 pixels          README; the code squashes them, in BGR, not normalised
    MobileNet on ImageNet, frozen         README
    first level of the category tree,     README
    its ten most frequent classes
    dropout 0.3 before the classifier     train_text_model.py
    Adam 1e-4, batches of 64, at most     train_*_model.py; by the loss of held-out rows, and with a rate that falls
    50 epochs, stops after 3 without gain when it stalls
    fusion: 256 + 256 -> classes          train_multimodal_model.py

Different here on purpose: title and description are read (there the description alone); the whole photo is seen in its
own proportions, on white, as RGB and normalised as MobileNet's weights want it; its pooled 1,024 numbers are stored
(there a layer of 256 is put on the 7 x 7 x 1,024 before pooling; here that layer is the fusion head's), and as they are
those of ImageNet, 50 epochs of a layer on them that is not kept are left out; macro-F1 of the fusion rows chooses the
epoch, and the rate stays; products outside the ten most frequent classes, which are counted once for a workspace
(`mmbatch.learned_classes`), are predicted too (there they are dropped); one split serves all models.

`flipkart-small`: MiniLM and EfficientNet-Lite0 on a subset of the Flipkart sample with its images. It follows no
published system. With 840 products of seven classes to learn from, the lower layers of MiniLM and all of
EfficientNet-Lite0 keep their pretrained values (benchmarks/RESULTS.md has what training them costs), and an encoder of
character and word n-grams, which knows brands and model numbers that MiniLM's vocabulary cuts to pieces, stands beside
MiniLM.
"""

from mmbatch.presets.base import Preset
from mmbatch.sources import Columns
from mmbatch.training import EncoderRecipe, HeadRecipe, Training

_AS_PRETRAINED = Training(
    epochs=1,  # the vectors stay what they are, and the layer that is trained on them is not kept
    batch_size=32,
    learning_rate=0.0,
    classifier_learning_rate=3e-3,
    frozen=("backbone",),
    frozen_batch_norm=True,
)

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
            training=_AS_PRETRAINED,
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
    top_classes=10,
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
            arguments={"model": "mobilenetv1_100", "framing": "pad"},
            training=_AS_PRETRAINED,
        ),
    ),
    head=HeadRecipe(hidden=256, dropout=0.3, epochs=50, batch_size=64, learning_rate=1e-4, weight_decay=0.0),
)
