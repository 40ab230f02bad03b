"""`kakao`: a Korean BERT over titles, and image vectors that come with the catalog.

The single-modality models of "Multi-Modal Cross Attention Network for e-Commerce Product Categorization" on the Kakao
arena's shopping data; its repository's `train.py`, `trainer.py` and `multimodel.py` are the only source of numbers.

    setting                              source
    text: `kykim/bert-kor-base`,         train.py; the pooled output goes through tanh once more (multimodel.py), which
    30 tokens, tanh, dropout 0.1         is no part of the stored vector
    image: 2,048 given numbers of a      multimodel.py: after each of the layers of 1,024 and 512 a normalisation;
    ResNet-50, no dropout at the end     dropout of 0.1 before each layer but the last
    RAdam, 5e-5, no weight decay         train.py; its AdamW is the choice that is not taken
    20 % warm-up, then linear to 0       train.py
    batches of 128, 6 epochs, no clip    train.py, trainer.py
    loss: main + 1.2 middle + 1.3 small  trainer.py; the arena's score has the same weights
    + 1.4 sub, a level of -1 left out
    cross-attention over the two         multimodel.py: both single models are trained first and then frozen; of 1, 2,
    vectors, 6 blocks of 1 head,         6 and 12 blocks its README has 6 and 12 best, and 6 in its command
    dropout 0.1, trained as the others

Different here on purpose: the image model, there a network of its own for each level, is one for all four, as the text
model is, both without the normalisation before the classifiers; the best path of the category tree is predicted, where
levels are predicted one by one there. A product whose code of a level is -1 has no such level: its category ends above.
Validation rows are never train rows.

The arena's files, HDF5, are read as they are: `--source` is their folder, one file, or a pattern such as
`arena/train.chunk.*` for the train part alone. Products of dev and test, whose codes are all -1, are predicted and not
learned from.
"""

from dataclasses import replace

from mmbatch.metrics import KAKAO_WEIGHTS
from mmbatch.presets.base import Preset
from mmbatch.sources import Columns
from mmbatch.training import EncoderRecipe, HeadRecipe, Training

_TEXT = Training(
    epochs=6,
    batch_size=128,
    learning_rate=5e-5,
    classifier_learning_rate=5e-5,
    optimizer="radam",
    weight_decay=0.0,
    warmup_share=0.2,
    clip=0.0,
    activation="tanh",
    dropout=0.1,
    level_weights=KAKAO_WEIGHTS,
)

KAKAO = Preset(
    name="kakao",
    level=4,
    columns=Columns(
        id="pid",
        title="product",
        image_vector="img_feat",
        label=("bcateid", "mcateid", "scateid", "dcateid"),
        no_label="-1",
    ),
    encoders=(
        EncoderRecipe(
            name="bert-kor",
            modality="text",
            kind="transformers",
            arguments={"model": "kykim/bert-kor-base", "pooling": "pooler", "max_length": 30},
            training=_TEXT,
        ),
        EncoderRecipe(
            name="image-mlp",
            modality="image",
            kind="precomputed",
            arguments={"input_width": 2048},
            training=replace(_TEXT, activation="none", dropout=0.0),
        ),
    ),
    head=HeadRecipe(
        kinds=("cross-attention",),
        hidden=768,
        blocks=6,
        dropout=0.1,
        level_weights=KAKAO_WEIGHTS,
        epochs=6,
        batch_size=128,
        learning_rate=5e-5,
        optimizer="radam",
        weight_decay=0.0,
        schedule="linear",
        warmup_share=0.2,
    ),
)
