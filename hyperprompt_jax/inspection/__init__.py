"""A look inside: attention on prompts, entropy, similarity of tasks, parameters."""
