"""Models at rest: `models/<kind>/<name>@<fingerprint>/` with safetensors, JSON and a card; no pickle anywhere."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import fsspec
import pyarrow.compute as pc

from mmbatch.errors import InputError
from mmbatch.schema import PREDICTIONS, Modality
from mmbatch.storage import filesystem_of, is_local, make_folder, replace_file
from mmbatch.workspace import Workspace

Kind = Literal["encoder", "head", "predictor"]

CARD = "model.json"
"""Written last: a folder without it is no model."""

CHALLENGER = "challenger"
"""Set in the cards of models that were stored through a workspace that is `challenging`; no part of their identity."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A stored model: its identity, where it lies, and its card."""

    kind: Kind
    id: str
    """`name@fingerprint`."""
    uri: str
    card: dict[str, Any]

    @property
    def name(self) -> str:
        """The part before the `@`."""
        return self.id.split("@")[0]


def publish_model(
    workspace: Workspace,
    *,
    kind: Kind,
    name: str,
    folder: Path,
    identity: Sequence[str],
    recipe: str,
    card: Mapping[str, Any],
) -> Model:
    """Store the files of `folder` as a model; the card comes last, so that a torn upload does not exist.

    Args:
        workspace: where to.
        kind: what it is.
        name: its name; the fingerprint is added.
        folder: local folder with the model's files.
        identity: the files that decide the model's output; their digest is the fingerprint.
        recipe: digest of everything the model was made from; `find_model` looks for it.
        card: what else a reader of `model.json` wants to know: labels, metrics with their split, parents.
    """
    digests = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    fingerprint = hashlib.sha256(json.dumps([(file, digests[file]) for file in sorted(identity)]).encode()).hexdigest()
    model_id = f"{name}@{fingerprint[:12]}"
    uri = workspace.path("models", kind, model_id)
    filesystem, root = filesystem_of(uri)
    make_folder(uri)
    for file in digests:
        filesystem.put_file(str(folder / file), f"{root}/{file}")
    if workspace.epoch:
        workspace.epoch.check()
    content = {"kind": kind, "id": model_id, "recipe": recipe, "sha256": digests, **card}
    if workspace.challenging and not _stands(uri):
        content[CHALLENGER] = True
    filesystem.pipe_file(f"{root}/{CARD}", _card_file(content))
    return Model(kind=kind, id=model_id, uri=uri, card=content)


def _stands(uri: str) -> bool:
    """Whether this very model is stored already, and not as a challenger."""
    filesystem, root = filesystem_of(uri)
    return filesystem.exists(f"{root}/{CARD}") and CHALLENGER not in json.loads(filesystem.cat_file(f"{root}/{CARD}"))


def _card_file(card: Mapping[str, Any]) -> bytes:
    return json.dumps(card, indent=1, ensure_ascii=False).encode()


def find_model(workspace: Workspace, *, kind: Kind, name: str, recipe: str) -> Model | None:
    """The model made by this recipe, None when it has not been made yet.

    A challenger that is found through a workspace that is not `challenging` is one no longer: whoever trains by hand
    what a challenger was trained as has the newest model, as if it had been trained now.
    """
    matches = [model for model in list_models(workspace, kind) if model.name == name and model.card["recipe"] == recipe]
    if not matches or workspace.challenging or CHALLENGER not in matches[0].card:
        return matches[0] if matches else None
    if workspace.epoch:
        workspace.epoch.check()
    card = {name: value for name, value in matches[0].card.items() if name != CHALLENGER}
    replace_file(f"{matches[0].uri}/{CARD}", _card_file(card))
    return replace(matches[0], card=card)


def list_models(workspace: Workspace, kind: Kind) -> list[Model]:
    """All models of a kind, the newest last."""
    filesystem, root = filesystem_of(workspace.path("models", kind))
    cards = sorted((filesystem.modified(path), path) for path in filesystem.glob(f"{root}/*/{CARD}"))
    models = [json.loads(filesystem.cat_file(path)) for _, path in cards]
    return [
        Model(kind=kind, id=card["id"], uri=workspace.path("models", kind, card["id"]), card=card) for card in models
    ]


def open_model(workspace: Workspace, *, kind: Kind, model_id: str) -> Model:
    """A model by its identity; `InputError` when it is not there."""
    uri = workspace.path("models", kind, model_id)
    filesystem, root = filesystem_of(uri)
    try:
        card = json.loads(filesystem.cat_file(f"{root}/{CARD}"))
    except FileNotFoundError:
        there = [model.id for model in list_models(workspace, kind)]
        raise InputError(f"{uri}: no {kind} {model_id} in this workspace, only {there}") from None
    return Model(kind=kind, id=model_id, uri=uri, card=card)


def published_predictor(workspace: Workspace) -> Model | None:
    """The champion: the stored predictor that the published predictions were made by; None when nothing is published.

    `InputError` when it is not stored any more.
    """
    model_id = _published_id(workspace)
    return open_model(workspace, kind="predictor", model_id=model_id) if model_id else None


def _published_id(workspace: Workspace) -> str | None:
    """Identity of the predictor of most predictions in the first bucket that has any.

    Not of all: a product of which nothing can be used any more keeps the prediction that it has.
    """
    predictions = workspace.table("predictions", schema=PREDICTIONS).snapshot()
    for bucket in range(workspace.settings.buckets):
        names = predictions.read(["predictor"], buckets=[bucket])["predictor"]
        if len(names):
            most = max(pc.value_counts(names).to_pylist(), key=lambda found: found["counts"])
            return str(most["values"]).partition("+")[0]
    return None


def standing_models(workspace: Workspace, kind: Kind) -> list[Model]:
    """All models of a kind, the newest last, but for challengers that nothing published is made by."""
    models = list_models(workspace, kind)
    left_out = {model.id for model in models if CHALLENGER in model.card}
    if left_out:
        left_out -= _published_parts(workspace)
    return [model for model in models if model.id not in left_out]


def _published_parts(workspace: Workspace) -> set[str]:
    """Identities of the published predictor, its head and its encoders; none where nothing is published."""
    published = _published_id(workspace)
    cards = [model.card for model in list_models(workspace, "predictor") if model.id == published]
    return {name for card in cards for name in (card["id"], card["head"], *card["encoders"]) if name}


def newest_encoders(workspace: Workspace) -> list[Model]:
    """The encoder stored last under each name (`standing_models`), by name; `InputError` when there is none."""
    newest = {model.name: model for model in standing_models(workspace, "encoder")}
    if not newest:
        raise InputError(f"--workspace {workspace.uri}: no encoder there; `jobs.finetune_encoder` makes one")
    return [newest[name] for name in sorted(newest)]


def modalities_of(encoders: Sequence[Model]) -> dict[str, Modality]:
    """Name of each encoder -> what it reads."""
    return {model.name: model.card["modality"] for model in encoders}


def newest_head(workspace: Workspace, encoders: Sequence[Model]) -> Model | None:
    """The head stored last (`standing_models`) over exactly these encoders; None when there is none."""
    ids = sorted(model.id for model in encoders)
    heads = [head for head in standing_models(workspace, "head") if sorted(head.card["encoders"]) == ids]
    return heads[-1] if heads else None


def reads_sequences(head: Model) -> bool:
    """Whether a head reads sequences: its joined embeddings are then computed with the encoders, and stored."""
    return bool(head.card.get("sequences"))


def sequence_heads(workspace: Workspace, encoders: Sequence[Model]) -> list[Model]:
    """Heads over sequences of these encoders whose joined embeddings are needed: the newest, the newest predictor's."""
    predictors, newest = standing_models(workspace, "predictor"), newest_head(workspace, encoders)
    used = {newest.id: newest} if newest else {}
    if predictors and (used_now := predictors[-1].card.get("head")):
        head = open_model(workspace, kind="head", model_id=used_now)
        if sorted(head.card["encoders"]) == sorted(model.id for model in encoders):
            used[head.id] = head
    return [head for head in used.values() if reads_sequences(head)]


def newest_predictor(workspace: Workspace) -> Model:
    """The predictor stored last (`standing_models`); `InputError` when there is none."""
    models = standing_models(workspace, "predictor")
    if not models:
        raise InputError(f"--workspace {workspace.uri}: no predictor there; `jobs.train_late_fusion` makes one")
    return models[-1]


def fetch_model(model: Model) -> Path:
    """A local folder with the model's files, each checked against its digest; `InputError` names a file that differs.

    A model in a local workspace is used where it lies; one in an object store is downloaded once per machine.
    """
    filesystem, root = filesystem_of(model.uri)
    local = Path(root) if is_local(model.uri) else _download(model, filesystem, root)
    for file, expected in model.card["sha256"].items():
        found = _sha256(local / file) if (local / file).exists() else "missing"
        if found != expected:
            raise InputError(f"{model.uri}/{file}: sha256 is {found[:12]}, {CARD} says {expected[:12]}")
    return local


def _download(model: Model, filesystem: fsspec.AbstractFileSystem, root: str) -> Path:
    key = hashlib.sha256(model.uri.encode()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / "mmbatch-models" / f"{key}-{model.id}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent))
    for file in model.card["sha256"]:
        filesystem.get_file(f"{root}/{file}", str(partial / file))
    try:
        partial.rename(target)
    except OSError:  # another process of this machine was first
        shutil.rmtree(partial)
    return target


def digest_of(value: object) -> str:
    """SHA-256 of a JSON-able value: the identity of a recipe."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(uri: str) -> str:
    """SHA-256 of a file's bytes, local or remote; `InputError` when it cannot be read."""
    filesystem, path = filesystem_of(uri)
    try:
        with filesystem.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {error.strerror or error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
