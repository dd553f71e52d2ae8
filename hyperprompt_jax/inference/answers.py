"""The results of a model, and the settings by which it generates them."""

import dataclasses
from typing import TypedDict

from hyperprompt_jax.errors import UserError, shown

# The most candidates of a question, and the longest answer: larger numbers are mistakes.
MOST_DECODES = 256
LONGEST_ANSWER = 2**14
# Up to this number, labels are padded to powers of two.
MOST_LABELS = 1024


@dataclasses.dataclass(frozen=True)
class Answer:
  """An answer to one input.

  Attributes:
    text: is the generated text, or the chosen label.
    log_likelihood: is the sum of the log probabilities of its tokens, EOS included.
    tokens: are the generated tokens, up to and including EOS.
    finished: says whether the model ended the answer; else it was cut at its length.
    truncated_inputs: says whether the input was longer than the model's length, and cut.
    unknown_tokens: counts the pieces of the input that the vocabulary does not have.
    alternatives: are the other candidates: of a beam search and of labels the best first,
      of samples in the order in which they were drawn.
  """

  text: str
  log_likelihood: float
  tokens: tuple[int, ...]
  finished: bool
  truncated_inputs: bool
  unknown_tokens: int = 0
  alternatives: tuple['Answer', ...] = ()


@dataclasses.dataclass(frozen=True)
class Score:
  """The likelihood of given targets for one input.

  Attributes:
    log_likelihood: is the sum of the log probabilities of the targets' tokens, with EOS.
    num_tokens: counts these tokens.
    truncated_inputs: says whether the input was longer than the model's length, and cut.
  """

  log_likelihood: float
  num_tokens: int
  truncated_inputs: bool


class Options(TypedDict, total=False):
  """The keywords of `Predictor.predict`: the attributes of `Generation`."""

  num_decodes: int
  temperature: float
  top_k: int
  top_p: float
  seed: int
  max_length: int | None
  alpha: float


@dataclasses.dataclass(frozen=True)
class Generation:
  """The way in which answers are generated: greedily, by beam search, or by sampling.

  Attributes:
    num_decodes: is the number of candidates. Several are those of a beam search, or, with a
      temperature, independent samples.
    temperature: divides the logits before a token is drawn; 0 takes the likeliest token.
    top_k: limits each draw to this number of likeliest tokens; 0 means all.
    top_p: limits each draw to the smallest set of likeliest tokens with at least this
      total probability; 0 and 1 mean all.
    seed: seeds the draws. A question's draws depend on its place in the call, not on the
      batch that it is computed in.
    max_length: is the most tokens of an answer, EOS included; None takes the model's own.
    alpha: is the exponent of the length penalty of a beam search.

  Raises:
    UserError: if a value is out of its range.
  """

  num_decodes: int = 1
  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 0.0
  seed: int = 0
  max_length: int | None = None
  alpha: float = 0.6

  def __post_init__(self):
    ranges = {
      'num_decodes': (1, MOST_DECODES),
      'temperature': (0, 1e4),
      'top_k': (0, 2**31 - 1),
      'top_p': (0, 1),
      'seed': (0, 2**32 - 1),
      'max_length': (1, LONGEST_ANSWER),
      'alpha': (0, 100),
    }
    for name, (least, most) in ranges.items():
      value = getattr(self, name)
      if value is None and name == 'max_length':
        continue
      is_integer = name not in ('temperature', 'top_p', 'alpha')
      kinds = (int,) if is_integer else (int, float)
      right = isinstance(value, kinds) and not isinstance(value, bool)
      if not right or not least <= value <= most:
        kind = 'an integer' if is_integer else 'a number'
        raise UserError(f'{name} must be {kind} from {least} to {most}, not {shown(value)}')
    if (self.top_k or self.top_p) and not self.temperature:
      raise UserError(
        'top_k and top_p limit the draws of sampling: give a temperature above 0, too'
      )

  @property
  def samples(self) -> bool:
    """Whether tokens are drawn."""
    return self.temperature > 0
