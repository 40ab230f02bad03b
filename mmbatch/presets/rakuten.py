"""`rakuten2020`: CamemBERT, FlauBERT and SE-ResNeXt-50, as the team "Transformers" trained them.

"A Multimodal Late Fusion Model for E-Commerce Product Classification", SIGIR eCom 2020 data challenge, section 4: 90 %
of the labelled products train, AdamW at 2e-5 for the text models and Adam at 1e-4 for the image model. Titles and
descriptions are joined by a space, uncleaned and cased, 256 tokens. Where the published notebooks differ, the paper
counts; they train CamemBERT for 10 epochs instead of 12, and the image model at Adam's default rate of 1e-3.

Different here on purpose: the best epoch is kept (theirs is the last, as the best score is reset every epoch), frozen
encoders are really frozen, and the JPEGs that train are views of the whole photo, decoded at the size they are seen at.

The challenge's text and labels come as two files; this makes one table of them, beside the folder of images:

    duckdb -c "COPY (SELECT x.*, y.prdtypecode,
      format('image_train/image_{}_product_{}.jpg', imageid, productid) AS image
      FROM 'X_train_update.csv' x JOIN 'Y_train_CVw08PX.csv' y USING (column0)) TO 'rakuten.parquet'"
"""

from mmbatch.presets.base import EncoderRecipe, HeadRecipe, Preset
from mmbatch.sources import Columns
from mmbatch.training import Augmentation, Training

_TEXT = {"max_length": 256, "separator": " "}

RAKUTEN2020 = Preset(
    name="rakuten2020",
    level=1,
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
    head=HeadRecipe(hidden=768, dropout=0.1, epochs=3, batch_size=64, learning_rate=1e-3, weight_decay=0.01),
)
