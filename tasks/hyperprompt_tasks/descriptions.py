"""Tasks as data: their labels and metrics by name, and the calls that registered them.

A run writes these descriptions down, so that it can be used later without its gin files.
"""

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import seqio

from hyperprompt_tasks import (
  conditioning,
  errors,
  file_tasks,
  natural_instructions,
  own_tasks,
  rates,
  registration,
  task_column,
  task_lists,
)

_FUNCTIONS: Mapping[str, Callable[..., str]] = {
  'condition': conditioning.condition,
  'from_files': file_tasks.from_files,
  'from_natural_instructions': natural_instructions.from_natural_instructions,
  'from_task_column': task_column.from_task_column,
}
_FUNCTION, _NAME, _UNSAYABLE = 'function', 'name', 'unsayable'
# Arguments that hold paths.
_PATHS = ('files', 'directory')
_RATES, _PROPORTIONAL = 'rates', 'proportional'


def describe_tasks(name: str) -> dict[str, dict[str, Any]]:
  """Describes each SeqIO task of a mixture by JSON values.

  Args:
    name: is the name of a registered mixture or task with a task list.

  Returns:
    For each SeqIO task its `conditioned_task`, its `labels` (None for any text), and the
    names of its `metrics` and of its `postprocessor` (None for the text itself).
  """
  described = {}
  for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
    labels = registration.labels(task.name)
    described[task.name] = {
      'conditioned_task': task_lists.conditioned_task(task.name),
      'labels': list(labels) if labels else None,
      'metrics': [_name_of(metric) for metric in task.metric_fns],
      'postprocessor': _name_of(task.postprocessor) if task.postprocessor else None,
    }
  return described


def declarations(name: str) -> list[dict[str, Any]]:
  """Returns the calls that registered a user's mixture, those that it builds on first.

  Args:
    name: is the name of a registered mixture or task.

  Returns:
    The arguments of each call as JSON values, with its `function`. A call whose arguments
    JSON cannot hold has the entry `unsayable`, which tells the reason.
  """
  result: list[dict[str, Any]] = []
  for made, (function, call) in own_tasks.calls().items():
    if name != made and not name.startswith(f'{made}.'):
      continue
    if function == 'condition':
      for member in _arguments(function, call)['tasks']:
        result += [d for d in declarations(member) if d not in result]
    result.append(_declaration(function, made, call))
  return result


def declare_again(
  described: Sequence[Mapping[str, Any]], *, keep_existing: bool = False
) -> None:
  """Registers mixtures from their declarations; those that exist already stay.

  Args:
    described: are results of `declarations`, maybe of another process.
    keep_existing: whether a mixture of the same name stays, whatever it is made of, as
      where a user has made it of files that have moved.

  Raises:
    TaskError: if a declaration cannot be repeated, or a mixture of its name exists and is
      another one.
  """
  for declaration in described:
    name, function = declaration.get(_NAME), str(declaration.get(_FUNCTION))
    if not isinstance(name, str) or function not in _FUNCTIONS:
      raise errors.TaskError('the record of the tasks is damaged: a call has no name')
    if known := own_tasks.calls().get(name):
      if not keep_existing and _declaration(known[0], name, known[1]) != declaration:
        raise errors.TaskError(f'mixture {name} is made already, of other tasks')
      continue
    if reason := declaration.get(_UNSAYABLE):
      raise errors.TaskError(
        f'mixture {name} cannot be made from its record: {reason}; name a --gin_file that '
        'makes it, or --trust_gin'
      )
    arguments = {k: v for k, v in declaration.items() if k not in (_NAME, _FUNCTION)}
    try:
      if set(of_tasks := arguments.get(_RATES) or {}) == {_PROPORTIONAL}:
        arguments[_RATES] = rates.Proportional(**of_tasks[_PROPORTIONAL])
      _FUNCTIONS[function](name, **arguments)
    except (TypeError, AttributeError) as error:
      raise errors.TaskError(
        f'the record of mixture {name} does not fit hyperprompt_tasks.{function}: {error}'
      ) from error


def _arguments(function: str, call: Sequence[Any]) -> dict[str, Any]:
  """Returns the arguments of a call by name, but the mixture's name."""
  _, *names = inspect.signature(_FUNCTIONS[function]).parameters
  return dict(zip(names, call, strict=True))


def _declaration(function: str, name: str, call: Sequence[Any]) -> dict[str, Any]:
  """Returns a call as JSON values, with absolute paths."""
  head = {_FUNCTION: function, _NAME: name}
  arguments = _arguments(function, call)
  if functions := list(_functions(arguments)):
    names = ', '.join(map(_name_of, functions))
    reason = f'its metric {names} is a function, which a name cannot say'
    return {**head, _UNSAYABLE: reason}
  for argument in _PATHS:
    if argument in arguments:
      arguments[argument] = _absolute(arguments[argument])
  if isinstance(proportional := arguments.get(_RATES), rates.Proportional):
    arguments[_RATES] = {_PROPORTIONAL: dataclasses.asdict(proportional)}
  return {**head, **_json(arguments)}


def _absolute(paths: Any) -> Any:
  """Returns paths, in whatever lists and dicts they are, as absolute ones."""
  if isinstance(paths, Mapping):
    return {key: _absolute(path) for key, path in paths.items()}
  if isinstance(paths, list | tuple):
    return [_absolute(path) for path in paths]
  return paths if '://' in paths else os.path.abspath(paths)


def _functions(value: Any) -> Iterable[Callable[..., Any]]:
  """Yields the functions in an argument."""
  if callable(value):
    yield value
  elif isinstance(value, Mapping):
    for item in value.values():
      yield from _functions(item)
  elif isinstance(value, list | tuple):
    for item in value:
      yield from _functions(item)


def _json(value: Any) -> Any:
  """Returns a value as it comes back from JSON."""
  if isinstance(value, Mapping):
    return {str(key): _json(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_json(item) for item in value]
  return value


def _name_of(function: Any) -> str:
  while isinstance(function, functools.partial):
    function = function.func
  return getattr(function, '__name__', type(function).__name__)
