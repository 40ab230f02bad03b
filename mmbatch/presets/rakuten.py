"""`rakuten2020`: CamemBERT, FlauBERT and SE-ResNeXt-50, as the team "Transformers" trained them.

"Deep Multi-level Boosted Fusion Learning Framework for Multi-modal Product Classification", SIGIR eCom 2020 data
challenge, and the authors' notebooks. Where the two differ, the paper counts.

    setting                                source
    title and description joined by a      section 2; flaubert_train_predict: a space, null as a space, no cleaning,
    space; 256 tokens                      cased; section 8
    FlauBERT: first token, dropout 0.1     section 5.2; the dropout: flaubert_train_predict
    CamemBERT: all tokens flattened ->     section 5.3
    768 (what is stored) -> tanh
    text: AdamW 2e-5, batches of 32,       section 8; the notebook trains CamemBERT for 10 epochs
    12 epochs
    text: no weight decay, linear to 0     the notebooks
    without warm-up, clip 1.0
    SE-ResNeXt-50: pooled 2,048            section 5.1; no dropout: SEResnext50_train_predict
    image: Adam 1e-4, batches of 64,       section 8; the notebook runs Adam's default rate of 1e-3
    10 epochs, constant rate
    view of 80 to 100 % at 256 pixels,     SEResnext50_train_predict, of what section 2 says in words: resized to 224,
    turned by up to 15 degrees, mirrored,  rotated, flipped, cropped at random
    middle 224; else 256, middle 224
    fusion: 3 x 768, batches of 64,        section 6; numbers: multi-modal_concatenate_fusion
    3 epochs of AdamW 2e-5
    LightGBM over all class probabilities  section 7; the rate is LightGBM's own, as none is named

Different here on purpose: the best epoch is kept (theirs is the last, as the best score is reset every epoch); frozen
encoders are really frozen; a turned photo is filled with white, as its background is (there with black); JPEGs are
decoded at about the size they are seen at; the head normalises each vector, its rate falls along a cosine, and it is
not clipped; boosting starts from a weighting of the models, for rounds that cross-validation chooses. 10 % of each
class choose the epoch and fit the late fusion, 5 % calibrate it, another 10 % are only scored: 75 % train, 90 % there.

`--source` is the challenge's folder as it was handed out, in either issue (`mmbatch.source_rakuten`): text, codes and
photos are joined, and products without a code are predicted. With `catalog_english_taxonomy.tsv` there, a category path
is the top level category and the code, else the code alone; level 2 learns the codes either way.
"""

from mmbatch.presets.base import Preset
from mmbatch.sources import Columns
from mmbatch.training import Augmentation, EncoderRecipe, HeadRecipe, LateFusionRecipe, Training

_TEXT = {"max_length": 256, "separator": " "}

RAKUTEN2020 = Preset(
    name="rakuten2020",
    level=2,
    columns=Columns(
        id="productid", title="designation", description="description", image="image", label=("prdtypecode",)
    ),
    encoders=(
        EncoderRecipe(
            name="camembert",
            modality="text",
            kind="transformers",
            arguments={"model": "camembert-base", "pooling": "flatten", **_TEXT},
            training=Training(
                epochs=12,
                batch_size=32,
                learning_rate=2e-5,
                classifier_learning_rate=2e-5,
                weight_decay=0.0,
                warmup_share=0.0,
                activation="tanh",
                dropout=0.0,
            ),
        ),
        EncoderRecipe(
            name="flaubert",
            modality="text",
            kind="transformers",
            arguments={"model": "flaubert/flaubert_base_cased", "pooling": "first", **_TEXT},
            training=Training(
                epochs=12,
                batch_size=32,
                learning_rate=2e-5,
                classifier_learning_rate=2e-5,
                weight_decay=0.0,
                warmup_share=0.0,
                dropout=0.1,
            ),
        ),
        EncoderRecipe(
            name="se-resnext50",
            modality="image",
            kind="timm",
            arguments={"model": "legacy_seresnext50_32x4d", "framing": "crop"},
            training=Training(
                epochs=10,
                batch_size=64,
                learning_rate=1e-4,
                classifier_learning_rate=1e-4,
                optimizer="adam",
                weight_decay=0.0,
                schedule="constant",
                warmup_share=0.0,
                clip=0.0,
                dropout=0.0,
                augmentation=Augmentation(area=(0.8, 1.0), degrees=15.0),
            ),
        ),
    ),
    head=HeadRecipe(hidden=768, dropout=0.0, epochs=3, batch_size=64, learning_rate=2e-5, weight_decay=0.0),
    late_fusion=LateFusionRecipe(
        objective="multiclass",
        num_leaves=22,
        min_child_samples=125,
        min_child_weight=10.0,
        reg_alpha=0.1,
        reg_lambda=20.0,
        colsample_bytree=0.528,
        learning_rate=0.1,
    ),
)
