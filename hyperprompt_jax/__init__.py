"""HyperPrompt: prompt-based task-conditioning of T5, in JAX and Flax."""
