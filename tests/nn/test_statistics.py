"""Statistics of attention from logits, which are exact for any mass on the prompts."""

import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax.nn import statistics


def naive(logits, num_prompts):
  """Returns one query's mass on prompts, mass on tokens and entropy over tokens."""
  logits = np.asarray(logits, np.float64)
  powers = np.exp(logits - logits.max())
  mass = powers / powers.sum()
  tokens = logits[num_prompts:]
  shares = np.exp(tokens - tokens.max())
  shares = shares[shares > 0] / shares.sum()
  entropy = -np.sum(shares * np.log(shares))
  return mass[:num_prompts].sum(), mass[num_prompts:].sum(), entropy


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('prompt_logit', [-1e4, 0.0, 20.0, 90.0, 150.0, 1e4])
def test_entropy_over_tokens_does_not_depend_on_the_mass_of_prompts(prompt_logit, dtype):
  # At 90 the weights of tokens are denormal in float32, and at 150 they are 0.
  prompts, tokens = np.full((2, 3, 4, 2), prompt_logit), np.linspace(0, 1, 96)
  logits = np.concatenate([prompts, tokens.reshape(2, 3, 4, 4)], axis=-1)
  logits = jnp.asarray(logits, dtype)
  queries = jnp.asarray([[True, True, True, False], [True] * 4])
  reduced = statistics.from_logits(logits, 2, queries)
  for row in range(2):
    for head in range(3):
      each = [
        naive(logits[row, head, query], 2) for query in range(4) if queries[row, query]
      ]
      prompt_mass, token_mass, entropy = np.mean(each, axis=0)
      at = (row, head)
      np.testing.assert_allclose(reduced.prompt_mass[at], prompt_mass, atol=1e-6)
      np.testing.assert_allclose(reduced.token_mass[at], token_mass, atol=1e-6)
      np.testing.assert_allclose(reduced.entropy[at], entropy, rtol=1e-6)
  # All queries spread almost evenly over four tokens, which is the last bin.
  assert reduced.histogram[:, -1].tolist() == [9, 12]
  assert reduced.histogram.sum() == 21


def test_unseen_tokens_have_no_share_of_the_entropy():
  logits = jnp.asarray([0.5, 0.0, -1e10, 1.0, -1e10], jnp.float32).reshape(1, 1, 1, 5)
  reduced = statistics.from_logits(logits, 1, jnp.ones((1, 1), jnp.bool_))
  want = naive([0.5, 0.0, -1e10, 1.0, -1e10], 1)
  got = (reduced.prompt_mass, reduced.token_mass, reduced.entropy)
  np.testing.assert_allclose(np.ravel(got), want, rtol=1e-6)
