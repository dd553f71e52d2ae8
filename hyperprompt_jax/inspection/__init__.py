"""Inspection of models: attention on prompts, entropy, similarity of tasks, parameters."""
