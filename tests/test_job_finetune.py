"""`--training` changes fields of a recipe, typed as the recipe has them."""

from dataclasses import replace
from typing import Any

import pytest

from jobs._recipe import changed
from mmbatch.errors import InputError
from mmbatch.presets import preset_named
from mmbatch.training import Augmentation, Lora

RECIPE = next(recipe for recipe in preset_named("sample").encoders if recipe.modality == "image")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((), {}),
        (("epochs=7", "learning_rate=2e-5"), {"epochs": 7, "learning_rate": 2e-5}),
        (("patience=2",), {"patience": 2}),
        (("patience=None",), {"patience": None}),
        (("frozen=backbone.a,backbone.b",), {"frozen": ("backbone.a", "backbone.b")}),
        (("frozen_batch_norm=False", "compile=True"), {"frozen_batch_norm": False, "compile": True}),
        (("augmentation=None",), {"augmentation": None}),
        (
            ("augmentation.degrees=5", "augmentation.area=0.5,1"),
            {"augmentation": Augmentation(degrees=5, area=(0.5, 1))},
        ),
        (("lora.rank=16", "lora.targets=query,value"), {"lora": Lora(rank=16, targets=("query", "value"))}),
        (("sampling=balanced", "optimizer=radam"), {"sampling": "balanced", "optimizer": "radam"}),
    ],
)
def test_named_fields_change_and_others_stay(fields: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert changed(RECIPE.training, fields) == replace(RECIPE.training, **expected)


def test_a_field_without_a_value_is_named() -> None:
    with pytest.raises(InputError, match=r"--training epochs: expected field=value"):
        changed(RECIPE.training, ("epochs",))


@pytest.mark.parametrize("field", ["epochs=many", "no_such_field=1", "optimizer=sgd"])
def test_an_unknown_field_or_value_ends_the_process(field: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        changed(RECIPE.training, (field,))
    assert stopped.value.code == 2
    assert field.partition("=")[0].replace("_", "-") in capsys.readouterr().err
