"""FlauBERT's tokenizer, built from the two files that its models are published with.

transformers has it only in Python, over the package sacremoses, one text at a time. Here its steps are rules of the
`tokenizers` library: Moses's normalising and splitting into words (French), then byte-pair encoding with `</w>` at the
end of words. Of 50,000 French products' texts, 49,969 give the same pieces as the original. What differs: an apostrophe
that begins or ends a text, and the second one of `rock'n'roll`, are set apart; a line break or tab parts words as a
space does, where the original drops it and joins them; Chinese and Japanese letters are not split one by one. The names
of special tokens are ordinary text when a product holds them.
"""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from mmbatch.errors import InputError

VOCABULARY_FILE, MERGES_FILE = "vocab.json", "merges.txt"

_BEGIN, _END, _PAD, _UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"

_NORMALISED: tuple[tuple[str, str], ...] = (
    (r"(?<=\p{Nd})\u00A0(?=\p{Nd})", ","),  # 25 000 with a no-break space
    (r"\s+", " "),
    (r"\p{C}+", ""),
    (r"``|''", '"'),
    ("[“”„«»《》「」]", '"'),
    ("[`´‘’‚]", "'"),
    ("''", '"'),
    ("[–━]", "-"),
    ("—", " - "),
    ("…", "..."),
    ("[。．] *", ". "),
    ("[，、]", ","),
    ("[∶：]", ":"),
    ("；", ";"),
    ("！", "!"),
    ("？", "?"),
    ("（", "("),
    ("）", ")"),
    ("〈", "<"),
    ("〉", ">"),
    ("【", "["),
    ("】", "]"),
    ("％", "%"),
    ("～", "~"),
    *((chr(ord("０") + digit), str(digit)) for digit in range(10)),
    (',"', '",'),
    (r'(?<!\.)\."(?= *[^< ])', '".'),
)
"""What is replaced, in this order: Moses's replace-unicode-punctuation and normalize-punctuation for French."""

_ABBREVIATIONS = (
    "[A-Zb-z]|art|ann|apr|av|auj|lib|boul|ca|cf|chap|contr|dir|éd|env|al|etc|ex|fasc|fém|fig|fr|hab|ibid|id|inf|masc"
    "|MM|ms|pl|pp|SS|sec|sect|sing|sq|sqq|suiv|sup|suppl|tél|vb|vol|vs"
)
"""Words that keep their full stop: Moses's French list without the entries that hold a full stop, which all keep it."""

_LETTERS = r"(?:[\p{Alnum}-]|(?<=\p{N}),(?=\p{N}))+"
_INNER = rf"\.?{_LETTERS}(?:\.{_LETTERS})*"
_NO_MORE = r"(?![\p{Alnum}.-])"
_WORD = "|".join(
    (
        r"\.{2,}",
        rf"(?:{_ABBREVIATIONS})\.{_NO_MORE}",
        rf"(?=[\p{{N}},.-]*\p{{Alpha}})(?:{_LETTERS})?(?:\.{_LETTERS})+\.{_NO_MORE}",
        rf"{_INNER}\.(?= +\p{{Ll}})",
        rf"{_INNER}(?:(?<=\p{{Alpha}})'(?=\p{{Alpha}}))?",
        r"\S",
    )
)
"""One word: dots in a row; one that keeps its full stop (abbreviations, letters with full stops between them, any word
before a small letter); a word, with its apostrophe (`l'`); any other sign alone."""


def flaubert_tokenizer(vocabulary: Path, merges: Path, *, lowercase: bool) -> Tokenizer:
    """The tokenizer of `vocab.json` and `merges.txt`; `<s> text </s>` or `<s> title </s> description </s>`.

    Pieces that the merges may yield and the vocabulary lacks get ids above the vocabulary's: they are unknown tokens,
    which the caller has to make of them. `InputError` names a file that is not what it should be.
    """
    ids = _read_vocabulary(vocabulary)
    pairs = _read_merges(merges)
    symbols = dict.fromkeys(symbol for first, second in pairs for symbol in (first, second, first + second))
    extended = ids | {symbol: len(ids) + at for at, symbol in enumerate(one for one in symbols if one not in ids)}
    tokenizer = Tokenizer(models.BPE(extended, pairs, unk_token=_UNKNOWN, end_of_word_suffix="</w>"))
    tokenizer.normalizer = _normalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A {_END}",
        pair=f"{_BEGIN} $A {_END} $B:1 {_END}:1",
        special_tokens=[(token, ids[token]) for token in (_BEGIN, _END)],
    )
    tokenizer.enable_padding(pad_id=ids[_PAD], pad_token=_PAD)
    return tokenizer


def _normalizer(*, lowercase: bool) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = [normalizers.NFC()]
    if lowercase:
        steps.append(normalizers.Lowercase())
    steps.extend(normalizers.Replace(Regex(pattern), content) for pattern, content in _NORMALISED)
    return normalizers.Sequence(steps)


def _read_vocabulary(file: Path) -> dict[str, int]:
    try:
        ids = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not a vocabulary, expected JSON of tokens and their ids: {error}") from error
    special = (_BEGIN, _END, _PAD, _UNKNOWN)
    if not isinstance(ids, dict) or sorted(ids.values()) != list(range(len(ids))) or not ids.keys() >= set(special):
        raise InputError(f"{file}: not a vocabulary, expected the ids 0 to N - 1 of N tokens with {' '.join(special)}")
    return ids


def _read_merges(file: Path) -> list[tuple[str, str]]:
    """Pairs in the order of the file, whose lines may hold a count as third."""
    found = [line.split(" ") for line in file.read_text(encoding="utf-8").split("\n") if line]
    short = next((number for number, parts in enumerate(found, 1) if len(parts) < 2), None)
    if short:
        raise InputError(f"{file}: line {short} is not a merge, expected two pieces of a word")
    return [(parts[0], parts[1]) for parts in found]
