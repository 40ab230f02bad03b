"""Reports of a run for people: terminal tables, PNG figures and one self-contained HTML page."""
