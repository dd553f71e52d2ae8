"""A check of names and docstrings, `python -m tools.prose`."""
