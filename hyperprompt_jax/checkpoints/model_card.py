"""The model card of an exported run: a README in the form that model hubs show."""

import pathlib
from collections.abc import Mapping
from typing import Any

from hyperprompt_jax.checkpoints.lazy import LazyArray
from hyperprompt_jax.configuration.recorded import RecordedRun

FILE = 'README.md'
# The names of a method's parameters, in the paths of each format.
_OF_METHOD = ('method/', 'conditioning/')
# The library that loads each format.
OURS, TRANSFORMERS, JAX = 'hyperprompt_jax', 'transformers', 'jax'


def write(
  folder: pathlib.Path,
  record: RecordedRun,
  arrays: Mapping[str, LazyArray],
  license_name: str,
  library: str = OURS,
) -> None:
  """Writes a model card into a folder; the other arguments are those of `text`."""
  card = text(record, arrays, license_name, library)
  (folder / FILE).write_text(card, encoding='utf-8')


def text(
  record: RecordedRun,
  arrays: Mapping[str, LazyArray],
  license_name: str,
  library: str = OURS,
) -> str:
  """Returns the text of a model card.

  Args:
    record: is the record of the run: network, method, tasks and settings.
    arrays: are the exported parameters by path.
    license_name: is the licence that the card names.
    library: is the library that loads them.
  """
  method = record.network['METHOD']
  size = lambda items: sum(a.nbytes // a.dtype.itemsize for a in items)
  total = size(arrays.values())
  added = size(a for path, a in arrays.items() if path.startswith(_OF_METHOD))
  lengths = record.lengths
  lines = [
    '---',
    f'license: {_plain(license_name)}',
    f'library_name: {library}',
    'pipeline_tag: text2text-generation',
    'tags:',
    '- t5',
    '- multi-task',
    '---',
    '',
    f'# A T5 with {method}, for {len(record.task_list)} tasks',
    '',
    f'Trained for {record.trained["step"]:,} steps on the mixture '
    f'`{_plain(record.settings["MIXTURE_OR_TASK_NAME"])}` with hyperprompt_jax. It has '
    f'{total:,} parameters, of which the method adds {added:,}. Inputs have at most '
    f'{lengths["inputs"]} tokens, and answers {lengths["targets"]}.',
    '',
    '## Use',
    '',
    '```python',
    *_use(library, _plain(record.task_list[0]), added > 0),
    '```',
    '',
    '## Tasks and scores',
    '',
    *_tasks(record),
    '',
    '## Configuration',
    '',
    '| name | value |',
    '| --- | --- |',
    *(
      f'| `{name}` | `{_plain(value)}` |'
      for name, value in sorted({**record.network, **record.settings}.items())
    ),
  ]
  return '\n'.join(lines) + '\n'


# Greedy decoding by the programs of `checkpoints.stablehlo`.
_OF_JAX = """\
import json
import pathlib

import jax
import numpy as np
from jax import export

folder = pathlib.Path('FOLDER')
manifest = json.loads((folder / 'manifest.json').read_text())
weights = {
  name: jax.device_put(np.load(folder / entry['file']).view(entry['dtype']))
  for name, entry in manifest['weights'].items()
}
programs = {
  name: jax.jit(export.deserialize((folder / entry['file']).read_bytes()).call)
  for name, entry in manifest['programs'].items()
}
inputs = np.array([[101, 32, 117, 1, 0]], np.int32)  # tokens, the end of the text, padding
tasks = np.array([manifest['tasks'].index(TASK)], np.int32)
encoded = programs['encode'](weights, inputs, tasks)
cache = programs['start_decoding'](weights, encoded, tasks)
tokens, answers = np.zeros(1, np.int32), []
for position in range(manifest['lengths']['targets']):
  logits, cache = programs['decode_step'](
    weights, encoded, tokens, tasks, cache, np.int32(position)
  )
  tokens = np.asarray(logits.argmax(axis=1), np.int32)
  answers.append(tokens)  # of a row, those after manifest['eos_id'] mean nothing"""


def _use(library: str, task: str, has_prompts: bool) -> list[str]:
  """Returns the code that loads a model and answers.

  Args:
    library: is the library that loads it.
    task: names a task.
    has_prompts: tells whether a model of Transformers takes tasks.
  """
  if library == JAX:
    return _OF_JAX.replace('TASK', repr(task)).splitlines()
  if library == OURS:
    return [
      'import hyperprompt_jax',
      '',
      "model = hyperprompt_jax.load('FOLDER')",
      f'answers = model.predict({task!r}, ["a text"])',
    ]
  trust = ', trust_remote_code=True' if has_prompts else ''
  choice = f', task={task!r}' if has_prompts else ''
  return [
    'from transformers import AutoModelForSeq2SeqLM, AutoTokenizer',
    '',
    f"tokenizer = AutoTokenizer.from_pretrained('FOLDER'{trust})",
    f"model = AutoModelForSeq2SeqLM.from_pretrained('FOLDER'{trust})",
    'inputs = tokenizer(["a text"], return_tensors="pt", padding=True)',
    f'tokens = model.generate(**inputs{choice})',
    'answers = tokenizer.batch_decode(tokens, skip_special_tokens=True)',
  ]


def _tasks(record: RecordedRun) -> list[str]:
  scores = record.trained.get('scores', {})
  show = lambda name: f'{scores[name]:.2f}' if name in scores else '-'
  rows = ['| task | labels | validation score (x 100) |', '| --- | --- | --- |']
  for task in record.task_list:
    labels = record.labels(task)
    named = ', '.join(map(_plain, labels)) if labels else 'any text'
    rows.append(f'| {_plain(task)} | {named} | {show(task)} |')
  return [*rows, f'| average | | {show("average")} |']


def _plain(value: Any) -> str:
  """Returns a value in one line that breaks no table."""
  line = ''.join(c if c.isprintable() else ' ' for c in str(value))
  return line.replace('|', '/').replace('`', "'")
