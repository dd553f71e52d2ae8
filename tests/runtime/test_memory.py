"""A device without memory is answered by what to change."""

import jax
import pytest

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import memory

# The texts of a GPU, of a TPU's compiler, and of a CPU.
TEXTS = {
  'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 94489280512 bytes.\n[tf-a': (
    ' for another 94489280512 bytes'
  ),
  'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space '
  'hbm. Used 20.51G of 15.75G hbm.': '',
  'RESOURCE_EXHAUSTED: Out of memory allocating 4398046511104 bytes.': (
    ' for another 4398046511104 bytes'
  ),
}


@pytest.mark.parametrize(('text', 'amount'), TEXTS.items())
def test_the_users_error_names_the_advice_and_the_amount(text, amount):
  with pytest.raises(UserError) as raised, memory.explained('do this'):
    raise jax.errors.JaxRuntimeError(text)
  assert str(raised.value) == f'the devices have no memory left{amount}: do this'


def test_other_errors_stay_as_they_are():
  with pytest.raises(jax.errors.JaxRuntimeError), memory.explained('do this'):
    raise jax.errors.JaxRuntimeError('INTERNAL: a fault')


def test_an_array_that_is_too_large_is_explained():
  with pytest.raises(UserError, match='no memory left'), memory.explained('do this'):
    jax.numpy.zeros((2**46,), 'int8').block_until_ready()


def test_the_advice_names_what_can_still_be_changed():
  numbers = {'batch_size': 8, 'num_microbatches': 1, 'remat_policy': 'none', 'fsdp': 1}
  advice = memory.advice_for_training(**numbers, devices=4)
  for name in ('NUM_MICROBATCHES', 'REMAT_POLICY', 'FSDP', 'BATCH_SIZE'):
    assert name in advice
  numbers |= {'num_microbatches': 8, 'remat_policy': 'full'}
  advice = memory.advice_for_training(**numbers, devices=1)
  assert advice == 'lower BATCH_SIZE (it is 8) or TASK_FEATURE_LENGTHS'
