"""The engine of a loaded model: the interface of XLA's programs and of ONNX Runtime."""

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import numpy as np

from hyperprompt_jax.inference.answers import Generation

Features = Mapping[str, Any]


class Engine(Protocol):
  """Computes batches; calls from several threads do not disturb each other.

  Features are those of `batches.inputs_of`, `[B, ...]`.
  """

  @property
  def least_rows(self) -> int:
    """The number of rows that a batch has at least, and a divisor of every other."""
    ...

  @property
  def compiled(self) -> set[Hashable] | None:
    """The batches that have been computed, as callers describe them.

    Others like them need no compilation. It is None if nothing is ever compiled.
    """
    ...

  def adopt(self, other: Any) -> bool:
    """Takes over the compiled programs of other parameters of the same network.

    Returns:
      Whether nothing is left to compile.
    """
    ...

  def generate(
    self, features: Features, generation: Generation, limit: int, places: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Generates answers.

    Args:
      features: are the features of the inputs, `[B, ...]`.
      generation: holds the options of answers.
      limit: is the most tokens of an answer.
      places: are the places of the rows in their call, which seed their draws, `[B]`.

    Returns:
      Tokens `[B, N, P]` int32, and log likelihoods `[B, N]` float32; a candidate that does
      not exist has a log likelihood below -1e6.
    """
    ...

  def score(self, features: Features) -> np.ndarray:
    """Returns the log likelihoods of targets, `[B]` float32."""
    ...

  def rank(self, features: Features, labels: np.ndarray) -> np.ndarray:
    """Returns the log likelihoods of each row's labels `[B, N, Q]`, as `[B, N]` float32."""
    ...

  def encode(self, features: Features) -> np.ndarray:
    """Returns the encoder's outputs for the inputs' tokens, `[B, K, d]` float32."""
    ...

  def attention(self, features: Features) -> np.ndarray:
    """Returns the attention mass on prompts in the encoder, `[B, m]` float32.

    It is the mean over heads and over the queries that are no padding.
    """
    ...
