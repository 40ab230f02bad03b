"""A recurrent network over the words of a product's title and description."""

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from typing_extensions import override

from mmbatch import schema
from mmbatch.encoders.base import VECTOR_DTYPE, Budget, Budgets, Encoder, Inputs, Prepared, TraceInput, write_encoder
from mmbatch.encoders.cleaning import clean_words, cleaning_config, require_language
from mmbatch.encoders.product_text import TEXT_COLUMNS, product_texts, without_text
from mmbatch.encoders.word_vectors import WordVectors, find_vectors, read_vectors
from mmbatch.errors import InputError
from mmbatch.sequences import take_ragged
from mmbatch.training import Augmentation

VOCABULARY_FILE = "vocabulary.txt"
"""One word a line; the word of line n has the id n."""

UNKNOWN = 0
"""Id of what stands in for a text without a known word, and of padding; its vector is zero."""

CODE_VERSION = 1
"""Raised whenever this module turns the same rows and weights into other vectors or states."""


@final
class RecurrentText(Encoder):
    """Last states of a bidirectional LSTM over a text's word vectors, through one layer (Schuster & Paliwal 1997).

    The text branch of the Flipkart system: 512 states in each direction, then 256 numbers through a ReLU. As there, a
    text is cleaned (`clean_words`), words that are not in the vocabulary are left out, and 100 words count; here they
    are the first ones, title before description (there the last ones, of the description alone), a word that the
    pretrained vectors lack is not in the vocabulary (there its vector is zero), and padding is not read.

    E stands for the numbers in a word's vector, H for the states of one direction; else as in `base`.
    """

    kind: ClassVar[str] = "recurrent_text"
    modality: ClassVar[schema.Modality] = "text"
    columns: ClassVar[tuple[str, ...]] = TEXT_COLUMNS
    budgets: ClassVar[Budgets] = Budgets(cpu=Budget(2048, 64), openvino=Budget(2048, 64), gpu=Budget(2**16, 2048))

    def __init__(
        self, *, words: Sequence[str], word_width: int, hidden: int, width: int, language: str, max_length: int
    ) -> None:
        """`words` are the vocabulary, cleaned and each once; a text is cut after `max_length` known words."""
        super().__init__()
        require_language(language)
        self.hidden, self.width, self.language, self.max_length = hidden, width, language, max_length
        self.embedding = nn.Embedding(1 + len(words), word_width, padding_idx=UNKNOWN)
        self.lstm = nn.LSTM(word_width, hidden, batch_first=True, bidirectional=True)
        self.projection = nn.Linear(2 * hidden, width)
        self._words = pa.array(words, pa.string())

    @classmethod
    def from_words(
        cls,
        *,
        words: Sequence[str],
        vectors: str | None,
        word_width: int | None = None,
        hidden: int = 512,
        width: int = 256,
        language: str = "en",
        max_length: int = 100,
        weights: str | None,
        seed: int,
    ) -> Self:
        """An encoder over a vocabulary, its other weights drawn from `seed`; the global random state stays as it is.

        Word vectors are either the pretrained `vectors`, by their name in the folder `weights` (`find_vectors`), which
        stay as they are, and words without one are left out; or `word_width` numbers each, which are trained. Raises
        `InputError` where both or neither are named, no word is left, or the file of vectors cannot be used.
        """
        if (vectors is None) == (word_width is None):
            raise InputError(
                f"recurrent encoder: vectors is {vectors!r} and word_width is {word_width!r}, expected one of the two:"
                " the name of pretrained word vectors, or the width of new ones"
            )
        known = None if vectors is None else _known_words(words, find_vectors(vectors, weights))
        if not words:
            raise InputError("recurrent encoder: no text to learn from has a word that is not a stop word")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = cls(
                words=known.words if known else words,
                word_width=known.vectors.shape[1] if known else int(word_width or 0),
                hidden=hidden,
                width=width,
                language=language,
                max_length=max_length,
            )
            encoder._initialise()
        if known:
            encoder._freeze_words(torch.from_numpy(known.vectors))
        return encoder

    @classmethod
    @override
    def restore(cls, config: Mapping[str, Any], folder: Path) -> Self:
        """See `Encoder.restore`; raises `InputError` if the vocabulary's file is not the one that was saved."""
        file = folder / VOCABULARY_FILE
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from error
        found, expected = hashlib.sha256(content).hexdigest(), config["vocabulary_sha256"]
        if found != expected:
            raise InputError(f"{file}: not the vocabulary of this encoder: sha256 {found}, expected {expected}")
        sizes = {name: config[name] for name in ("word_width", "hidden", "width", "max_length")}
        words = content.decode("utf-8").split("\n")[:-1]
        return cls(words=words, language=config["cleaning"]["language"], **sizes)

    @override
    def prepare(self, batch: pa.Table, *, augmentation: Augmentation | None = None, seed: int = 0) -> Prepared:
        """`ids` int32 `[T]` and `offsets` int64 `[G + 1]`: where each text's words begin; texts are not augmented."""
        texts = product_texts(batch)
        good = np.flatnonzero(texts.is_valid().to_numpy())
        failures = without_text(good, len(batch))
        if not len(good):
            return Prepared({}, good, failures)
        words = clean_words(texts.drop_null().combine_chunks(), language=self.language)
        ids, offsets = self._known(words)
        return Prepared({"ids": ids, "offsets": offsets}, good, failures)

    def _known(self, words: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and offsets of the first known words of each text, or of `UNKNOWN` where it has none."""
        found = pc.index_in(words.values, value_set=self._words)
        known = found.is_valid().to_numpy(zero_copy_only=False)
        before = np.concatenate([[0], np.cumsum(known)])[words.offsets.to_numpy()]  # known words before each text
        counts = np.diff(before)
        lengths = np.clip(counts, 1, self.max_length)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        place = np.arange(before[-1]) - np.repeat(before[:-1], counts)  # of a known word within its text
        ids = np.full(offsets[-1], UNKNOWN, np.int32)
        ids[np.repeat(counts > 0, lengths)] = found.drop_null().to_numpy()[place < self.max_length] + 1
        return ids, offsets

    @override
    def sizes(self, inputs: Inputs) -> np.ndarray:
        """Words."""
        return np.diff(inputs["offsets"])

    @override
    def collate(self, inputs: Inputs, rows: np.ndarray) -> dict[str, np.ndarray]:
        """`ids` int32 `[B, L]`, padded on the right to the longest row, and `lengths` int64 `[B]`."""
        places, lengths = take_ragged(inputs["offsets"], rows)
        within_BL = np.arange(lengths.max()) < lengths[:, None]
        ids_BL = np.full(within_BL.shape, UNKNOWN, np.int32)
        ids_BL[within_BL] = inputs["ids"][places]
        return {"ids": ids_BL, "lengths": lengths}

    @override
    def trace_inputs(self) -> dict[str, TraceInput]:
        """Nothing: torch cannot export an LSTM over sequences of varying lengths."""
        return {}

    @override
    def forward(self, *, ids: Tensor, lengths: Tensor) -> Tensor:
        """Vectors float32 `[B, width]` of word ids `[B, L]`; what stands after a row's length is not read."""
        _, (states_2BH, _) = self.lstm(self._packed(ids, lengths))
        both_BH2 = torch.cat([states_2BH[0], states_2BH[1]], dim=1)
        return torch.relu(self.projection(both_BH2)).float()

    @property
    @override
    def sequence_width(self) -> int:
        return 2 * self.hidden

    @property
    @override
    def longest_sequence(self) -> int:
        return self.max_length

    @override
    def states(self, *, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """At each word, the state of the words up to it and that of the words from it on; see `Encoder.states`.

        A text without a known word has one, of the zero vector.
        """
        packed, _ = self.lstm(self._packed(ids, lengths))
        states_BLF, _ = pad_packed_sequence(packed, batch_first=True)
        return states_BLF.float(), lengths

    def _packed(self, ids: Tensor, lengths: Tensor) -> PackedSequence:
        words_BLE = self.embedding(ids)
        return pack_padded_sequence(words_BLE, lengths.cpu(), batch_first=True, enforce_sorted=False)

    @override
    def config(self) -> dict[str, object]:
        return {
            "code": CODE_VERSION,
            "cleaning": cleaning_config(self.language),
            "dtype": VECTOR_DTYPE.str,
            "hidden": self.hidden,
            "max_length": self.max_length,
            "vocabulary_sha256": hashlib.sha256(self._vocabulary()).hexdigest(),
            "width": self.width,
            "word_width": self.embedding.embedding_dim,
        }

    @override
    def save(self, folder: Path) -> None:
        (folder / VOCABULARY_FILE).write_bytes(self._vocabulary())
        apart = deepcopy(self)  # on a GPU an LSTM's weights are parts of one storage, which safetensors refuses
        for parameter in apart.parameters():
            parameter.data = parameter.data.cpu().clone()
        write_encoder(apart, folder)

    def _vocabulary(self) -> bytes:
        return "".join(f"{word}\n" for word in self._words.to_pylist()).encode()

    def _initialise(self) -> None:
        """As Keras does, with which the system was built: its forget gates start open (Jozefowicz et al. 2015).

        A gate has one bias there and two here: the second one stays zero.
        """
        for name, weight in [*self.lstm.named_parameters(), *self.projection.named_parameters()]:
            if weight.dim() == 1:
                nn.init.zeros_(weight)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(weight)
            else:
                nn.init.xavier_uniform_(weight)
            if name.startswith("bias_ih"):
                nn.init.ones_(weight[self.hidden : 2 * self.hidden])
            weight.requires_grad_(not name.startswith("bias_hh"))

    def _freeze_words(self, vectors: Tensor) -> None:
        """Take these vectors, float32 `[W, E]`, for the words and never train them."""
        with torch.no_grad():
            self.embedding.weight[1:] = vectors
        self.embedding.weight.requires_grad_(False)


def _known_words(words: Sequence[str], file: Path) -> WordVectors:
    """The words that the file has a vector of; `InputError` where it has none."""
    known = read_vectors(file, words)
    if words and not known.words:
        raise InputError(f"{file}: has none of the {len(words)} words of the texts: is it of another language?")
    return known
