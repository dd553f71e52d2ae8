"""Fuzzes one target with one tool in its own process: `python -m tools.fuzz.worker`."""

import argparse
import dataclasses
import importlib
import json
import os
import pathlib
import sys
from typing import Any

# Modules whose coverage guides Atheris; the network and Flax would take a minute more.
_INSTRUMENTED = [
  'gin',
  'hyperprompt_jax.configuration.bindings',
  'hyperprompt_jax.checkpoints',
  'hyperprompt_jax.configuration.gin_files',
  'hyperprompt_jax.inference.questions',
  'hyperprompt_tasks',
]
# Bytes; the second is libFuzzer's limit.
_LONGEST_CASE, _LONGEST_WORD = 4_096, 64
# Files in the folder of a campaign.
LAST, FINDINGS = 'last', 'findings.json'


def main() -> None:
  """Runs the cases, and writes the findings."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('target')
  parser.add_argument('tool', choices=('hypothesis', 'atheris'))
  parser.add_argument('--cases', type=int, required=True)
  parser.add_argument('--seed', type=int, required=True)
  parser.add_argument('--folder', type=pathlib.Path, required=True)
  flags = parser.parse_args()
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  # These are imported first, without instrumentation.
  import flax
  import orbax.checkpoint
  import seqio

  del flax, orbax, seqio

  if flags.tool == 'hypothesis':
    _hypothesis(flags)
  else:
    _atheris(flags)


class _Recorder:
  """Runs cases and writes findings to disk at once, as a case may end the process."""

  def __init__(self, flags: argparse.Namespace):
    from tools.fuzz.case import Findings

    module = importlib.import_module(f'tools.fuzz.targets.{flags.target}')
    self.target = module.TARGET
    self._findings = Findings()
    self._flags = flags
    self._cases = flags.folder / 'cases'
    self._cases.mkdir()

  def __call__(self, case: bytes) -> None:
    if self._findings.cases == self._flags.cases:
      return
    (self._flags.folder / LAST).write_bytes(case)
    known = len(self._findings.faults)
    self._findings.try_case(self.target, case, self._cases)
    done = self._findings.cases
    if done % 100 == 0 or done == self._flags.cases or len(self._findings.faults) > known:
      findings = json.dumps(dataclasses.asdict(self._findings))
      (self._flags.folder / FINDINGS).write_text(findings)


def _hypothesis(flags: argparse.Namespace) -> None:
  import hypothesis

  from tools.fuzz import make_cases

  recorder = _Recorder(flags)
  decorate: Any = hypothesis.given(make_cases.cases(recorder.target))
  run = hypothesis.settings(
    max_examples=flags.cases,
    phases=[hypothesis.Phase.generate],
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )(hypothesis.seed(flags.seed)(decorate(lambda case: recorder(case))))
  run()


def _atheris(flags: argparse.Namespace) -> None:
  import atheris

  with atheris.instrument_imports(include=_INSTRUMENTED):
    recorder = _Recorder(flags)
  from tools.fuzz.case import ODD

  corpus = flags.folder / 'corpus'
  corpus.mkdir()
  for number, seed in enumerate(recorder.target.seeds):
    (corpus / f'{number:04}').write_bytes(seed)
  words = flags.folder / 'words'
  escaped = lambda word: ''.join(f'\\x{byte:02x}' for byte in word)
  short = [w for w in (*recorder.target.words, *ODD) if len(w) <= _LONGEST_WORD]
  words.write_text(''.join(f'"{escaped(word)}"\n' for word in short))
  options = [
    # Its first inputs may not be cases.
    f'-runs={flags.cases + 100}',
    f'-seed={flags.seed}',
    f'-max_len={max(_LONGEST_CASE, *map(len, recorder.target.seeds))}',
    f'-dict={words}',
    '-verbosity=0',
    '-timeout=60',
    '-rss_limit_mb=0',
  ]
  atheris.Setup([sys.argv[0], *options, str(corpus)], recorder)
  atheris.Fuzz()


if __name__ == '__main__':
  main()
