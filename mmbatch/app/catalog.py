"""Catalog: predictions with pictures, counts by category, the confusion matrix, and what a night changed."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from mmbatch.app.opened import browser, confusion, overview, workspace
from mmbatch.app.parts import DECISIONS, bars, cards
from mmbatch.browse import Labels, Place, Wanted
from mmbatch.errors import InputError
from mmbatch.reports.figures import most_confused
from mmbatch.runs import publications
from mmbatch.schema import SPLITS

LABELS: dict[Labels, str] = {
    "any": "All",
    "labelled": "With a label",
    "unlabelled": "Without a label",
    "wrong": "Predicted otherwise",
}
VIEWS = ("Products", "Categories", "Confusion", "Changes")


def show() -> None:
    """The page."""
    if not browser().published.entries:
        raise InputError(f"nothing is published in {workspace().uri}: run python -m jobs.predict, or jobs.pipeline")
    counts = overview()
    st.caption(f"{counts['products'].sum():,} products in {counts['category'].nunique():,} categories")
    view = st.segmented_control(
        "View", VIEWS, default=VIEWS[0], required=True, label_visibility="collapsed", key="view"
    )
    {"Products": _products, "Categories": _categories, "Confusion": _confusion, "Changes": _changes}[str(view)]()


def _products() -> None:
    _screenful(_asked())


def _asked() -> Wanted:
    """What the filters say."""
    names = sorted(overview()["category"].dropna().unique())
    words = st.text_input("Search", placeholder="Product id or words of the title", icon=":material/search:")
    with st.expander("Filters", icon=":material/filter_list:"):
        first, second = st.columns(2), st.columns(3)
        category = first[0].selectbox("Predicted category", names, index=None, placeholder="Any")
        least, most = first[1].slider("Confidence, %", 0, 100, (0, 100))
        decision = second[0].selectbox(
            "Decision", DECISIONS, index=None, placeholder="Any", format_func=lambda name: DECISIONS[name][0]
        )
        labels = second[1].selectbox("Label", LABELS, format_func=lambda name: LABELS[name])
        split = second[2].selectbox("Split", SPLITS, index=None, placeholder="Any")
    return Wanted(
        words=words.strip(),
        decision=decision,
        category=category,
        labels=labels,
        split=split,
        least=least / 100,
        most=most / 100,
    )


def _screenful(wanted: Wanted) -> None:
    """Products that are wanted, a screenful at a time."""
    turned = st.session_state.setdefault("places", {})
    if turned.get("wanted") != wanted:
        turned.update(wanted=wanted, places=[Place()])
    with st.spinner("Searching", show_time=True):
        found = browser().find(wanted, start=turned["places"][-1])
    if not found.rows.num_rows:
        st.info("No product matches.", icon=":material/search_off:")
    cards(browser(), found.rows)
    with st.container(horizontal=True):
        if len(turned["places"]) > 1 and st.button("Back", icon=":material/arrow_back:"):
            turned["places"].pop()
            st.rerun()
        if found.next and st.button("More", icon=":material/arrow_forward:", type="primary"):
            turned["places"].append(found.next)
            st.rerun()


def _categories() -> None:
    counts = overview().dropna(subset=["category"])
    table = counts.pivot_table(index="category", columns="decision", values="products", aggfunc="sum", fill_value=0)
    table = table.reindex(columns=list(DECISIONS), fill_value=0).rename(columns={n: d[0] for n, d in DECISIONS.items()})
    weighted = (counts["confidence"] * counts["products"]).groupby(counts["category"]).sum()
    products = counts.groupby("category")["products"].sum()
    table.insert(0, "Products", products)
    table["Mean confidence, %"] = (100 * weighted / products).round(1)
    table = table.sort_values("Products", ascending=False).rename_axis("Category").reset_index()
    st.caption("Choose a row to see its products.")
    chosen = st.dataframe(
        table, hide_index=True, on_select="rerun", selection_mode="single-row", key="category rows",
        alt="Products of each category by decision",
    )  # fmt: skip
    for row in chosen["selection"]["rows"]:
        st.subheader("Products of the category")
        st.text(table["Category"][row])
        _screenful(Wanted(category=table["Category"][row]))


def _confusion() -> None:
    split = st.selectbox("Labelled products", [*reversed(SPLITS), None], format_func=lambda name: name or "all splits")
    cells = confusion(split)
    if cells.empty:
        st.info("No labelled product here has a prediction.")
        return
    right = int(cells.loc[cells["label"] == cells["category"], "products"].sum())
    st.caption(
        f"{right:,} of {cells['products'].sum():,} products right. Choose a cell, or a row below, for its products."
    )
    marked = st.altair_chart(
        _heatmap(_most_confused(cells)), on_select="rerun", key="cells", alt="Confusion matrix: labels by predictions"
    )
    wrong = cells[cells["label"] != cells["category"]].reset_index(drop=True).head(100)
    chosen = st.dataframe(
        wrong.rename(columns={"label": "Label", "category": "Predicted", "products": "Products"}),
        hide_index=True, on_select="rerun", selection_mode="single-row", key="confused rows",
        alt="Most frequent confusions",
    )  # fmt: skip
    rows = [wrong.iloc[row] for row in chosen["selection"]["rows"]]
    for cell in [*rows, *marked["selection"].get("cell", [])][:1]:
        st.subheader("Products of the cell")
        st.text(f"labelled {cell['label']}, predicted {cell['category']}")
        _screenful(Wanted(label=str(cell["label"]), category=str(cell["category"]), split=split))


def _most_confused(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of the categories that a screen can show."""
    names = sorted({*cells["label"], *cells["category"].dropna()})
    place = {name: number for number, name in enumerate(names)}
    known = cells[cells["category"].notna()]
    matrix = np.zeros((len(names), len(names)), np.int64)
    matrix[known["label"].map(place), known["category"].map(place)] = known["products"]
    shown = {names[number] for number in most_confused(matrix)}
    return known[known["label"].isin(shown) & known["category"].isin(shown)]


def _heatmap(cells: pd.DataFrame) -> alt.Chart:
    names = sorted({*cells["label"], *cells["category"]})
    chosen = alt.selection_point(name="cell", fields=["label", "category"])
    cells = cells.assign(right=cells["label"] == cells["category"])
    cells["share"] = cells["products"] / cells.groupby("label")["products"].transform("sum")
    every, labels = alt.Scale(domain=names), dict[str, Any](labelLimit=160, labelOverlap=False)
    colours = alt.Scale(domain=[True, False], range=["#2f6fd0", "#d9730d"])
    side = 24 * len(names) + 200  # the labels below it
    chart: alt.Chart = (
        alt.Chart(cells)
        .mark_rect()
        .encode(
            x=alt.X("category:N", title="Predicted", scale=every, axis=alt.Axis(labelAngle=-60, **labels)),
            y=alt.Y("label:N", title="Label", scale=every, axis=alt.Axis(**labels)),
            color=alt.Color("right:N", scale=colours, legend=None),
            opacity=alt.Opacity("share:Q", scale=alt.Scale(type="sqrt", domain=[0, 1], range=[0.2, 1]), legend=None),
            tooltip=[alt.Tooltip("label:N", title="Label"), alt.Tooltip("category:N", title="Predicted"), "products:Q"],
        )
        .properties(height=side)
        .add_params(chosen)
    )
    return chart


def _changes() -> None:
    nights = {entry["run_id"]: entry for entry in publications(workspace())}
    if not nights:
        st.info("Nothing has been published yet.")
        return
    run_id = st.selectbox("Publication", nights, format_func=lambda run: f"{run} · {nights[run]['job']}")
    reasons = {name: count for name, count in nights[run_id]["counts"].get("reasons", {}).items() if count}
    reason = st.selectbox(
        "Reason", reasons, index=None, placeholder="Any", format_func=lambda name: f"{name} · {reasons[name]:,}"
    )
    table = pd.DataFrame({"reason": list(reasons), "products": list(reasons.values())})
    bars(table.sort_values("products", ascending=False), "reason", "products", alternative="Changes by reason")
    rows = browser().changes(run_id, reason).to_pandas()
    names = {
        "product_id": "Product",
        "category_before": "Before",
        "category_after": "After",
        "confidence_before": "Confidence before",
        "confidence_after": "Confidence after",
        "reason": "Reason",
    }
    st.caption(f"The first {len(rows):,} of them" if len(rows) == 100 else f"{len(rows):,} products")
    st.dataframe(
        rows[list(names)].rename(columns=names), placeholder="", hide_index=True, alt="Changes of this publication"
    )
