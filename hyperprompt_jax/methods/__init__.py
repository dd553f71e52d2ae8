"""Methods of conditioning T5 on tasks: each makes the `Conditioning` that `nn` inserts.

`hyperprompt` is the paper; the other modules are the methods that it is compared with. `nn`
imports nothing of this package.
"""

from hyperprompt_jax.methods.adapter import HoulsbyAdapter
from hyperprompt_jax.methods.budget import added_parameters, within_budget
from hyperprompt_jax.methods.conditioning import Method
from hyperprompt_jax.methods.hyperformer import HyperFormer
from hyperprompt_jax.methods.hyperprompt import (
  HyperPromptGlobal,
  HyperPromptSep,
  HyperPromptShare,
)
from hyperprompt_jax.methods.mtl import MultiTaskLearning, SingleTask
from hyperprompt_jax.methods.prompt_tuning import PromptTuning
from hyperprompt_jax.nn.insertion import Conditioning, LayerConditioning

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
  'added_parameters',
  'within_budget',
]
