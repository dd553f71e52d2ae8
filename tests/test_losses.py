"""The loss, compared with its definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from hyperprompt_jax import losses


@pytest.mark.parametrize('label_smoothing', [0.0, 0.1])
@pytest.mark.parametrize('z_loss', [0.0, 1e-2])
def test_cross_entropy_equals_its_definition_over_smoothed_labels(label_smoothing, z_loss):
  rng = np.random.default_rng(0)
  logits, targets = rng.normal(size=(5, 7)), rng.integers(0, 7, 5)
  labels = np.full((5, 7), label_smoothing / 6)
  labels[np.arange(5), targets] = 1 - label_smoothing
  log_z = np.log(np.exp(logits).sum(-1))
  entropy = -(labels * np.log(np.maximum(labels, 1e-30))).sum(-1)
  z_term = z_loss * log_z**2
  want = -(labels * (logits - log_z[:, None])).sum(-1) - entropy + z_term
  got = losses.cross_entropy(
    jnp.asarray(logits, jnp.float32),
    jnp.asarray(targets),
    label_smoothing=label_smoothing,
    z_loss=z_loss,
  )
  np.testing.assert_allclose(got[0], want, atol=1e-5)
  np.testing.assert_allclose(got[1], z_term, atol=1e-5)
