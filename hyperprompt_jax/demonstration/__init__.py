"""Small networks on tasks in conflict: what `hyperprompt demo` trains, and study A."""
