import pyarrow as pa
import pytest

from mmbatch.encoders.cleaning import clean_words, cleaning_config, languages
from mmbatch.errors import InputError


def cleaned(*texts: str, language: str = "en") -> list[list[str]]:
    words: list[list[str]] = clean_words(pa.array(texts, pa.string()), language=language).to_pylist()
    return words


def test_case_special_characters_stop_words_and_inflection_go() -> None:
    assert cleaned("Alisha's Solid Women's SHORTS & the dresses_(Pack of 3)!") == [
        ["alisha", "s", "solid", "woman", "s", "short", "dress", "pack", "3"]
    ]


def test_words_stay_in_their_texts_and_a_text_may_lose_all() -> None:
    assert cleaned("red mugs", "", "and the !!!", " lamps ", "mugs mugs") == [
        ["red", "mug"],
        [],
        [],
        ["lamp"],
        ["mug", "mug"],
    ]


def test_a_part_of_a_larger_array_is_cleaned_alone() -> None:
    texts = pa.array(["red mugs", "blue lamps", "towels"])
    assert clean_words(texts.slice(1, 2), language="en").to_pylist() == [["blue", "lamp"], ["towel"]]


def test_no_text_is_no_list() -> None:
    assert cleaned() == []


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert cleaned("café", "CAFE\u0301") == [["café"], ["café"]]


def test_a_lemma_stays_one_lower_case_word() -> None:
    assert cleaned("Xbox of the 1990s") == [["xbox", "1990s"]]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("fr", "Chaussures élégantes pour les femmes d'aujourd'hui", ["chaussure", "élégant", "femme"]),
        ("de", "Schöne Schuhe für Damen", ["schön", "schuh", "dame"]),
        ("hi", "लाल किताबें और जूते", ["लाल", "किताब", "जूता"]),
        ("ko", "여성 신발 그리고 가방", ["여성", "신발", "가방"]),
    ],
)
def test_other_languages_have_their_own_words(language: str, text: str, expected: list[str]) -> None:
    assert cleaned(text, language=language) == [expected]


def test_a_language_without_spaces_between_words_is_refused() -> None:
    with pytest.raises(InputError, match=r"language 'zh': .* only of ar, bg, .*, en, .*, ko, "):
        cleaned("鞋", language="zh")


def test_every_language_can_be_cleaned() -> None:
    assert {"en", "fr", "de", "es", "ko"} <= languages()
    for language in languages():
        assert cleaned("12345", language=language) == [["12345"]]


def test_names_of_products_are_no_stop_words() -> None:
    assert cleaned("mug home computer men") == [["mug", "home", "computer", "man"]]


def test_the_configuration_tells_languages_and_versions_apart() -> None:
    english, french, korean = (cleaning_config(language) for language in ("en", "fr", "ko"))
    assert str(english["lemmas"]).startswith("simplemma ")
    assert korean["lemmas"] is None
    assert english["stop_words_sha256"] != french["stop_words_sha256"]
