"""The model card of an exported run: a README in the form that model hubs show."""

from collections.abc import Mapping
from typing import Any

from hyperprompt_jax.checkpoints.lazy import LazyArray
from hyperprompt_jax.configuration.recorded import RecordedRun

FILE = 'README.md'
_METHOD_PREFIX = 'method/'
# The libraries that load what a card describes.
OURS, TRANSFORMERS = 'hyperprompt_jax', 'transformers'


def text(
  record: RecordedRun,
  arrays: Mapping[str, LazyArray],
  license_name: str,
  library: str = OURS,
) -> str:
  """Returns the text of a model card.

  Args:
    record: is the record of the run, with what was trained.
    arrays: are the exported parameters by path.
    license_name: is the licence that the card names.
    library: is the library that loads them.
  """
  method = record.network['METHOD']
  size = lambda items: sum(a.nbytes // a.dtype.itemsize for a in items)
  total = size(arrays.values())
  added = size(a for path, a in arrays.items() if path.startswith(_METHOD_PREFIX))
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
    *(_use_ours(record) if library == OURS else _use_transformers(record, added > 0)),
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


def _use_ours(record: RecordedRun) -> list[str]:
  return [
    'import hyperprompt_jax',
    '',
    "model = hyperprompt_jax.load('FOLDER')",
    f'answers = model.predict({_plain(record.task_list[0])!r}, ["a text"])',
  ]


def _use_transformers(record: RecordedRun, prompted: bool) -> list[str]:
  """Returns the code for Transformers, to which a model with prompts brings its own."""
  trust = ', trust_remote_code=True' if prompted else ''
  task = f', task={_plain(record.task_list[0])!r}' if prompted else ''
  return [
    'from transformers import AutoModelForSeq2SeqLM, AutoTokenizer',
    '',
    "tokenizer = AutoTokenizer.from_pretrained('FOLDER')",
    f"model = AutoModelForSeq2SeqLM.from_pretrained('FOLDER'{trust})",
    'inputs = tokenizer(["a text"], return_tensors="pt", padding=True)',
    f'tokens = model.generate(**inputs{task})',
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
