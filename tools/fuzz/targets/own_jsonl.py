"""JSON Lines of one's own tasks: an example for every line, or an error."""

import pathlib

from hyperprompt_tasks import text_files
from tools.fuzz.case import Target

SEEDS = (
  b'{"inputs": "a", "targets": "b"}',
  b'{"inputs": "one", "targets": "yes", "id": 3}\n\n{"inputs": "two", "targets": "no"}\n',
  b'{"inputs": "two", "targets": ["no", 0.5]}\n{"inputs": 1, "targets": ["a"]}\n',
  '\ufeff{"inputs": "\u00e9\\n", "targets": "b", "more": [1, {"a": null}]}\r\n'.encode(),
)


def _run(case: bytes, folder: pathlib.Path) -> None:
  path = folder / 'train.jsonl'
  path.write_bytes(case)
  columns = text_files.TextFileSource({'train': str(path)}).columns('train')
  lines = [line for line in case.decode('utf-8-sig').split('\n') if line.strip()]
  # Targets with several references are ragged, and have no len().
  assert {column.shape[0] for column in columns.values()} == {len(lines)}


TARGET = Target(SEEDS, _run, (b'"inputs"', b'"targets"'), is_json=True)
