"""Runs: the ledger, how long each stage took, what the gate and drift said, and the reports."""

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st
import streamlit.components.v1 as components

from mmbatch.app.opened import workspace
from mmbatch.app.parts import bars, plain
from mmbatch.browse_runs import ledger, outcomes, page, pages
from mmbatch.errors import InputError
from mmbatch.reports.page import duration


def show() -> None:
    """The page."""
    runs = ledger(workspace())
    if not runs:
        raise InputError(f"no run has finished in {workspace().uri}: run python -m jobs.pipeline, or jobs.ingest")
    table = pd.DataFrame(
        {
            "Run": [run["run_id"] for run in runs],
            "Job": [run["job"] for run in runs],
            "Started": [run["started"] for run in runs],
            "Took": [duration(run["seconds"]) for run in runs],
            "State": [run["counts"].get("state", "") for run in runs],
        }
    )
    st.caption(f"{len(runs):,} runs, the newest first. Choose a row for its details.")
    chosen = st.dataframe(
        table,
        hide_index=True,
        height=280,
        on_select="rerun",
        selection_mode="single-row",
        alt="Ledger of runs",
        column_config={"Started": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss")},
    )
    _run(runs[next(iter(chosen["selection"]["rows"]), 0)])


def _run(run: Mapping[str, Any]) -> None:
    counts = run["counts"]
    st.subheader(plain(f"{run['job']} {run['run_id']}"))
    left, right = st.columns(2)
    with right:
        _bars("Seconds of each stage", counts.get("timings") or {})
        _gate(counts.get("gate") or [])
        _bars("Drift from the training products, population stability index", counts.get("drift") or {})
    with left:
        numbers = outcomes({name: value for name, value in counts.items() if name not in ("timings", "drift")})
        rows = pd.DataFrame({"Count": list(numbers), "Value": [f"{value:,.6g}" for value in numbers.values()]})
        st.dataframe(rows, hide_index=True, alt="Counts of the run")
    _reports(run["run_id"])
    with st.expander("Settings, versions and all counts"):
        st.json({name: run[name] for name in ("settings", "versions", "counts")}, expanded=1)


def _bars(title: str, values: Mapping[str, float]) -> None:
    if values:
        st.markdown(f"**{title}**")
        bars(pd.DataFrame({"name": list(values), "value": list(values.values())}), "name", "value", alternative=title)


def _gate(rules: list[Mapping[str, Any]]) -> None:
    if rules:
        verdict = {True: "passed", False: "breached", None: "not judged"}
        st.markdown("**Gate**")
        columns = {name: [rule[name] for rule in rules] for name in ("name", "measured", "limit")}
        rows = pd.DataFrame(columns | {"verdict": [verdict[rule["passed"]] for rule in rules]})
        st.dataframe(rows, hide_index=True, alt="Rules of the gate")


def _reports(run_id: str) -> None:
    """A report in a frame that may run no script and knows nothing of this page, and as a file."""
    names = pages(workspace(), run_id)
    name = st.selectbox("Report", names, index=None, placeholder="Choose a page") if names else None
    if name is None:
        return
    text = page(workspace(), run_id, name)
    st.download_button("Download", text, file_name=f"{run_id}-{name}", mime="application/octet-stream")
    frame = f'<iframe title="{html.escape(name)}" sandbox="" srcdoc="{html.escape(text)}" style="{_FRAME}"></iframe>'
    components.html(frame, height=820)


_FRAME = "width: 100%; height: 800px; border: 0; background: white"
