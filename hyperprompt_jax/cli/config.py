"""`hyperprompt config`: every setting, a resolved configuration, or how two runs differ.

Without gin files it lists every macro with its flag, type, default and meaning. With gin
files and flags, as for `train`, it prints the values that they compose. With --diff it
compares two runs. Files are read as data: nothing in them is run.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import checks, macros, run_folder, static

NEEDS = ()


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb."""
  parser = arguments.Parser('config', __doc__)
  parser.add_argument(
    '--diff',
    nargs=2,
    metavar=('RUN_A', 'RUN_B'),
    help='show the settings that differ between two runs (MODEL_DIR) or gin files',
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  arguments.add_settings(parser)
  return parser.parse(words)


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt config`."""
  flags = parsed.flags
  report: dict[str, Any]
  if flags.diff:
    report = differences(*flags.diff)
    lines = [f'{name}\n  {a}\n  {b}' for name, (a, b) in report.items()]
  elif flags.gin_file or parsed.bindings:
    composed = checks.check(flags.gin_file, parsed.bindings)
    report = composed.shown()
    lines = [f'{name} = {value}' for name, value in report.items()]
  else:
    report = listing()
    lines = [
      f'{name}  {setting["flag"]}  {setting["type"]}\n  {setting["help"]}'
      for name, setting in report.items()
    ]
  print(json.dumps(report, ensure_ascii=False) if flags.json else '\n'.join(lines))


def listing() -> dict[str, dict[str, Any]]:
  """Returns the flag, type, default, range and meaning of every macro."""
  return {
    macro: {
      'flag': setting.flag,
      'type': setting.type,
      'default': setting.default,
      'required': setting.is_required,
      'range': str(setting.range) if setting.range else None,
      'meaning': setting.meaning,
      'help': setting.help,
    }
    for macro, setting in macros.described().items()
  }


def differences(one: str, other: str) -> dict[str, tuple[str | None, str | None]]:
  """Returns the values of two runs where they differ; None where one has no value.

  Args:
    one: is a MODEL_DIR, or a gin file.
    other: is the same for the other run.
  """
  sides = []
  for name in (one, other):
    composed = static.Configuration()
    composed.add_file(run_folder.config_of(name) if os.path.isdir(name) else name)
    sides.append(composed.shown())
  names = sorted({*sides[0], *sides[1]}, key=lambda name: ('.' in name, name))
  pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
  return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
