"""Methods of conditioning T5 on tasks: each makes a `Conditioning`."""

from hyperprompt_jax.methods.adapter import HoulsbyAdapter
from hyperprompt_jax.methods.conditioning import Conditioning, LayerConditioning, Method
from hyperprompt_jax.methods.hyperformer import HyperFormer
from hyperprompt_jax.methods.hyperprompt import (
  HyperPromptGlobal,
  HyperPromptSep,
  HyperPromptShare,
)
from hyperprompt_jax.methods.mtl import MultiTaskLearning, SingleTask
from hyperprompt_jax.methods.prompt_tuning import PromptTuning

__all__ = [
  'Conditioning',
  'HoulsbyAdapter',
  'HyperFormer',
  'HyperPromptGlobal',
  'HyperPromptSep',
  'HyperPromptShare',
  'LayerConditioning',
  'Method',
  'MultiTaskLearning',
  'PromptTuning',
  'SingleTask',
]
