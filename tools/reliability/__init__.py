"""Measures whether runs survive kills, broken storage, long life and other versions."""
