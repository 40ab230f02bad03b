from collections.abc import Callable
from pathlib import Path

import pytest

from mmbatch.encoders import Encoder
from mmbatch.encoders.image import TimmImage
from mmbatch.encoders.pretrained import find_weights
from mmbatch.encoders.text import TransformersText
from mmbatch.errors import InputError


def test_a_hub_name_is_a_folder_name(tmp_path: Path) -> None:
    (tmp_path / "org--model").mkdir()
    assert find_weights("org/model", str(tmp_path)) == tmp_path / "org--model"


def test_the_environment_names_the_folder_when_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "org--model").mkdir(parents=True)
    monkeypatch.setenv("MMBATCH_WEIGHTS", str(tmp_path / "first"))
    assert find_weights("org/model", None) == tmp_path / "first" / "org--model"
    assert find_weights("org/model", str(tmp_path / "second")) == tmp_path / "second" / "org--model"


@pytest.mark.parametrize("value", [None, ""])
def test_no_folder_named_means_the_hub(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMBATCH_WEIGHTS", raising=False)
    if value is not None:
        monkeypatch.setenv("MMBATCH_WEIGHTS", value)
    assert find_weights("org/model", None) is None


def test_a_named_folder_without_the_model_tells_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "org--other").mkdir()
    expected = rf"--weights {tmp_path}: weights of org/model not found: expected folder org--model, found org--other"
    with pytest.raises(InputError, match=expected):
        find_weights("org/model", str(tmp_path))


def test_a_named_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder .* org/model"):
        find_weights("org/model", str(tmp_path / "nowhere"))


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("model", "build"),
    [
        ("org/model", lambda: TransformersText.from_pretrained("org/model", max_length=8, weights=None)),
        ("test_resnet", lambda: TimmImage.from_pretrained("test_resnet", size=None, weights=None)),
    ],
)
def test_an_unreachable_hub_is_one_line_and_never_random_weights(model: str, build: Callable[[], Encoder]) -> None:
    with pytest.raises(InputError, match=rf"^weights of {model} are neither in --weights .* nor reachable[^\n]*$"):
        build()


def test_a_tag_that_timm_does_not_know_is_named() -> None:
    with pytest.raises(InputError, match=r"^resnet10t.made_up: Invalid pretrained tag \(made_up\)"):
        TimmImage.from_pretrained("resnet10t.made_up", size=None, weights=None)
