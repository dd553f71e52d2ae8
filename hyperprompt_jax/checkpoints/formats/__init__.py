"""Formats of checkpoints that other libraries write and read."""
