"""The input of `hyperprompt infer`: an example for every line, or an error."""

import json
import pathlib

from hyperprompt_jax.inference.questions import QuestionFile
from tools.fuzz.case import Target

SEEDS = (
  b'{"task": "copy", "inputs": "a"}',
  b'{"task": "copy", "inputs": "\xc3\xa9"}\n\n{"task": "last", "inputs": "", "id": 3}\r\n',
)
TASKS = ('copy', 'last', 'max')


def _run(case: bytes, folder: pathlib.Path) -> None:
  path = folder / 'questions.jsonl'
  path.write_bytes(case)
  records = list(QuestionFile(str(path), TASKS).read())
  assert len(records) == len([line for line in case.split(b'\n') if line.strip()])
  for record in records:
    assert record['task'] in TASKS and isinstance(record['inputs'], str)
    written = json.dumps(record, ensure_ascii=False).encode()
    json.loads(written, parse_constant=_refuse)


def _refuse(name: str) -> None:
  raise ValueError(f'{name} is no JSON')


TARGET = Target(SEEDS, _run, (b'"task"', b'"inputs"'), is_json=True)
