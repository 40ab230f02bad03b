"""Champion and challenger: trained on tonight's labels, compared on golden rows, and the newest only if published."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray

from mmbatch import schema
from mmbatch.catalog import Catalog
from mmbatch.encoders import build_encoder
from mmbatch.errors import InputError
from mmbatch.fusion.taxonomy_edits import Edits
from mmbatch.joined import joined_store
from mmbatch.metrics import f1_scores
from mmbatch.models import (
    Model,
    list_models,
    newest_encoders,
    newest_head,
    newest_predictor,
    open_model,
    published_predictor,
    sequence_heads,
)
from mmbatch.pipelines import retrain
from mmbatch.pipelines.cluster import start_ray
from mmbatch.pipelines.extract import extract, store_of
from mmbatch.pipelines.extract_joined import extract_joined
from mmbatch.pipelines.ingest import ingest
from mmbatch.pipelines.predict import predict
from mmbatch.pipelines.retrain import compare, golden_predictions, train_challenger
from mmbatch.pipelines.train_late_fusion import Goal, train_late_fusion
from mmbatch.presets.base import Preset
from mmbatch.presets.sample import SAMPLE
from mmbatch.sample import write_sample
from mmbatch.taxonomy_history import TaxonomyHistory
from mmbatch.training import EncoderRecipe, HeadRecipe, LateFusionRecipe
from mmbatch.workspace import Settings, Workspace
from tests.pipelines.test_extract import publish
from tests.stored_features import BUCKETS, encoders, write_workspace

pytestmark = pytest.mark.filterwarnings("ignore::Warning:ray")
"""Ray warns of its own settings while it makes its context."""

PRODUCTS = 600
UNKNOWN = 8
"""A golden row without any vector."""

PRESET: Preset = replace(
    SAMPLE,
    head=HeadRecipe(
        hidden=16, dropout=0.0, modality_dropout=0.0, epochs=6, batch_size=16, learning_rate=0.02, weight_decay=0.0
    ),
    late_fusion=LateFusionRecipe(num_leaves=4, min_child_samples=10),
    precision=0.6,
)


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    start_ray()
    yield
    ray.shutdown()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = write_workspace(
        tmp_path / "workspace", products=PRODUCTS, without_vectors=(UNKNOWN,), calibrated=True, golden=True
    )
    for model in encoders(made):
        card = model.card | {"kind": "encoder", "id": model.id, "recipe": "made", "sha256": {}}
        folder = Path(model.uri)
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(json.dumps(card))
    return made


@pytest.fixture
def champion(workspace: Workspace) -> Model:
    """A predictor without a head, published."""
    goal = Goal(precision=PRESET.precision)
    model = train_late_fusion(workspace, encoders(workspace), None, recipe=PRESET.late_fusion, goal=goal)
    predict(workspace, model)
    return model


def relabel(workspace: Workspace, *, every: int) -> None:
    """Give every n-th train product the label of the next one."""
    catalog = Catalog(workspace=workspace)
    drawn = catalog.splits.read()
    split = dict(zip(drawn["product_id"].to_pylist(), drawn["split"].to_pylist(), strict=True))
    for bucket in range(BUCKETS):
        rows = catalog.table.read(buckets=[bucket]).to_pylist()
        following = [*rows[1:], rows[0]]
        labels = [
            other["label"] if split[row["product_id"]] == "train" and number % every == 0 else row["label"]
            for number, (row, other) in enumerate(zip(rows, following, strict=True))
        ]
        edited = pa.Table.from_pylist(
            [row | {"label": label} for row, label in zip(rows, labels, strict=True)], schema=schema.CATALOG
        )
        version = catalog.table.version()
        catalog.table.replace(
            [catalog.table.write_file(edited, bucket=bucket)],
            catalog.table.files([bucket]),
            app_id=f"relabel-{version}",
            read_version=version,
        )


def test_golden_rows_are_predicted_as_they_would_be_published(workspace: Workspace, champion: Model) -> None:
    found = golden_predictions(workspace, champion, TaxonomyHistory.read(workspace))
    expected = [f"p{number:05d}" for number in range(8, PRODUCTS, 10) if number != UNKNOWN]
    assert sorted(found.product_ids) == expected
    published = workspace.table("predictions", schema=schema.PREDICTIONS).read(["product_id", "category"]).to_pandas()
    labels = Catalog(workspace=workspace).labels().to_pandas().set_index("product_id")["category"]
    categories = published.set_index("product_id")["category"]
    assert found.predicted.tolist() == categories[found.product_ids].tolist()
    assert found.gold.tolist() == labels[found.product_ids].tolist()
    assert (found.gold == found.predicted).mean() > 0.7


def test_golden_rows_have_the_names_of_the_present_tree(workspace: Workspace, champion: Model) -> None:
    edits: Edits = {("a", "x"): (("a", "new"),), ("a", "y"): ()}
    history = TaxonomyHistory.read(workspace).add(workspace, edits)
    before = golden_predictions(workspace, champion, TaxonomyHistory())
    found = golden_predictions(workspace, champion, history)
    assert set(found.gold) == {"a > new", "b > x", "b"}
    assert set(found.predicted) <= set(found.gold)
    assert len(found.product_ids) == np.count_nonzero(before.gold != "a > y")


def test_without_golden_rows_nothing_is_predicted_and_nobody_is_better(tmp_path: Path) -> None:
    workspace = write_workspace(tmp_path / "w", products=200)
    model = train_late_fusion(workspace, encoders(workspace), None, recipe=PRESET.late_fusion, goal=Goal(precision=0.6))
    assert len(golden_predictions(workspace, model, TaxonomyHistory()).product_ids) == 0
    found = compare(workspace, model, model)
    assert (found.rows, found.better) == (0, False)


def test_features_that_are_not_stored_are_missed(workspace: Workspace, champion: Model) -> None:
    card = champion.card | {"encoders": ["image@2", "text@1"]}
    with pytest.raises(InputError, match="image@2"):
        golden_predictions(workspace, replace(champion, card=card), TaxonomyHistory())


def in_use(workspace: Workspace) -> tuple[str, str]:
    """Identities of the published predictor and of the newest one."""
    published = published_predictor(workspace)
    assert published is not None
    return published.id, newest_predictor(workspace).id


def test_the_same_labels_give_the_champion_back_and_others_a_challenger(
    workspace: Workspace, champion: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_challenger(workspace, "late-fusion", champion=champion, preset=PRESET).id == champion.id
    said = f"nothing new to learn from: trained again, late-fusion gives the champion, {champion.id}"
    assert said in capsys.readouterr().err
    assert "challenger" not in list_models(workspace, "predictor")[0].card
    relabel(workspace, every=2)
    challenger = train_challenger(workspace, "late-fusion", champion=champion, preset=PRESET)
    assert challenger.card["challenger"] is True
    assert f"{challenger.id} challenges {champion.id}" in capsys.readouterr().err
    assert in_use(workspace) == (champion.id, champion.id)
    assert train_challenger(workspace, "late-fusion", champion=champion, preset=PRESET).id == challenger.id
    predict(workspace, challenger)
    assert in_use(workspace) == (challenger.id, challenger.id)
    predict(workspace, champion)
    assert in_use(workspace) == (champion.id, champion.id)


def test_what_a_challenger_was_trained_as_can_be_trained_and_published_by_hand(
    workspace: Workspace, champion: Model
) -> None:
    relabel(workspace, every=2)
    challenger = train_challenger(workspace, "late-fusion", champion=champion, preset=PRESET)
    goal = Goal(precision=PRESET.precision)
    by_hand = train_late_fusion(workspace, encoders(workspace), None, recipe=PRESET.late_fusion, goal=goal)
    assert by_hand.id == challenger.id
    assert in_use(workspace) == (champion.id, challenger.id)


def test_a_challenger_of_worse_labels_is_worse_by_the_macro_f1_of_its_predictions(
    workspace: Workspace, champion: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    relabel(workspace, every=1)
    challenger = train_challenger(workspace, "late-fusion", champion=champion, preset=PRESET)
    found = compare(workspace, champion, challenger)
    assert found.high < 0
    assert not found.better
    assert compare(workspace, challenger, champion).better
    gold = golden_predictions(workspace, champion, TaxonomyHistory())
    codes = {name: code for code, name in enumerate(sorted({*gold.gold, *gold.predicted}))}
    said = (np.array([codes[name] for name in names]) for names in (gold.gold, gold.predicted))
    assert found.before == pytest.approx(f1_scores(*said).macro)
    assert f"{champion.id} and {challenger.id}: {found.describe()}" in capsys.readouterr().err


def test_a_new_head_has_a_new_late_fusion_and_is_not_the_newest(workspace: Workspace, champion: Model) -> None:
    challenger = train_challenger(workspace, "head", champion=champion, preset=PRESET)
    (head,) = list_models(workspace, "head")
    assert (challenger.card["head"], head.card["challenger"]) == (head.id, True)
    assert newest_head(workspace, encoders(workspace)) is None
    found = compare(workspace, champion, challenger)
    assert (found.rows, found.left_out) == (PRODUCTS // 10 - 1, 0)
    predict(workspace, challenger)
    assert newest_head(workspace, encoders(workspace)) == head
    again = train_challenger(workspace, "late-fusion", champion=challenger, preset=PRESET)
    assert again.id == challenger.id, "its head is kept"


def test_a_late_fusion_over_a_head_of_other_categories_is_refused(workspace: Workspace, champion: Model) -> None:
    challenger = train_challenger(workspace, "head", champion=champion, preset=PRESET)
    card = Path(list_models(workspace, "head")[0].uri) / "model.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"categories": ["a > x"]}))
    with pytest.raises(
        InputError, match=r"was trained on 1 categories, the train rows have 4.*: train the head first$"
    ):
        train_challenger(workspace, "late-fusion", champion=challenger, preset=PRESET)


def test_rows_that_one_of_the_two_cannot_predict_are_left_out_and_counted(
    workspace: Workspace, champion: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    (image,) = (model for model in encoders(workspace) if model.name == "image")
    goal = Goal(precision=0.6)
    alone = train_late_fusion(workspace, [image], None, recipe=PRESET.late_fusion, goal=goal)
    without = [number for number in range(8, PRODUCTS, 10) if number % 7 == 3]
    found = compare(workspace, champion, alone)
    assert found.left_out == len(without)
    assert found.rows == PRODUCTS // 10 - 1 - len(without)
    assert f"; {len(without)} rows that one of them cannot predict are left out" in capsys.readouterr().err
    assert found.high < 0, "the image alone does not tell a from b"
    assert compare(workspace, alone, champion).better


@dataclass(frozen=True)
class Asked:
    """What a challenger's encoders were made of."""

    recipes: list[str]
    labelled_only: list[bool]


def test_new_encoders_are_fine_tuned_and_extract_the_labelled_products_only(
    workspace: Workspace, champion: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked([], [])
    made = dict(zip(("ngram-text", "small-image"), reversed(encoders(workspace)), strict=True))

    def subjects(where: Workspace, recipes: tuple[EncoderRecipe, ...], *, weights: str | None) -> list[str]:
        assert (where.challenging, weights) == (True, "folder")
        return [recipe.name for recipe in recipes]

    def finetune(subject: str, training: object, resources: object) -> Model:
        asked.recipes.append(subject)
        return made[subject]

    monkeypatch.setattr(retrain, "subjects_of", subjects)
    monkeypatch.setattr(retrain, "finetune", finetune)
    monkeypatch.setattr(retrain, "extract", lambda *_, labelled_only: asked.labelled_only.append(labelled_only))
    challenger = train_challenger(workspace, "encoder", champion=champion, preset=PRESET, weights="folder")
    assert asked == Asked(["ngram-text", "small-image"], [True])
    assert challenger.card["head"] is not None
    monkeypatch.setattr(retrain, "finetune", lambda *_: None)
    with pytest.raises(InputError, match="no labelled product has what the encoders read"):
        train_challenger(workspace, "encoder", champion=champion, preset=PRESET, weights="folder")


@pytest.mark.slow
def test_encoders_and_a_head_over_sequences_challenge_and_are_extracted_whole_once_they_are_taken(
    tmp_path: Path,
) -> None:
    (source,) = write_sample(str(tmp_path / "source"), rows=240, seed=3)
    rows = pq.read_table(source)
    labelled = pa.array([number % 5 != 0 for number in range(rows.num_rows)])
    at = rows.schema.get_field_index("category_path")
    kept = pc.if_else(labelled, rows["category_path"], pa.scalar(None, rows.schema.field(at).type))
    pq.write_table(rows.set_column(at, "category_path", kept), source)
    workspace = Workspace.create(str(tmp_path / "w"), Settings(preset="sample", level=1, seed=0, buckets=2))
    ingest(workspace, source=source, columns=SAMPLE.columns)
    champion = first_champion(workspace, tmp_path)
    preset = replace(
        SAMPLE,
        encoders=tuple(replace(one, training=replace(one.training, epochs=1)) for one in SAMPLE.encoders),
        head=replace(SAMPLE.head, kinds=("cross-attention",), sequences=True, attention_heads=4, epochs=1),
    )
    challenger = train_challenger(workspace, "encoder", champion=champion, preset=preset)
    (head,) = list_models(workspace, "head")
    made = [open_model(workspace, kind="encoder", model_id=name) for name in challenger.card["encoders"]]
    with_label = set(rows["product_id"].filter(labelled).to_pylist())
    for table in (*(store_of(workspace, model).table for model in made), joined_store(workspace, head).table):
        held = set(table.read(["product_id"])["product_id"].to_pylist())
        assert len(held & with_label) > 0.8 * len(with_label)
        assert len(held - with_label) < 5, "who has the title or photo of a labelled product"
    assert [model.id for model in newest_encoders(workspace)] == champion.card["encoders"]
    assert sequence_heads(workspace, newest_encoders(workspace)) == []
    assert compare(workspace, champion, challenger).rows > 0
    extract(workspace, made)
    extract_joined(workspace, head)
    assert predict(workspace, challenger)["counts"]["predicted"] == rows.num_rows
    assert [model.id for model in newest_encoders(workspace)] == challenger.card["encoders"]
    assert sequence_heads(workspace, made) == [head]


def first_champion(workspace: Workspace, folder: Path) -> Model:
    """A published predictor over the preset's encoders as they are drawn from their seed."""
    models = [
        publish(workspace, build_encoder(one.kind, weights=None, seed=0, **one.arguments), one.name, folder / one.name)
        for one in SAMPLE.encoders
    ]
    extract(workspace, models)
    model = train_late_fusion(workspace, models, None, recipe=SAMPLE.late_fusion, goal=Goal(precision=0.6))
    predict(workspace, model)
    return model
