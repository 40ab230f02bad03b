"""`--heads`, `--training` and `--workers` of the jobs that train heads."""

from dataclasses import replace

import pytest

from jobs._recipe import changed, kinds_of, workers_of
from mmbatch.errors import InputError
from mmbatch.presets import preset_named

RECIPE = preset_named("sample").head


def test_kinds_are_divided_by_commas_and_each_counts_once() -> None:
    assert kinds_of(None) == ()
    assert kinds_of("gated") == ("gated",)
    assert kinds_of("cross-attention, addition,addition") == ("addition", "cross-attention")


@pytest.mark.parametrize("flag", ["stack", "addition,stack", ""])
def test_an_unknown_kind_is_named(flag: str) -> None:
    with pytest.raises(InputError, match=rf"--heads {flag}: found '(stack)?', expected some of addition, concaten"):
        kinds_of(flag)


def test_fields_of_a_heads_recipe_change_and_others_stay() -> None:
    fields = ("blocks=6", "attention_heads=4", "level_weights=1,1.2", "optimizer=radam", "sequences=True")
    expected = replace(RECIPE, blocks=6, attention_heads=4, level_weights=(1.0, 1.2), optimizer="radam", sequences=True)
    assert changed(RECIPE, fields) == expected


@pytest.mark.parametrize("field", ["augmentation.degrees=5", "lora.rank=4", "blocks=many"])
def test_a_field_that_only_encoders_have_or_a_wrong_value_ends_the_process(
    field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        changed(RECIPE, (field,))
    assert stopped.value.code == 2
    assert field.partition("=")[0].replace("_", "-") in capsys.readouterr().err


def test_workers_are_a_number_or_a_range() -> None:
    assert workers_of(None) is None
    assert workers_of("3") == (3, 3)
    assert workers_of("1:4") == (1, 4)


@pytest.mark.parametrize("flag", ["0", "two", "4:2", "-1"])
def test_other_workers_are_refused(flag: str) -> None:
    with pytest.raises(InputError, match=rf"--workers {flag}: expected a number from 1 up, or FEWEST:MOST"):
        workers_of(flag)
