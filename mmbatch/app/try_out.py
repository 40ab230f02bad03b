"""Try: a product that a person makes up, uploads or picks, and what every model says of it, and why."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa
import streamlit as st

from mmbatch.app.opened import Loaded, browser, loaded, predictor
from mmbatch.app.parts import bars, cards, decision_badge, percent, picture, plain
from mmbatch.errors import InputError
from mmbatch.examine import JOINED, Examined, Said, examine, product_of, region_gains, word_gains
from mmbatch.images import open_rgb
from mmbatch.nearest import nearest
from mmbatch.reports.review import picture_of
from mmbatch.schema import MODALITIES

MOST_TEXT = 100_000
"""Characters of a title or a description: a product's have some thousands at most."""

_PHOTO = 448  # pixels of the photo shown


def show() -> None:
    """The page."""
    model = predictor()
    ready = loaded(model)
    _say_if_replaced(ready.online.id)
    asked = _form()
    if asked is not None:
        st.session_state["examined"] = _examined(ready, asked)
    found: tuple[str, Examined] | None = st.session_state.get("examined")
    if found is None:
        return
    if found[0] != ready.online.id:
        found = st.session_state["examined"] = _examined(ready, dict(found[1].product))
    if found is not None:
        _answer(ready, found[1])


def _say_if_replaced(identity: str) -> None:
    st.caption(f"Predictor {plain(identity)}")
    before = st.session_state.setdefault("predictor", identity)
    if before != identity:
        st.info(f"The predictor was replaced: {plain(identity)} answers now, {plain(before)} did before.")
        st.session_state["predictor"] = identity


def _form() -> dict[str, Any] | None:
    """The product as a person gives it; None: nothing was sent, or nothing that can be used."""
    with st.form("product", border=True):
        left, right = st.columns(2)
        title = left.text_input("Title")
        description = left.text_area("Description", height=124)
        upload = right.file_uploader("Image", type=["jpg", "jpeg", "png", "webp", "gif", "bmp"])
        uri = right.text_input("Image address", placeholder="https://…, from the places of --images-from")
        product_id = st.text_input("Or a product of the catalog, by its id")
        if not st.form_submit_button("Predict", type="primary", icon=":material/play_arrow:"):
            return None
    texts = {"title": title.strip() or None, "description": description.strip() or None}
    for name, text in texts.items():
        if text and len(text) > MOST_TEXT:
            st.error(f"The {name} has {len(text):,} characters; at most {MOST_TEXT:,} are taken.")
            return None
    if product_id.strip():
        return _of_catalog(product_id.strip())
    if upload is not None and uri.strip():
        st.error("Give one image: a file or an address.")
        return None
    image = {"image": upload.getvalue()} if upload is not None else {"image_uri": uri.strip() or None}
    if not any([*texts.values(), *image.values()]):
        st.error("There is nothing to predict from: give a title, a description or an image.")
        return None
    return texts | image


def _of_catalog(product_id: str) -> dict[str, Any] | None:
    found = product_of(browser().catalog, product_id)
    if found is None:
        st.error(f"The catalog has no product {plain(product_id)}.")
    return found


def _examined(ready: Loaded, product: dict[str, Any]) -> tuple[str, Examined] | None:
    """The predictor's name and what it finds; None where nothing of the product can be used."""
    with st.spinner("Predicting"), ready.turn:
        try:
            found = examine(ready.online, product)
        except InputError as error:
            st.error(plain(str(error)))
            return None
    return ready.online.id, found


def _answer(ready: Loaded, found: Examined) -> None:
    for reject in found.rejects:
        st.warning(f"The {reject['modality'] or 'product'} is not used, {plain(reject['reason'])}:")
        st.text(reject["message"])
    if found.row is None:
        st.error("Nothing of this product can be used, so nothing is predicted.")
        return
    _decision(found)
    st.subheader("The models, side by side")
    _models(found.said)
    left, right = st.columns(2)
    with left:
        _levels(found)
    with right:
        _contributions(found.said)
    st.subheader("What mattered")
    if st.button("Find the words and image regions that mattered", icon=":material/troubleshoot:"):
        _gains(ready, found)
    st.subheader("Nearest products of the catalog")
    _nearest(ready, found)


def _decision(found: Examined) -> None:
    assert found.row is not None
    decided = found.row["decided_category"]
    with st.container(border=True):
        decision_badge(found.row["decision"])
        st.markdown(f"### {plain(found.row['category']) or 'to be reviewed'}")
        st.markdown(f"{percent(found.row['confidence'])} sure; decided: **{plain(decided) or 'left to a person'}**")
        image = found.product.get("image")
        if image:
            picture(picture_of(image), found.product.get("title") or "product", width=160)
        if found.product.get("title"):
            st.text(found.product["title"][:300])


def _models(said: Sequence[Said]) -> None:
    for start in range(0, len(said), 4):
        for column, of in zip(st.columns(4), said[start : start + 4], strict=False):
            with column, st.container(border=True, height="stretch"):
                st.markdown(f"**{plain(of.model)}**  \n:gray[{_what_it_reads(of)}]")
                if not of.top:
                    st.caption("has nothing to look at")
                for name, probability in of.top:
                    st.progress(min(1.0, probability), text=f"{plain(name)} · {percent(probability)}")


def _what_it_reads(of: Said) -> str:
    if of.model == JOINED:
        return "joins all models"
    return f"{of.reads} only" if of.reads in MODALITIES else of.reads


def _levels(found: Examined) -> None:
    st.subheader("Level by level")
    for name, probability in found.path:
        st.progress(min(1.0, probability), text=f"{plain(name)} · {percent(probability)}")


def _contributions(said: Sequence[Said]) -> None:
    """SHAP values of the models, by what they read."""
    st.subheader("What each model contributed")
    rows = [(of.model, of.contribution, of.reads) for of in said if of.contribution is not None]
    table = pd.DataFrame(rows, columns=["model", "nats", "reads"])
    scale = alt.Scale(domain=["text", "image", "text and image"], range=["#2f6fd0", "#d9730d", "#7d8799"])
    colours = alt.Color("reads:N", scale=scale, title=None, legend=alt.Legend(orient="bottom"))
    bars(table, "model", "nats", colours=colours, alternative="What each model added to the score of the category")


def _gains(ready: Loaded, found: Examined) -> None:
    with st.spinner("Leaving out words and regions one by one", show_time=True), ready.turn:
        words, regions = word_gains(ready.online, found), region_gains(ready.online, found)
    st.caption("How far the log-odds of the predicted category fall when this alone is left out, in nats.")
    left, right = st.columns(2)
    if words:
        ranked = sorted(words, key=lambda word: -abs(word[1]))[:15]
        table = pd.DataFrame(ranked, columns=["word", "nats"])
        table["word"] = [f"{place + 1}. {word[:40]}" for place, word in enumerate(table["word"])]
        with left:
            bars(table, "word", "nats", alternative="What each word adds to the score of the category")
    if regions is not None:
        right.image(_overlay(found.product["image"], regions), alt="Image with the regions that mattered", width=320)
        right.caption("Orange regions speak for the category, blue ones against it.")
    if not words and regions is None:
        st.info("There is neither an image nor a text of two words.")


def _overlay(image: bytes, gains: np.ndarray) -> np.ndarray:
    """The photo under its regions' colours: uint8 `[height, width, 3]`."""
    photo = open_rgb(image, target=_PHOTO)
    photo.thumbnail((_PHOTO, _PHOTO))
    pixels = np.asarray(photo, np.float32)
    rows = np.arange(pixels.shape[0]) * gains.shape[0] // pixels.shape[0]
    columns = np.arange(pixels.shape[1]) * gains.shape[1] // pixels.shape[1]
    share = (gains / max(float(np.abs(gains).max()), 1e-9))[np.ix_(rows, columns)][:, :, None]
    colour = np.where(share > 0, np.array([217, 115, 13]), np.array([47, 111, 208]))
    mixed: np.ndarray = pixels + 0.65 * np.abs(share) * (colour - pixels)
    return mixed.astype(np.uint8)


def _nearest(ready: Loaded, found: Examined) -> None:
    vectors = {name: rows[0] for name, (rows, there) in found.features.items() if there[0] and name in ready.encoders}
    with st.spinner("Comparing stored vectors", show_time=True):
        near = nearest(browser(), ready.encoders, vectors)
    known = [rows for name in near.product_ids if (rows := browser().product(name)) is not None]
    st.caption(f"By the vectors of {len(vectors)} encoders, among {near.compared:,} products of the catalog.")
    if known:
        cards(browser(), pa.concat_tables(known))
