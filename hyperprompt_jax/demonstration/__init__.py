"""Small networks on tasks in conflict, for `hyperprompt demo` and study A."""
