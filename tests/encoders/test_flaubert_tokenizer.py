import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mmbatch.encoders.flaubert_tokenizer import flaubert_tokenizer
from mmbatch.encoders.text import TransformersText
from mmbatch.errors import InputError
from tests.encoders.test_text_models import table
from tests.encoders.twins import FLAUBERT_MERGES, FLAUBERT_VOCABULARY


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    vocabulary, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(FLAUBERT_VOCABULARY)}))
    merges.write_text("".join(f"{merge}\n" for merge in FLAUBERT_MERGES))
    return vocabulary, merges


@pytest.fixture
def tokenizer(files: tuple[Path, Path]) -> Tokenizer:
    return flaubert_tokenizer(*files, lowercase=False)


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("L'étui d'aujourd'hui", "L' étui d' aujourd' hui"),
        ("un porte-clés, l’aimant", "un porte-clés , l' aimant"),
        ("2,5 mm² (inox)", "2,5 mm ² ( inox )"),
        ("25\u00a0000 lampes à 12.5 %", "25,000 lampes à 12.5 %"),
        ("une lampe. Un mug.", "une lampe . Un mug ."),
        ("vol. 3 de M. Martin", "vol. 3 de M. Martin"),
        ("une lampe. un mug", "une lampe. un mug"),
        ("la S.N.C.F. Un train", "la S.N.C.F. Un train"),
        ("longueur 5.5. Largeur", "longueur 5.5 . Largeur"),
        ("jaune.Couleur", "jaune.Couleur"),
        ("un mug… Voir", "un mug ... Voir"),
        ("« rouge », “bleu” — vert", '" rouge " , " bleu " - vert'),
        ("5' x 6'", "5 ' x 6 '"),
        ("n°3 : 20€/kg", "n ° 3 : 20 € / kg"),
        ("a,b,c et 1,a", "a , b , c et 1 , a"),
        ("zéro\u200blargeur\u00a0!", "zérolargeur !"),
        ("e\u0301te\u0301 ２０", "été 20"),
        ("rouge\nbleu", "rouge bleu"),
    ],
)
def test_words_are_those_of_moses(tokenizer: Tokenizer, text: str, expected: str) -> None:
    assert words(tokenizer, text) == expected.split(" ")


def test_pieces_follow_the_merges_in_their_order(tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode("the red mug")
    assert encoding.tokens == ["<s>", "the</w>", "red</w>", "mug</w>", "</s>"]
    assert encoding.ids == [FLAUBERT_VOCABULARY.index(token) for token in encoding.tokens]
    assert tokenizer.encode("l'mur").tokens == ["<s>", "l'</w>", "mu", "r</w>", "</s>"]
    assert tokenizer.encode("red", "mug").tokens == ["<s>", "red</w>", "</s>", "mug</w>", "</s>"]


def test_pieces_that_only_the_merges_know_are_unknown_to_the_network(small_weights: str) -> None:
    encoder = TransformersText.from_pretrained("org/tiny-flaubert", max_length=24, weights=small_weights)
    ids = encoder.prepare(table(["l'mur", "Ω red"], [None, None])).inputs["ids"].tolist()
    expected = ["<s>", "l'</w>", "<unk>", "r</w>", "</s>", "<s>", "<unk>", "red</w>", "</s>"]
    assert ids == [FLAUBERT_VOCABULARY.index(token) for token in expected]


def test_letters_are_made_small_for_a_model_without_capitals(files: tuple[Path, Path]) -> None:
    small = flaubert_tokenizer(*files, lowercase=True)
    assert small.encode("The RED Mug").tokens == ["<s>", "the</w>", "red</w>", "mug</w>", "</s>"]


def test_names_of_special_tokens_in_a_text_are_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<s>").tokens[1:-1] == ["<unk>", "s</w>", "<unk>"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"<s>": 0, "</s>": 1, "<pad>": 2}', '{"<s>": 1}'])
def test_what_is_no_vocabulary_is_named(files: tuple[Path, Path], content: str) -> None:
    files[0].write_text(content)
    with pytest.raises(InputError, match=r"vocab\.json: not a vocabulary, expected "):
        flaubert_tokenizer(*files, lowercase=False)


def test_a_line_that_is_no_merge_is_named(files: tuple[Path, Path]) -> None:
    files[1].write_text("m u 9\nmug\n")
    with pytest.raises(InputError, match=r"merges\.txt: line 2 is not a merge, expected two pieces of a word"):
        flaubert_tokenizer(*files, lowercase=False)


def test_a_missing_file_is_an_input_error(small_weights: str, tmp_path: Path) -> None:
    source, folder = Path(small_weights) / "org--tiny-flaubert", tmp_path / "org--tiny-flaubert"
    folder.mkdir()
    for file in source.iterdir():
        if file.name != "merges.txt":
            (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"org--tiny-flaubert: cannot be loaded: .*merges\.txt"):
        TransformersText.from_pretrained("org/tiny-flaubert", max_length=24, weights=str(tmp_path))
