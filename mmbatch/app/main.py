"""The script that Streamlit runs: the pages of the app, each imported when it is visited."""

import streamlit as st
from PIL import Image

from mmbatch.app.opened import workspace
from mmbatch.errors import MmbatchError
from mmbatch.storage import storage_errors


def _try() -> None:
    from mmbatch.app.try_out import show

    show()


def _catalog() -> None:
    from mmbatch.app.catalog import show

    show()


def _review() -> None:
    from mmbatch.app.review import show

    show()


def _runs() -> None:
    from mmbatch.app.runs import show

    show()


def main() -> None:
    """Show the page that is asked for; what a person can act on is said in one line."""
    st.set_page_config(page_title="mmbatch", page_icon=Image.new("RGB", (32, 32), "#2f6fd0"), layout="wide")
    pages = [
        st.Page(_catalog, title="Catalog", icon=":material/inventory_2:", default=True),
        st.Page(_try, title="Try", icon=":material/science:", url_path="try"),
        st.Page(_review, title="Review", icon=":material/fact_check:", url_path="review"),
        st.Page(_runs, title="Runs", icon=":material/receipt_long:", url_path="runs"),
    ]
    page = st.navigation(pages, position="top")
    st.title(page.title)
    try:
        with storage_errors():
            workspace()
            page.run()
    except MmbatchError as error:
        st.error("This cannot be shown.", icon=":material/error:")
        st.text(str(error))


main()
