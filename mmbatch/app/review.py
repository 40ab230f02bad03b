"""Review: one product of the queue at a time, and one key for what a person says of it."""

import getpass
from collections.abc import Mapping
from typing import Any

import streamlit as st

from mmbatch.app.opened import browser, predictor, workspace
from mmbatch.app.parts import decision_badge, percent, picture, plain
from mmbatch.corrections import Corrections
from mmbatch.reports.review import NAMES, pictures_of
from mmbatch.review_desk import Queue, choices, correction, question


def show() -> None:
    """The page."""
    queue = Queue.read(workspace())
    left = queue.left(browser())
    skipped = st.session_state.setdefault("skipped", set())
    rows = [row for row in left.slice(0, len(skipped) + 1).to_pylist() if row["product_id"] not in skipped]
    author = st.text_input("Your name", value=getpass.getuser(), max_chars=80, key="author").strip()
    st.caption(f"{left.num_rows:,} products left of {queue.rows.num_rows:,}; found by {plain(queue.run_id)}")
    _undo(author)
    if not author:
        st.warning("Say who you are: it stands beside what you decide.")
    elif not rows:
        st.success("Nothing is left to be looked at.", icon=":material/done_all:")
    else:
        _product(rows[0], author)


def _product(row: Mapping[str, Any], author: str) -> None:
    rows = browser().product(row["product_id"])
    if rows is None:
        _skip(row["product_id"])
        st.rerun()
    product = rows.to_pylist()[0]
    asked = question(product, row["suggested_category"])
    known = choices(workspace(), predictor())
    left, right = st.columns([1, 2])
    with left:
        picture(pictures_of(browser().catalog, rows)[row["product_id"]], product["title"] or "product", width=240)
    with right:
        _described(product, row)
        st.subheader(f"Is it {plain(asked)}?" if asked else "What is it?")
        with st.container(horizontal=True):
            if asked:
                _button("Right", "y", ":material/check:", lambda: _say(product, asked, author), type="primary")
            _button("Wrong", "n", ":material/close:", lambda: _ask(row["product_id"]))
            _button("Skip", "s", ":material/skip_next:", lambda: _skip(row["product_id"]))
        if st.session_state.get("asked") == row["product_id"] or not asked:
            _choose(product, asked, list(known), author)


def _described(product: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """All that a person needs to decide."""
    with st.container(horizontal=True):
        decision_badge(product["decision"])
        for reason in row["reasons"]:
            st.badge(NAMES[reason][0], color="gray", help=NAMES[reason][1])
    st.text(product["title"] or "without a title")
    if product["description"]:
        st.text(product["description"][:600])
    label = plain(product["label"]) or "none"
    st.markdown(
        f"Label: **{label}**  \nPredicted: **{plain(product['category'])}**, {percent(product['confidence'])} sure"
    )
    sure = dict(product["model_probabilities"])
    st.caption(f"Product {plain(product['product_id'])}")
    said = [f"{plain(name)}: {plain(what)}, {percent(sure[name])}" for name, what in product["model_categories"]]
    st.caption("  \n".join(said))


def _choose(product: Mapping[str, Any], asked: str | None, known: list[str], author: str) -> None:
    """The categories that the models thought of, each by a key, and all others by name."""
    likely = [name for name in dict.fromkeys([product["label"], *product["top_categories"]]) if name and name != asked]
    with st.container(horizontal=True):
        for key, name in enumerate(likely[:9], 1):
            _button(plain(name), str(key), None, lambda name=name: _say(product, name, author))
    other = st.selectbox("Another category", known, index=None, placeholder="Type to search")
    if other is not None:
        st.button("Save", type="primary", on_click=_say, args=(product, other, author))


def _button(label: str, key: str, icon: str | None, action: Any, **more: Any) -> None:
    st.button(label, icon=icon, shortcut=key, on_click=action, **more)


def _say(product: Mapping[str, Any], category: str | None, author: str) -> None:
    """Commit what the person says, at once."""
    said = correction(product, category, known=choices(workspace(), predictor()), author=author)
    Corrections(workspace=workspace()).add(said)
    st.session_state["last"] = product if category is not None else None
    st.session_state["said"] = category


def _ask(product_id: str) -> None:
    st.session_state["asked"] = product_id


def _skip(product_id: str) -> None:
    st.session_state["skipped"].add(product_id)


def _undo(author: str) -> None:
    last = st.session_state.get("last")
    if last and author:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"Saved: {plain(last['title'])} is **{plain(st.session_state['said'])}**")
            _button("Undo", "u", ":material/undo:", lambda: _say(last, None, author), type="tertiary")
