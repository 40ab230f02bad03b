"""One command each: `python -m jobs.NAME`, also what `ray job submit` runs."""
