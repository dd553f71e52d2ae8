"""Serving a loaded model: batches of many requests, HTTP, and a page to try it."""
