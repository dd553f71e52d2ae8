"""Evaluation: predictions, scores, their averages, and comparisons of runs."""
