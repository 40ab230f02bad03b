"""The window on a workspace in a browser: the only folder that imports Streamlit."""
