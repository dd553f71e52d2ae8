"""Methods of conditioning T5 on tasks: each makes a `Conditioning`."""

from hyperprompt_jax.nn.conditioning.base import Conditioning, Method
from hyperprompt_jax.nn.conditioning.hyperprompt import HyperPromptGlobal
from hyperprompt_jax.nn.conditioning.mtl import MultiTaskLearning

__all__ = ['Conditioning', 'HyperPromptGlobal', 'Method', 'MultiTaskLearning']
