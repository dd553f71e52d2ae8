"""The part of a run's description that all its checkpoints share: network and method.

It is written with every checkpoint as plain JSON, compared when a run resumes, and read
where a checkpoint is opened without the run's gin files.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hyperprompt_jax import methods
from hyperprompt_jax.configuration.recorded import METHODS
from hyperprompt_jax.configuration.types import describe, fits, hints
from hyperprompt_jax.errors import UserError, shown
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config

# These fields change how a network is run, not the meaning of its parameters.
FREE_FIELDS = ('dropout_rate', 'scan_layers', 'remat_policy')
_NETWORK = 'config.Config.'
METHOD = 'METHOD'


def identity_of(model: Model) -> dict[str, Any]:
  """Describes a network and its method, by the names that users bind in gin.

  Args:
    model: is the network that is trained.

  Returns:
    JSON values: the class of the method under `METHOD`, and each option of the network and
    of the method under its gin name.
  """
  network = dataclasses.asdict(model.config)
  method = {
    field.name: getattr(model.method, field.name)
    for field in dataclasses.fields(model.method)
    if field.name not in ('parent', 'name')
  }
  name = type(model.method).__name__
  return {
    **{f'{_NETWORK}{k}': _json(v) for k, v in network.items() if k not in FREE_FIELDS},
    METHOD: name,
    **{f'methods.{name}.{option}': _json(value) for option, value in method.items()},
  }


def description_of(model: Model) -> dict[str, Any]:
  """Describes a network and its method as `identity_of` does, and the free fields.

  Args:
    model: is the network that is trained.
  """
  free = {f'{_NETWORK}{name}': getattr(model.config, name) for name in FREE_FIELDS}
  return {**identity_of(model), **free}


def network_of(where: str, identity: Mapping[str, Any]) -> Config | None:
  """Rebuilds a network's configuration from a checkpoint's description.

  A checkpoint that describes no network at all, as those of other programs may, gives None.

  Args:
    where: names the checkpoint, for messages.
    identity: is a result of `identity_of`; other entries are passed over.

  Raises:
    UserError: if it does not describe a network.
  """
  values: dict[str, Any] = {
    name.removeprefix(_NETWORK): tuple(value) if isinstance(value, list) else value
    for name, value in identity.items()
    if name.startswith(_NETWORK)
  }
  if not values:
    return None
  known = {field.name for field in dataclasses.fields(Config)}
  needed = known - {*FREE_FIELDS}
  try:
    given = {name: values[name] for name in sorted(needed)}
    return Config(**given, **{name: values[name] for name in FREE_FIELDS if name in values})
  except KeyError as error:
    raise UserError(
      f'checkpoint {where} does not say its {_NETWORK}{error.args[0]}'
    ) from error
  except (UserError, TypeError) as error:
    raise UserError(f'checkpoint {where} describes no network: {error}') from error


def method_of(where: str, identity: Mapping[str, Any]) -> methods.Method:
  """Rebuilds a method of this package from the description of a run or a checkpoint.

  Args:
    where: names the run or checkpoint, for messages.
    identity: is a result of `identity_of`; other entries are passed over.

  Raises:
    UserError: if it describes none of the methods of this package.
  """
  name = identity.get(METHOD)
  if name not in METHODS:
    raise UserError(
      f'{where} has the method {shown(name)}, which is none of this package: load it where '
      'its class is, by hyperprompt_jax.Model and the parameters of the checkpoint'
    )
  kind: type[methods.Method] = getattr(methods, name)
  prefix = f'methods.{name}.'
  options: dict[str, Any] = {
    option.removeprefix(prefix): tuple(value) if isinstance(value, list) else value
    for option, value in identity.items()
    if option.startswith(prefix)
  }
  annotated = hints(kind)
  for option, value in options.items():
    if option not in annotated or option in ('parent', 'name'):
      raise UserError(f'{where}: {name} has no option {shown(option)}')
    if not fits(value, annotated[option]):
      raise UserError(
        f'{where}: {prefix}{option} must be of type {describe(annotated[option])}, not '
        f'{shown(value)}'
      )
  try:
    return kind(**options)
  except TypeError as error:
    raise UserError(f'{where} describes no {name}: {error}') from error


def _json(value: Any) -> Any:
  """A value as it comes back from JSON, so that both can be compared."""
  return list(value) if isinstance(value, tuple) else value
