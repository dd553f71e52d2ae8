"""Studies of the claims of the paper: pre-registered, resumable, reported from results."""
