"""Turns a device's lack of memory into one line that names the settings to change."""

import contextlib
import re
from collections.abc import Iterator

import jax

from hyperprompt_jax.errors import UserError

_MARK = 'RESOURCE_EXHAUSTED'
_AMOUNT = re.compile(r'allocat\w+ ([\d.]+ ?(?:[KMGT]i?B?\b|bytes?))')


@contextlib.contextmanager
def explained(advice: str) -> Iterator[None]:
  """Raises the user's error where JAX reports that a device has no more memory.

  Args:
    advice: names the settings to change.

  Raises:
    UserError: if the block runs out of the devices' memory.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if _MARK not in str(error):
      raise
    amount = _AMOUNT.search(str(error))
    wanted = f' for another {amount[1]}' if amount else ''
    raise UserError(f'the devices have no memory left{wanted}: {advice}') from error


def advice_for_training(
  *, batch_size: int, num_microbatches: int, remat_policy: str, fsdp: int, devices: int
) -> str:
  """Returns the settings by which training needs less memory, cheapest first.

  Args:
    batch_size: is BATCH_SIZE.
    num_microbatches: is NUM_MICROBATCHES.
    remat_policy: is REMAT_POLICY.
    fsdp: is FSDP.
    devices: is the number of devices.
  """
  options = []
  if num_microbatches < batch_size:
    options.append(
      f'raise NUM_MICROBATCHES (it is {num_microbatches}; the same batch in more parts)'
    )
  if remat_policy != 'full':
    options.append(f"set REMAT_POLICY to 'full' (it is {remat_policy!r})")
  if fsdp < devices:
    options.append(
      f'raise FSDP (it is {fsdp}; parameters and optimizer spread over {devices} devices)'
    )
  options.append(f'lower BATCH_SIZE (it is {batch_size}) or TASK_FEATURE_LENGTHS')
  return '; '.join(options)
