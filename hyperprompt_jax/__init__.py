"""HyperPrompt: prompt-based task-conditioning of T5, in JAX and Flax.

The names below are loaded when they are first used: `import hyperprompt_jax` alone loads
neither JAX nor TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = '0.1.0'

# By public name, the module that defines it.
_MODULES = {
  'Answer': 'hyperprompt_jax.inference.answers',
  'Conditioning': 'hyperprompt_jax.methods',
  'Config': 'hyperprompt_jax.nn.config',
  'HoulsbyAdapter': 'hyperprompt_jax.methods',
  'HyperFormer': 'hyperprompt_jax.methods',
  'HyperPromptGlobal': 'hyperprompt_jax.methods',
  'HyperPromptSep': 'hyperprompt_jax.methods',
  'HyperPromptShare': 'hyperprompt_jax.methods',
  'Model': 'hyperprompt_jax.model',
  'MultiTaskLearning': 'hyperprompt_jax.methods',
  'Partitioner': 'hyperprompt_jax.partitioning',
  'Predictor': 'hyperprompt_jax.inference.predictor',
  'PromptTuning': 'hyperprompt_jax.methods',
  'Score': 'hyperprompt_jax.inference.answers',
  'SingleTask': 'hyperprompt_jax.methods',
  'Transformer': 'hyperprompt_jax.nn.transformer',
  'load': 'hyperprompt_jax.inference.loading',
}

if TYPE_CHECKING:
  from hyperprompt_jax.inference.answers import Answer, Score
  from hyperprompt_jax.inference.loading import load
  from hyperprompt_jax.inference.predictor import Predictor
  from hyperprompt_jax.methods import (
    Conditioning,
    HoulsbyAdapter,
    HyperFormer,
    HyperPromptGlobal,
    HyperPromptSep,
    HyperPromptShare,
    MultiTaskLearning,
    PromptTuning,
    SingleTask,
  )
  from hyperprompt_jax.model import Model
  from hyperprompt_jax.nn.config import Config
  from hyperprompt_jax.nn.transformer import Transformer
  from hyperprompt_jax.partitioning import Partitioner

__all__ = [
  'Answer',
  'Conditioning',
  'Config',
  'HoulsbyAdapter',
  'HyperFormer',
  'HyperPromptGlobal',
  'HyperPromptSep',
  'HyperPromptShare',
  'Model',
  'MultiTaskLearning',
  'Partitioner',
  'Predictor',
  'PromptTuning',
  'Score',
  'SingleTask',
  'Transformer',
  '__version__',
  'load',
]


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
