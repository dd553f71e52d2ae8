"""The `hyperprompt` command: one module for each verb, which parses, calls and prints."""

from hyperprompt_jax.cli.command import main

__all__ = ['main']
