"""What pages share: text from outside as text, decisions in words and colours, products as cards."""

import re
from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa
import streamlit as st

from mmbatch.browse import Browser
from mmbatch.reports.review import Picture, pictures_of

DECISIONS = {
    "accepted": ("Accepted", "green", ":material/check_circle:"),
    "backed_off": ("Backed off", "orange", ":material/unfold_less:"),
    "review": ("For review", "violet", ":material/person_search:"),
}
"""`decision` -> what people call it, its colour and sign."""

_SIGNS = re.compile(r"([!-/:-@\[-`{-~])")  # all that Markdown may take for more than itself


def plain(text: str | None) -> str:
    """Text for a place that reads Markdown, which then shows it as it is."""
    return _SIGNS.sub(r"\\\1", (text or "").replace("\n", " "))


def percent(share: float | None) -> str:
    """`97.1 %`."""
    return "–" if share is None else f"{100 * share:.1f} %"


def decision_badge(decision: str) -> None:
    """What was decided, in words and a colour."""
    name, colour, icon = DECISIONS[decision]
    st.badge(name, color=colour, icon=icon)  # type: ignore[arg-type]


def bars(rows: pd.DataFrame, name: str, value: str, *, alternative: str, colours: alt.Color | None = None) -> None:
    """A bar for each row, in their order; `alternative` is what it shows, for whoever cannot see it."""
    labels = alt.Axis(labelLimit=180, labelOverlap=False)
    chart = (
        alt.Chart(rows)
        .mark_bar(color="#2f6fd0", size=16)
        .encode(
            x=alt.X(f"{value}:Q"),
            y=alt.Y(f"{name}:N", title=None, sort=None, axis=labels),
            tooltip=[name, alt.Tooltip(f"{value}:Q", format=",.4~g")],
        )
        .properties(height=28 * len(rows) + (170 if colours else 80))
    )
    st.altair_chart(chart if colours is None else chart.encode(color=colours), alt=alternative)


def cards(browser: Browser, rows: pa.Table, *, columns: int = 4) -> None:
    """Products (`Found.rows`) with their pictures."""
    pictures = pictures_of(browser.catalog, rows) if rows.num_rows else {}
    products = rows.to_pylist()
    for start in range(0, len(products), columns):
        for column, product in zip(st.columns(columns), products[start : start + columns], strict=False):
            with column, st.container(border=True, height="stretch"):
                _card(product, pictures[product["product_id"]])


def picture(found: Picture, title: str, *, width: int | str = "stretch") -> None:
    """A product's picture, or why there is none."""
    if found.thumbnail:
        st.image(found.thumbnail, width=width, alt=title)  # type: ignore[arg-type]
    else:
        st.caption(f":material/hide_image: {found.missing}")


def _card(product: Mapping[str, Any], found: Picture) -> None:
    title = product["title"] or "without a title"
    picture(found, title, width=160)
    st.text(title)
    decision_badge(product["decision"])
    st.markdown(f"**{plain(product['category']) or 'to be reviewed'}**  \n{percent(product['confidence'])} sure")
    if product["label"] is not None and product["label"] != product["category"]:
        st.markdown(f":red[labelled {plain(product['label'])}]")
    st.caption(plain(product["product_id"]))
