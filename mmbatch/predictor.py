"""Predictor: everything a prediction needs besides stored features, loaded as one."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from mmbatch.errors import InputError
from mmbatch.fusion.abstaining import Abstaining, Decided
from mmbatch.fusion.calibration import Calibration, scaled
from mmbatch.fusion.explanation import contributions
from mmbatch.fusion.head import FusionHead, load_head
from mmbatch.fusion.late import LateFusion, load_late_fusion
from mmbatch.fusion.levels import Levels
from mmbatch.fusion.probe import unit
from mmbatch.fusion.taxonomy import Taxonomy
from mmbatch.fusion.taxonomy_paths import LabelPath
from mmbatch.fusion.taxonomy_version import REVIEW, TaxonomyVersion
from mmbatch.models import Model, fetch_model
from mmbatch.schema import Modality
from mmbatch.storage import filesystem_of
from mmbatch.taxonomy_history import TaxonomyHistory

HEAD_MODEL = "fusion-head"
"""Name of the head among the models whose scores the late fusion joins."""

_CONTENT = "predictor.json"
_CALIBRATION = "calibration.json"
_ABSTAINING = "abstaining.json"

Features = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Encoder name -> vectors float16 `[N, width]` and presence bool `[N]`; under `HEAD_MODEL` the stored joined embeddings
of a head over sequences."""


@dataclass(frozen=True, kw_only=True)
class EncoderPart:
    """What the predictor must know of one encoder."""

    id: str
    """`name@fingerprint` of the features it reads."""
    modality: Modality
    width: int

    @property
    def name(self) -> str:
        """The part before the `@`."""
        return self.id.split("@")[0]


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """The models below the late fusion: a linear probe of each encoder, and the fusion head."""

    encoders: tuple[EncoderPart, ...]
    """By name."""
    classifiers: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """Encoder name -> weight float32 `[C, width]` and bias float32 `[C]` over vectors of length one (`fit_probe`)."""
    head: FusionHead | None
    """None when there is one encoder only: nothing to join."""
    levels: Levels
    """What the head's logits mean."""
    joined: str | None = None
    """`name@fingerprint` of a head over sequences, whose joined embeddings are stored; None: the head joins vectors."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of `scores`' second axis."""
        names = tuple(part.name for part in self.encoders)
        return names if self.head is None else (*names, HEAD_MODEL)

    @property
    def joined_width(self) -> int:
        """Numbers in a joined embedding of the head."""
        return self.head.classifier.in_features if self.head else 0

    def scores(self, features: Features) -> np.ndarray:
        """Probabilities of the category paths by every model, float32 `[N, M, C]`; NaN where one has nothing to score.

        The head scores every product that has at least one vector; one over sequences, that has a joined embedding.
        """
        columns = [self._encoder_scores(part.name, *features[part.name]) for part in self.encoders]
        if self.head is not None:
            columns.append(self._head_scores(self.head, features))
        return np.stack(columns, axis=1)

    def _encoder_scores(self, name: str, vectors: np.ndarray, present: np.ndarray) -> np.ndarray:
        weight, bias = self.classifiers[name]
        probabilities = _softmax(unit(vectors) @ weight.T + bias)
        probabilities[~present] = np.nan
        return probabilities

    def _head_scores(self, head: FusionHead, features: Features) -> np.ndarray:
        names = [HEAD_MODEL] if self.joined else [part.name for part in self.encoders]
        vectors = {name: torch.from_numpy(features[name][0].astype(np.float32)) for name in names}
        with torch.inference_mode():
            if self.joined:
                logits = head.classifier(vectors[HEAD_MODEL])
            else:
                logits = head(vectors, {name: torch.from_numpy(features[name][1]) for name in names})
        probabilities = np.exp(self.levels.path_log_probs(logits))
        probabilities[~np.any([features[name][1] for name in names], axis=0)] = np.nan
        return probabilities


class Scored(NamedTuple):
    """Uncalibrated probabilities of the P category paths that a predictor was trained on."""

    by_model: np.ndarray
    """Float32 `[N, M, P]`; NaN where a model has nothing to score."""
    joined: np.ndarray
    """Float32 `[N, P]`."""

    def of(self, rows: np.ndarray) -> "Scored":
        """Of some products, bool `[N]`."""
        return Scored(self.by_model[rows], self.joined[rows])


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Scorer, late fusion, calibration, thresholds and labels: all that a prediction was trained with."""

    scorer: Scorer
    late_fusion: LateFusion
    calibration: Calibration
    """Temperatures of the late fusion's probabilities, and of those of each model that are published."""
    abstaining: Abstaining
    """Which categories are sure enough to be accepted."""
    version: TaxonomyVersion | None = None
    """Of the taxonomy that the predictor was trained on; None: it decides for the categories that it was trained on."""

    @property
    def categories(self) -> tuple[LabelPath, ...]:
        """What can be decided for: paths, root first, sorted; a class code is an index into it.

        Category paths, where they are edited also inner nodes and `REVIEW` (`TaxonomyVersion.decisions`).
        """
        return self.version.decisions if self.version else self.scorer.levels.taxonomy.paths

    def save(self, folder: Path) -> None:
        """Write the predictor's files."""
        classifiers = {
            f"{name}.{part}": array
            for name, pair in self.scorer.classifiers.items()
            for part, array in zip(("weight", "bias"), pair, strict=True)
        }
        save_file(classifiers, folder / "classifiers.safetensors")
        if self.scorer.head is not None:
            self.scorer.head.save(folder)
        self.late_fusion.save(folder)
        (folder / _CALIBRATION).write_text(self.calibration.to_json())
        (folder / _ABSTAINING).write_text(self.abstaining.to_json())
        content = {
            "encoders": [asdict(part) for part in self.scorer.encoders],
            "joined": self.scorer.joined,
            "categories": self.categories,
        }
        (folder / _CONTENT).write_text(json.dumps(content, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a predictor that `save` wrote; its head is in `eval()` mode.

        Raises:
            InputError: a file is missing or cannot be read, or the late fusion joins other models than there are.
        """
        try:
            return cls._load(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"no predictor in {folder}: {error}") from error

    @classmethod
    def _load(cls, folder: Path) -> Self:
        content = json.loads((folder / _CONTENT).read_text())
        encoders = tuple(EncoderPart(**part) for part in content["encoders"])
        arrays = load_file(folder / "classifiers.safetensors")
        classifiers = {part.name: (arrays[f"{part.name}.weight"], arrays[f"{part.name}.bias"]) for part in encoders}
        head = load_head(folder) if (folder / "head.json").exists() else None
        taxonomy = Taxonomy(tuple(tuple(path) for path in content["categories"]))
        late, levels, joined = load_late_fusion(folder), _levels(head, taxonomy), content.get("joined")
        scorer = Scorer(encoders=encoders, classifiers=classifiers, head=head, levels=levels, joined=joined)
        if scorer.models != late.models:
            raise InputError(f"{folder}: found models {list(scorer.models)}, the late fusion joins {list(late.models)}")
        return cls(
            scorer=scorer,
            late_fusion=late,
            calibration=Calibration.from_json((folder / _CALIBRATION).read_text()),
            abstaining=Abstaining.from_json((folder / _ABSTAINING).read_text(), taxonomy),
        )

    def edited(self, history: TaxonomyHistory) -> Self:
        """This predictor, deciding in the newest version of its taxonomy; itself where no edit touches its categories.

        `InputError` where none of its categories is left.
        """
        taxonomy = self.scorer.levels.taxonomy
        version = history.version_of(taxonomy)
        if version == TaxonomyVersion.of(taxonomy):
            return self
        decided = Taxonomy(tuple(path for path in version.decisions if path != REVIEW))
        return replace(self, version=version, abstaining=self.abstaining.over(decided))

    def score(self, features: Features) -> Scored:
        """What the models and the late fusion say of the category paths that they were trained on.

        Every product must have at least one vector.
        """
        by_model = self.scorer.scores(features)
        return Scored(by_model, self.late_fusion.predict(by_model))

    def predict(self, features: Features) -> tuple[np.ndarray, np.ndarray]:
        """`calibrated` of `score`."""
        return self.calibrated(self.score(features))

    def calibrated(self, scored: Scored) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of `categories` by every model, float32 `[N, M, C]`, and joined, float32 `[N, C]`.

        The late fusion has joined the scores as they are; temperatures and then edits come after it.
        """
        joined = scaled(_log(scored.joined), self.calibration.joined)
        scores = np.stack(
            [
                scaled(_log(scored.by_model[:, model]), self.calibration.temperatures[name])
                for model, name in enumerate(self.scorer.models)
            ],
            axis=1,
        )
        if self.version is None:
            return scores, joined
        by_model = [_decided(self.version, scores[:, model]) for model in range(scores.shape[1])]
        return np.stack(by_model, axis=1), _decided(self.version, joined)

    def decide(self, joined: np.ndarray) -> Decided:
        """What may be used without a person, of joined probabilities float32 `[N, C]`; `abstaining.nodes` names it.

        A product whose best decision is `REVIEW` is for review, however sure that is.
        """
        if self.version is None or REVIEW not in self.version.decisions:
            return self.abstaining.decide(joined)
        place = self.version.decisions.index(REVIEW)
        decided = np.delete(joined, place, axis=1)
        decided[joined.argmax(axis=1) == place] = np.nan
        return self.abstaining.decide(decided)

    def explain(self, scored: Scored) -> np.ndarray:
        """What each model contributes to the score of the best category path, float32 `[N, M]`, in nats.

        Of the paths that the predictor was trained on, as edits of the taxonomy come after the models.
        """
        return contributions(self.late_fusion, scored.by_model, scored.joined.argmax(axis=1))


def load_predictor(model: Model, history: TaxonomyHistory) -> Predictor:
    """A stored predictor, deciding in the workspace's newest taxonomy."""
    return Predictor.load(fetch_model(model)).edited(history)


def stored_categories(model: Model) -> tuple[LabelPath, ...]:
    """The category paths that a stored predictor was trained on, without loading it."""
    filesystem, root = filesystem_of(model.uri)
    content = json.loads(filesystem.cat_file(f"{root}/{_CONTENT}"))
    return tuple(map(tuple, content["categories"]))


def _decided(version: TaxonomyVersion, probabilities_NP: np.ndarray) -> np.ndarray:
    """Probabilities of the decisions, float32 `[N, D]`; NaN where a product has no score."""
    scored = ~np.isnan(probabilities_NP[:, 0])
    found = np.full((len(probabilities_NP), len(version.decisions)), np.nan, np.float32)
    found[scored] = np.exp(version.log_probs(_log(probabilities_NP[scored])))
    return found


def _levels(head: FusionHead | None, taxonomy: Taxonomy) -> Levels:
    """One classifier is for whole paths, several are for a level each: weights matter in training only."""
    return Levels(taxonomy, (1.0,) * len(head.classes) if head is not None and len(head.classes) > 1 else ())


def _log(probabilities: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # of a probability of 0
        return np.asarray(np.log(probabilities))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)
