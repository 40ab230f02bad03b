"""`kakao`: a Korean BERT over titles, and image vectors that come with the catalog.

The single-modality models of the cross-attention system on the Kakao arena's Naver shopping data: pooled output of
`kykim/bert-kor-base` over 30 tokens; an MLP over the 2,048 numbers of a ResNet-50 that the arena hands out. RAdam at
5e-5 with 20 % warm-up, batches of 128, 6 epochs.

One level of the category tree is learned at a time; `--level` says which.
"""

from mmbatch.presets.base import EncoderRecipe, HeadRecipe, Preset
from mmbatch.sources import Columns
from mmbatch.training import Training

_TRAINING = Training(
    epochs=6,
    batch_size=128,
    learning_rate=5e-5,
    classifier_learning_rate=5e-5,
    optimizer="radam",
    weight_decay=0.0,
    warmup_share=0.2,
    dropout=0.1,
)

KAKAO = Preset(
    name="kakao",
    level=1,
    columns=Columns(
        id="pid", title="product", image_vector="img_feat", label=("bcateid", "mcateid", "scateid", "dcateid")
    ),
    encoders=(
        EncoderRecipe(
            name="bert-kor",
            modality="text",
            kind="transformers",
            arguments={"model": "kykim/bert-kor-base", "pooling": "pooler", "max_length": 30},
            training=_TRAINING,
        ),
        EncoderRecipe(
            name="image-mlp",
            modality="image",
            kind="precomputed",
            arguments={"input_width": 2048},
            training=_TRAINING,
        ),
    ),
    head=HeadRecipe(hidden=768, dropout=0.1, epochs=6, batch_size=128, learning_rate=5e-5, weight_decay=0.01),
)
