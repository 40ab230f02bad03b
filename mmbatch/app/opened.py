"""What all visits share: the workspace, its tables in their present state, the predictor; each is opened once."""

import json
import os
import sys
import threading
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from mmbatch.browse import Browser, State
from mmbatch.models import Model, newest_predictor, open_model, published_predictor
from mmbatch.schema import Split
from mmbatch.workspace import Workspace


def told() -> dict[str, Any]:
    """What the command line says: `workspace` and `images_from`."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def workspace() -> Workspace:
    """The workspace; `InputError` where it is gone."""
    return Workspace.open(told()["workspace"])


def browser() -> Browser:
    """Its products as they are now."""
    return _browser(told()["workspace"], State.of(workspace()))


def overview() -> pd.DataFrame:
    """`Browser.overview` as it is now."""
    return _overview(told()["workspace"], State.of(workspace()))


def confusion(split: Split | None) -> pd.DataFrame:
    """`Browser.confusion` as it is now."""
    return _confusion(told()["workspace"], State.of(workspace()), split)


def predictor() -> Model:
    """The published predictor, and before anything is published the newest; `InputError` where there is none."""
    return published_predictor(workspace()) or newest_predictor(workspace())


class Loaded(NamedTuple):
    """A predictor that answers, and whose turn it is to ask it."""

    online: Any
    """`OnlinePredictor`."""
    turn: threading.Lock
    encoders: dict[str, Model]
    """By name."""


def loaded(model: Model) -> Loaded:
    """The predictor with its encoders, in the newest taxonomy: loaded once, and again when either is another one."""
    from mmbatch.taxonomy_history import TaxonomyHistory

    return _loaded(told()["workspace"], TaxonomyHistory.read(workspace()).identity(model.id), model)


@st.cache_resource(max_entries=1, show_spinner=False)
def _browser(uri: str, state: State) -> Browser:  # noqa: ARG001
    return Browser.open(Workspace.open(uri))


@st.cache_data(max_entries=2, show_spinner="Counting products")
def _overview(uri: str, state: State) -> pd.DataFrame:
    found: pd.DataFrame = _browser(uri, state).overview().to_pandas()
    return found


@st.cache_data(max_entries=4, show_spinner="Comparing labels and predictions")
def _confusion(uri: str, state: State, split: Split | None) -> pd.DataFrame:
    found: pd.DataFrame = _browser(uri, state).confusion(split).to_pandas()
    return found


@st.cache_resource(max_entries=1, show_spinner="Loading the predictor and its encoders")
def _loaded(uri: str, identity: str, _model: Model) -> Loaded:  # noqa: ARG001
    from mmbatch.image_access import ImageAccess
    from mmbatch.online import OnlinePredictor
    from mmbatch.taxonomy_history import TaxonomyHistory

    opened = Workspace.open(uri)
    online = OnlinePredictor.load(
        opened,
        _model,
        history=TaxonomyHistory.read(opened),
        threads=len(os.sched_getaffinity(0)),
        access=ImageAccess.of(told()["images_from"]),
    )
    encoders = [open_model(opened, kind="encoder", model_id=model_id) for model_id in _model.card["encoders"]]
    return Loaded(online, threading.Lock(), {model.name: model for model in encoders})
