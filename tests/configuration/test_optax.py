"""Every optimizer of Optax can be bound by gin, on the command line, and read back."""

import functools
import inspect
import types

import gin
import jax.numpy as jnp
import optax
import pytest

from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.errors import UserError

FILES = ['models/tiny.gin', 'methods/hyperprompt_global.gin', 'runs/finetune.gin']
REQUIRED = [
  "MODEL_DIR='/run'",
  "MIXTURE_OR_TASK_NAME='hp_builtin'",
  "TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 4}",
]
OPTIMIZERS = sorted(
  name
  for name, function in vars(optax).items()
  if isinstance(function, types.FunctionType | functools.partial)
  and 'learning_rate' in inspect.signature(function).parameters
  and all(
    parameter.default is not inspect.Parameter.empty or name == 'learning_rate'
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is not inspect.Parameter.VAR_KEYWORD
  )
)


def test_there_are_optimizers():
  assert {'adam', 'adamw', 'lion', 'lamb', 'adafactor', 'nadamw', 'sgd'} <= {*OPTIMIZERS}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_an_optimizer_of_optax_is_bound_and_read_back(name, tmp_path):
  bindings = [f'OPTIMIZER=@optax.{name}()', f'optax.{name}.learning_rate=0.25']
  gin_files.parse(FILES, [*REQUIRED, *bindings])
  optimizer = gin.get_configurable(f'optax.{name}')()
  assert isinstance(optimizer, optax.GradientTransformation)
  optimizer.init({'kernel': jnp.ones((2, 3))})
  config = tmp_path / 'config.gin'
  config.write_text(gin.config_str())
  gin_files.parse([str(config)], [])
  assert gin.query_parameter(f'optax.{name}.learning_rate') == 0.25


def test_a_value_of_the_wrong_type_is_still_refused():
  bindings = ['OPTIMIZER=@optax.adamw()', "optax.adamw.b1='high'"]
  with pytest.raises(UserError, match=r"adamw\.b1 must be of type .*, not 'high'"):
    gin_files.parse(FILES, [*REQUIRED, *bindings])


def test_a_wrapped_optimizer_is_bound():
  bindings = [
    'OPTIMIZER=@optax.apply_if_finite()',
    'optax.apply_if_finite.inner=@optax.adamw()',
    'optax.apply_if_finite.max_consecutive_errors=5',
    'optax.adamw.learning_rate=0.1',
  ]
  gin_files.parse(FILES, [*REQUIRED, *bindings])
  assert isinstance(gin.get_configurable('optax.apply_if_finite')(), tuple)
