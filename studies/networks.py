"""The networks of the studies: every method on one backbone, at one budget."""

import dataclasses

import jax
import numpy as np

from hyperprompt_jax.methods import (
  HoulsbyAdapter,
  HyperFormer,
  HyperPromptGlobal,
  HyperPromptSep,
  HyperPromptShare,
  Method,
  MultiTaskLearning,
  PromptTuning,
  added_parameters,
  within_budget,
)
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config

MATCHED, DEFAULT = 'matched', 'default'
GENTLE = -6.0  # the logit offset at which fresh prompts take less than 1 % of the attention
NAMES = {
  'mtl': 'MTL',
  'wide_mtl': 'MTL, wider',
  'single_task': 'single task',
  'share': 'HyperPrompt-Share',
  'sep': 'HyperPrompt-Sep',
  'global': 'HyperPrompt-Global',
  'global_decoder': 'Global in the decoder',
  'global_both': 'Global in both',
  'global_gentle': 'Global, gentle start',
  'prompt_tuning': 'Prompt-Tuning',
  'adapter': 'Adapter',
  'hyperformer': 'HyperFormer++',
}


@dataclasses.dataclass(frozen=True)
class Size:
  """The sizes of a study's networks.

  Attributes:
    width: is d.
    encoder_layers: counts the layers of the encoder.
    decoder_layers: counts the layers of the decoder.
    extra_parameters: is the budget: the number of parameters that a method may add.
    prompt_length: is l of HyperPrompt in one stack; half of it is for each stack of two.
    default_length: is l of all prompts without a budget.
  """

  width: int
  encoder_layers: int
  decoder_layers: int
  extra_parameters: int
  prompt_length: int = 8
  default_length: int = 4

  def config(self, vocab_size: int) -> Config:
    """The backbone: T5 1.0's activation, heads of width 8, an MLP of twice the width."""
    return Config(
      vocab_size=vocab_size,
      emb_dim=self.width,
      num_heads=self.width // 8,
      head_dim=8,
      num_encoder_layers=self.encoder_layers,
      num_decoder_layers=self.decoder_layers,
      mlp_dim=2 * self.width,
      mlp_activations=('relu',),
      dropout_rate=0.0,
      scan_layers=False,
    )


def model(
  size: Size, vocab_size: int, task_list: tuple[str, ...], method: str, budget: str
) -> Model:
  """A network.

  Args:
    size: gives its sizes.
    vocab_size: is V.
    task_list: names the tasks.
    method: is one of NAMES.
    budget: is 'matched', or 'default' for methods of the widths that a user would choose
      first, which differ in size.
  """
  config = size.config(vocab_size)
  if method == 'wide_mtl':
    config = _wider(config, size.extra_parameters)
  chosen = _method(method, size, budget)
  if budget == MATCHED:
    chosen = within_budget(chosen, config, len(task_list), size.extra_parameters)
  return Model(config, chosen, task_list, z_loss=0.0)


def _method(name: str, size: Size, budget: str) -> Method:
  length = size.prompt_length if budget == MATCHED else size.default_length
  half = length // 2
  makers = {
    'share': lambda: HyperPromptShare(length, 8),
    'sep': lambda: HyperPromptSep(length, 8),
    'global': lambda: HyperPromptGlobal(length, 8, task_embed_dim=8),
    'global_decoder': lambda: HyperPromptGlobal(length, 8, 'decoder', task_embed_dim=8),
    'global_both': lambda: HyperPromptGlobal(half, 8, 'both', task_embed_dim=8),
    'global_gentle': lambda: HyperPromptGlobal(
      length, 8, task_embed_dim=8, logit_offset=GENTLE
    ),
    'prompt_tuning': lambda: PromptTuning(length),
    'adapter': lambda: HoulsbyAdapter(4),
    'hyperformer': lambda: HyperFormer(4, 8, hidden_dim=16),
  }
  return makers.get(name, MultiTaskLearning)()


def _wider(config: Config, extra_parameters: int) -> Config:
  """The configuration with an MLP that is wider by a number of parameters."""
  layers = config.num_encoder_layers + config.num_decoder_layers
  more = round(extra_parameters / (layers * 2 * config.emb_dim))
  return dataclasses.replace(config, mlp_dim=config.mlp_dim + more)


def parameters(network: Model) -> dict[str, int]:
  """The number of all parameters, and of those that the method adds."""
  shapes = network.param_shapes()
  total = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
  added = added_parameters(network.method, network.config, len(network.task_list))
  return {'parameters': total, 'added': added}
