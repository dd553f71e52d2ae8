"""Parity of the T5 family with Transformers, and the page that reports it."""
