"""Tasks of Super-NaturalInstructions (Wang et al., 2022): a folder of official files.

A file `TASK.json` is one task: an object with `Definition`, a text or a list of texts;
`Positive Examples`, a list of objects with `input` and `output`; and `Instances`, a list of
objects with `input` and `output`, a text or a list of equally right texts.
"""

import fnmatch
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from hyperprompt_tasks import (
  errors,
  file_facts,
  file_readers,
  layouts,
  named_metrics,
  own_tasks,
  plain_json,
  text_files,
  text_tasks,
)
from hyperprompt_tasks.text_tasks import Metrics, Rates

INPUTS = '{definition}\n\n{input}'
_FIELDS = ('definition', 'examples', 'input')
_SHOWN_EXAMPLES = 2  # as many as Tk-Instruct shows


def from_natural_instructions(
  name: str,
  directory: str,
  *,
  tasks: str | Sequence[str] = '*',
  inputs: str = INPUTS,
  num_validation: int = 100,
  rates: Rates = None,
  metric_fns: Metrics = ('exact_match', 'rouge'),
  task_list: Sequence[str] | None = None,
) -> str:
  r"""Registers the tasks of a folder of Super-NaturalInstructions, and a mixture of them.

  The SeqIO task of `TASK.json` is `NAME.TASK`. Instances without a text as output are left
  out, with a warning.

  Args:
    name: is the name of the mixture.
    directory: holds the files, `TASK.json`.
    tasks: are the tasks: a pattern of names, several, or a file with a name on each
      line, such as the official `train_tasks.txt`.
    inputs: makes the inputs of `{definition}`, `{examples}` (the first two
      positive examples with their outputs) and `{input}`; `'{input}'` leaves the
      instruction out.
    num_validation: is the number of the first instances of a task that validate, at
      most half of them; the others train.
    rates: is the rate of a task, by default the number of its training instances, or a
      `Proportional` for all.
    metric_fns: are the metrics of all tasks.
    task_list: are the tasks in the order of their ids, by default the alphabet's.

  Returns:
    `name`. The same call again registers nothing.

  Raises:
    TaskError: if a name is taken, or an argument does not fit.
    DataError: if a file cannot be used; the error names it.
  """
  call = (directory, tasks, inputs, num_validation, rates, metric_fns, task_list)
  if own_tasks.is_made(name, call):
    return name
  template = _template(name, inputs)
  text_tasks.check_num_validation(name, num_validation)
  paths = _chosen(directory, tasks)
  known = file_facts.FileFacts(name, [*paths.values()])
  made = {}
  for task, path in paths.items():
    source = InstructionSource(path, template, num_validation)
    known.learn(task, source)
    made[task] = text_tasks.TextTask(source, named_metrics.choose(task, metric_fns, None))
  known.keep()
  own_tasks.check_tasks(name, made)
  text_tasks.register(name, made, rates, task_list)
  return own_tasks.remember(name, call, 'from_natural_instructions')


class InstructionSource(text_tasks.HeldOutSource):
  """One file of Super-NaturalInstructions.

  Args:
    path: is the file.
    inputs: makes the inputs.
    num_validation: is the largest number of instances that validate.
  """

  def __init__(self, path: str, inputs: layouts.Template, num_validation: int):
    super().__init__([path], repr((inputs, num_validation)))
    self._path = path
    self._layout = layouts.Layout(inputs=inputs, targets='output')
    self._num_validation = num_validation

  @override
  def read(self) -> text_files.Examples:
    document = _document(self._path)
    shared = {
      'definition': _definition(self._path, document),
      'examples': self._shown_examples(document),
    }
    rows, left_out = [], 0
    for number, instance in enumerate(document['Instances'], start=1):
      where = f'{self._path}: instance {number}'
      if not isinstance(instance, Mapping):
        raise errors.DataError(
          f'{where}: expected an object; found {plain_json.shown(instance)}'
        )
      if not _has_text(instance.get('output')):
        left_out += 1
        continue
      inputs = self._layout.inputs_of(where, {**instance, **shared})
      rows.append((inputs, self._layout.targets_of(where, instance, None)))
    if left_out:
      logging.getLogger(__name__).warning(
        '%s: %d instances without an output are left out', self._path, left_out
      )
    if not rows:
      raise errors.DataError(f'{self._path}: expected instances; found none')
    return text_tasks.held_out(rows, self._num_validation)

  def _shown_examples(self, document: Mapping[str, Any]) -> str:
    """Returns the text of the first positive examples, each with an empty line after it."""
    text = ''
    for number, example in enumerate(document.get('Positive Examples') or [], start=1):
      if number > _SHOWN_EXAMPLES:
        break
      if not isinstance(example, Mapping) or not _has_text(example.get('output')):
        raise errors.DataError(
          f'{self._path}: positive example {number}: expected an object with input and '
          'output'
        )
      output = example['output']
      first = output[0] if isinstance(output, list) else output
      text += f'Input: {example.get("input", "")}\nOutput: {first}\n\n'
    return text


def _template(name: str, inputs: str) -> layouts.Template:
  template = layouts.Template.parse(inputs)
  if unknown := [field for field in template.columns if field not in _FIELDS]:
    raise errors.TaskError(
      f'inputs of mixture {name}: {{{unknown[0]}}} is none of '
      + ', '.join(f'{{{field}}}' for field in _FIELDS)
    )
  return template


def _chosen(directory: str, tasks: str | Sequence[str]) -> dict[str, str]:
  """Returns the files of the tasks that are chosen, by name."""
  paths = {
    text_tasks.task_name(os.path.basename(path).removesuffix('.json')): path
    for path in sorted(tf.io.gfile.glob(os.path.join(directory, '*.json')))
  }
  if not paths:
    raise errors.DataError(
      f'{directory}: expected the files of Super-NaturalInstructions, TASK.json; found none'
    )
  patterns = [tasks] if isinstance(tasks, str) else list(tasks)
  if isinstance(tasks, str) and tasks.endswith('.txt'):
    lines = file_readers.text_of(tasks).splitlines()
    patterns = [text_tasks.task_name(line.strip()) for line in lines if line.strip()]
  chosen: dict[str, str] = {}
  for pattern in patterns:
    names = [pattern] if pattern in paths else fnmatch.filter(paths, pattern)
    if not names:
      raise errors.TaskError(f'{directory} has no file of a task {pattern!r}')
    chosen |= {name: paths[name] for name in names}
  return chosen


def _document(path: str) -> Mapping[str, Any]:
  try:
    document = plain_json.parse(file_readers.text_of(path))
  except ValueError as error:
    if isinstance(error, errors.UserMistake):
      raise
    raise errors.DataError(f'{path}: expected one JSON object; {error}') from error
  if not isinstance(document, Mapping) or not isinstance(document.get('Instances'), list):
    raise errors.DataError(f'{path}: expected an object with a list Instances')
  return document


def _definition(path: str, document: Mapping[str, Any]) -> str:
  definition = document.get('Definition')
  texts: list[Any] = definition if isinstance(definition, list) else [definition]
  if not all(isinstance(text, str) for text in texts):
    raise errors.DataError(f'{path}: expected Definition to be a text or a list of texts')
  return ' '.join(texts)


def _has_text(output: Any) -> bool:
  texts = output if isinstance(output, list) and output else [output]
  return all(isinstance(text, str) and text.strip() for text in texts)
