"""T5 with task prompts that hyperprompt_jax has trained, for Transformers 5.

`hyperprompt convert --to=huggingface` copies this file into the folder that it writes, and
`from_pretrained(…, trust_remote_code=True)` loads it there. It imports torch and
transformers alone. The prompts of all tasks are weights; `task` chooses among them for each
row:

  model.generate(**inputs, task='rte')
  model(**inputs, labels=labels, task=['rte', 'boolq'])

Axis letters: B rows, h heads, Q queries, K keys, k head width, l prompts, t tasks, d width.
"""

from typing import Any

import torch
import transformers
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention, T5Stack

if int(transformers.__version__.partition('.')[0]) < 5:
  # Earlier versions do not hand the task down to attention.
  raise ImportError(
    f'this model needs Transformers 5, and {transformers.__version__} is installed: '
    "pip install 'transformers>=5'"
  )


class HyperPromptT5Config(T5Config):
  """The configuration of a T5 with task prompts.

  Attributes:
    task_list: names the tasks in the order of their ids.
    encoder_prompts: describes the prompts of the encoder's self-attention: `length`,
      `first_layer` and `logit_offset` (whether there is one); None without prompts.
    decoder_prompts: describes those of the decoder's self-attention.
    input_prompt_length: is the number of prompts before the encoder's input.
  """

  model_type = 'hyperprompt_t5'

  task_list: list[str] | None = None
  encoder_prompts: dict[str, Any] | None = None
  decoder_prompts: dict[str, Any] | None = None
  input_prompt_length: int = 0


class PromptedAttention(T5Attention):
  """T5's self-attention, with the prompts of each row's task before keys and values.

  Args:
    config: is the configuration of the stack.
    layer: is the number of the layer in its stack.
    prompts: describes the prompts, as in the configuration.
  """

  def __init__(self, config: Any, layer: int, prompts: dict[str, Any]):
    super().__init__(
      config,
      has_relative_attention_bias=layer == 0,
      layer_idx=layer,
      is_causal=config.is_decoder,
    )
    num_tasks = len(config.task_list)
    shape = (num_tasks, prompts['length'], config.num_heads, config.d_kv)
    self.prompt_key = nn.Parameter(torch.zeros(shape))
    self.prompt_value = nn.Parameter(torch.zeros(shape))
    offset = torch.zeros(config.num_heads) if prompts['logit_offset'] else None
    self.prompt_logit_offset = None if offset is None else nn.Parameter(offset)

  def forward(
    self,
    hidden_states,
    mask=None,
    key_value_states=None,
    position_bias=None,
    past_key_values=None,
    task=None,
    **kwargs,
  ):
    """Returns the output `[B, Q, d]`, the position bias and the weights or None."""
    rows, length, _ = hidden_states.shape
    query, key, value = (
      project(hidden_states).view(rows, length, self.n_heads, -1).transpose(1, 2)
      for project in (self.q, self.k, self.v)
    )  # [B, h, Q, k]
    seen = 0
    cache = getattr(past_key_values, 'self_attention_cache', past_key_values)
    if cache is not None:
      seen = cache.get_seq_length(self.layer_idx)
      # A static cache returns a tensor, which the update changes.
      seen = seen.clone() if isinstance(seen, torch.Tensor) else seen
      key, value = cache.update(key, value, self.layer_idx)
    if position_bias is None:
      position_bias = self.compute_bias(
        length, key.shape[2], device=query.device, past_seen_tokens=seen
      )
    bias = self._with_prompts(self._masked(position_bias, mask, length, key.shape[2]))
    key, value = (
      torch.cat([prompts[task].transpose(1, 2).to(x.dtype), x], dim=2)
      for prompts, x in ((self.prompt_key, key), (self.prompt_value, value))
    )  # [B, h, l + K, k]
    output, weights = self._attend(query, key, value, bias.to(query.dtype))
    output = self.o(output.transpose(1, 2).reshape(rows, length, -1))
    return output, position_bias, weights

  def _masked(self, bias, mask, length, key_length):
    """Adds the mask to the position bias: `[B, h, Q, K]`, or `[1, h, Q, K]` without one."""
    if mask is None and self.is_causal and length > 1:
      # Transformers leaves out a mask that the attention's kernel can make itself.
      mask = torch.ones(length, key_length, dtype=torch.bool, device=bias.device)
      mask = mask.tril(key_length - length)
    if mask is None:
      return bias
    mask = mask[..., :key_length]
    if mask.dtype == torch.bool:
      return bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
    return bias + mask

  def _with_prompts(self, bias):
    """Puts the bias of prompts, which is zero or the offset, before that of the tokens."""
    length = self.prompt_key.shape[1]
    of_prompts = bias.new_zeros(*bias.shape[:3], length)
    if self.prompt_logit_offset is not None:
      of_prompts = of_prompts + self.prompt_logit_offset[:, None, None]
    return torch.cat([of_prompts, bias], dim=3)

  def _attend(self, query, key, value, bias):
    dropout = self.dropout if self.training else 0.0
    if self.config._attn_implementation != 'eager':
      output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, scale=1.0
      )
      return output, None
    logits = (query @ key.transpose(2, 3)).float() + bias
    weights = logits.softmax(dim=-1).to(value.dtype)
    weights = nn.functional.dropout(weights, dropout, self.training)
    return weights @ value, weights


class PromptedEncoder(T5Stack):
  """T5's encoder, with the prompts of each row's task before the embedded input."""

  def __init__(self, config: Any):
    super().__init__(config)
    shape = (len(config.task_list), config.input_prompt_length, config.d_model)
    self.input_prompts = nn.Parameter(torch.zeros(shape))
    self.post_init()

  def forward(
    self, input_ids=None, attention_mask=None, inputs_embeds=None, task=None, **kwargs
  ):
    """Returns the encodings of prompts and tokens, `[B, l + K, d]`."""
    x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
    # `generate` gives the mask of the tokens alone; the model has added the prompts to it.
    if attention_mask is not None and attention_mask.shape[1] == x.shape[1]:
      attention_mask = _with_input_prompts(attention_mask, self.config)
    x = torch.cat([self.input_prompts[task].to(x.dtype), x], dim=1)
    return super().forward(
      inputs_embeds=x,
      attention_mask=attention_mask,
      task=task,
      **kwargs,
    )


def _with_input_prompts(mask, config):
  """Returns a mask `[B, K]` in which the prompts stand before the tokens, `[B, l + K]`."""
  if mask is None or not config.input_prompt_length:
    return mask
  return nn.functional.pad(mask, (config.input_prompt_length, 0), value=1)


class HyperPromptT5ForConditionalGeneration(T5ForConditionalGeneration):
  """A T5 whose `forward` and `generate` take the task of each row."""

  config_class = HyperPromptT5Config

  def __init__(self, config: HyperPromptT5Config):
    super().__init__(config)
    if config.input_prompt_length:
      self.set_submodule('encoder', PromptedEncoder(self.get_encoder().config))
    of_stacks = {'encoder': config.encoder_prompts, 'decoder': config.decoder_prompts}
    for name, prompts in of_stacks.items():
      if prompts:
        stack = self.get_submodule(name)
        for number in range(prompts['first_layer'], len(stack.block)):
          attention = PromptedAttention(stack.config, number, prompts)
          stack.block[number].layer[0].SelfAttention = attention
    self.post_init()

  def task_ids(self, task, rows: int) -> torch.Tensor:
    """Returns the task of each row, `[B]`.

    Args:
      task: is the name or id of the task of all rows, or one for each row. None is enough
        for a model of one task.
      rows: is the number of rows.

    Raises:
      ValueError: if there is no such task, or another number of them.
    """
    names = self.config.task_list
    known = f'it knows {", ".join(names)}'
    if task is None:
      if len(names) > 1:
        raise ValueError(f"name the task of the rows, such as task='{names[0]}'; {known}")
      task = 0
    if isinstance(task, torch.Tensor):
      given = task.reshape(-1).tolist()
    else:
      given = [task] if isinstance(task, str | int) else list(task)
    ids = [names.index(x) if x in names else x for x in given]
    for number in ids:
      if not isinstance(number, int) or not 0 <= number < len(names):
        raise ValueError(f'task {number!r} is not one of this model; {known}')
    if len(ids) not in (1, rows):
      raise ValueError(f'there are {len(ids)} tasks for {rows} rows: name one, or as many')
    return torch.tensor(ids, device=self.shared.weight.device).expand(rows)

  def forward(
    self, input_ids=None, attention_mask=None, encoder_outputs=None, task=None, **kwargs
  ):
    """Does what T5's `forward` does, with the prompts of each row's task.

    Args:
      input_ids: are the tokens of the inputs, `[B, K]`.
      attention_mask: is 0 where a token is padding, `[B, K]`.
      encoder_outputs: are the encoder's outputs, in place of `input_ids`.
      task: names the tasks (see `task_ids`).
      **kwargs: are the further arguments of T5's `forward`.
    """
    if kwargs.get('past_key_values') is None or not isinstance(task, torch.Tensor):
      inputs = kwargs.get('inputs_embeds') if input_ids is None else input_ids
      task = self.task_ids(task, len(encoder_outputs[0] if inputs is None else inputs))
    return super().forward(
      input_ids=input_ids,
      attention_mask=_with_input_prompts(attention_mask, self.config),
      encoder_outputs=encoder_outputs,
      task=task,
      **kwargs,
    )

  @torch.no_grad()
  def generate(self, inputs=None, *args, task=None, **kwargs):
    """Does what T5's `generate` does, with the prompts of each row's task.

    Args:
      inputs: are the tokens of the inputs, `[B, K]`, unless they are `input_ids`.
      *args: are the further arguments of T5's `generate`.
      task: names the tasks (see `task_ids`).
      **kwargs: are the further keywords of T5's `generate`.
    """
    given = inputs
    for name in ('input_ids', 'inputs_embeds'):
      given = kwargs.get(name) if given is None else given
    if given is None:
      given = kwargs['encoder_outputs'][0]
    task = self.task_ids(task, len(given))
    return super().generate(inputs, *args, task=task, **kwargs)
