"""The words of product texts: lower case, no special characters, no stop words, lemmas instead of inflected forms.

Lemmas are those of `simplemma`. Stop words are scikit-learn's for English, else those of `stopwordsiso`, whose English
list has "mug", "home", "computer" and "men". All of them carry their data: nothing is downloaded.

The Flipkart system names WordNet's lemmas and takes gensim's stop words, a list of the same origin as scikit-learn's.
WordNet is English only, and its data come with no Python package; the two agree on 96.7 % of the distinct words of a
Flipkart catalog and on 96.3 % of the running ones, stop words aside (WordNet's nouns, then its verbs).
"""

import hashlib
from functools import lru_cache
from importlib.metadata import version
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmbatch.errors import InputError

CODE_VERSION = 1
"""Raised whenever this module makes other words of the same text."""

_SPECIAL = r"[^\p{L}\p{M}\p{N}]+"
"""Everything but letters, the marks that belong to them, and digits."""

_WITHOUT_LEMMAS = frozenset({"ko"})
"""Languages of which `stopwordsiso` knows stop words and `simplemma` no lemma: their words stay as they are."""


@lru_cache
def languages() -> frozenset[str]:
    """The languages that can be cleaned, as ISO 639-1 codes."""
    from simplemma.strategies.dictionaries.dictionary_factory import SUPPORTED_LANGUAGES
    from stopwordsiso import langs

    return langs() & (SUPPORTED_LANGUAGES | _WITHOUT_LEMMAS)


def require_language(language: str) -> None:
    """Raise `InputError` where a language cannot be cleaned."""
    if language not in languages():
        raise InputError(
            f"language {language!r}: there are no stop words and lemmas of it, only of {', '.join(sorted(languages()))}"
        )


def cleaning_config(language: str) -> dict[str, object]:
    """What decides which words a text becomes, as JSON values: a part of a fingerprint."""
    return {
        "code": CODE_VERSION,
        "language": language,
        "lemmas": None if language in _WITHOUT_LEMMAS else f"simplemma {version('simplemma')}",
        "stop_words_sha256": hashlib.sha256("\n".join(sorted(_stop_words(language))).encode()).hexdigest(),
    }


def clean_words(texts: pa.Array, *, language: str) -> pa.ListArray:
    """The words of each text in their order, list of strings `[G]`; a text may be left with none.

    Each distinct word is looked up once, however often it occurs. `texts` are strings `[G]`, none of them null, in a
    language of `languages` (else `InputError`).
    """
    require_language(language)
    plain = pc.replace_substring_regex(pc.utf8_normalize(pc.utf8_lower(texts), form="NFC"), _SPECIAL, " ")
    split = pc.utf8_split_whitespace(plain)
    coded = split.values.dictionary_encode()
    words = _lemmas(coded.dictionary, language).take(coded.indices)
    ends = np.cumsum(words.is_valid().to_numpy(zero_copy_only=False), dtype=np.int32)
    offsets = np.concatenate([np.zeros(1, np.int32), ends])[split.offsets.to_numpy()]
    return pa.ListArray.from_arrays(pa.array(offsets), words.drop_null())


def _lemmas(words: pa.Array, language: str) -> pa.Array:
    """The lemma of each word; null for a stop word and for no word at all."""
    found = pa.array([_lemma(word, language) for word in words.to_pylist()], pa.string())
    composed = pc.match_substring_regex(found, _SPECIAL)  # a few dates and compounds have a lemma with a hyphen
    return pc.if_else(composed, words, found)


@lru_cache(2**18)
def _lemma(word: str, language: str) -> str | None:
    if not word or word in _stop_words(language):
        return None
    if language in _WITHOUT_LEMMAS:
        return word
    from simplemma import lemmatize

    return lemmatize(word, lang=language).lower()  # it gives names their capital letter back


@lru_cache
def _stop_words(language: str) -> frozenset[str]:
    if language == "en":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        return frozenset(ENGLISH_STOP_WORDS)
    from stopwordsiso import stopwords

    return frozenset(normalize("NFC", word.lower()) for word in stopwords(language))
