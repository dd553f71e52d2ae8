"""The interference study: tasks, runs, and the report of them."""
