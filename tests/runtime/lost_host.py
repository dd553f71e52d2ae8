"""A verb that does nothing but meet another host, which is killed at some moment.

Apart from test_distributed.py, as each process that runs it would import all of that.
"""

import argparse
import os
import signal
import sys
import types

from hyperprompt_jax import cli
from hyperprompt_jax.cli import arguments
from hyperprompt_jax.runtime import distributed


def run(when: str, *meet: str) -> None:
  """Runs one of two hosts: both meet and wait for each other; the second is killed.

  Args:
    when: names the moment, 'the start', 'a save' or 'the end'.
    *meet: are flags of `distributed.start`; the last is `--process_index`.
  """

  def parse(words):
    parser = argparse.ArgumentParser()
    arguments.add_hosts(parser)
    return parser.parse_args(words, argparse.Namespace(needs=()))

  def verb(flags):
    lose_at('the start')
    distributed.start(flags)
    distributed.wait_for_all('both are here')
    distributed.wait_until_all(lambda: lose_at('a save') or when != 'a save')
    lose_at('the end')

  def lose_at(moment):
    if when == moment and meet[-1].endswith('=1'):
      os.kill(os.getpid(), signal.SIGKILL)

  sys.modules['hyperprompt_jax.cli.train'] = types.SimpleNamespace(
    NEEDS=(), parse=parse, run=verb
  )
  sys.exit(cli.main(['train', '--meet_seconds=4', *meet]))
