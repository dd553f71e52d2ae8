"""Methods of conditioning T5 on tasks: each makes a `Conditioning`."""

from hyperprompt_jax.nn.conditioning.adapter import HoulsbyAdapter
from hyperprompt_jax.nn.conditioning.base import Conditioning, LayerConditioning, Method
from hyperprompt_jax.nn.conditioning.hyperformer import HyperFormer
from hyperprompt_jax.nn.conditioning.hyperprompt import (
  HyperPromptGlobal,
  HyperPromptSep,
  HyperPromptShare,
)
from hyperprompt_jax.nn.conditioning.mtl import MultiTaskLearning, SingleTask
from hyperprompt_jax.nn.conditioning.prompt_tuning import PromptTuning

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
