"""The throughput of `hyperprompt serve`, and an attack on it.

  python -m benchmarks.serving --size=small
  python -m benchmarks.serving --size=small --transformers=/path/to/python [--onnx=int8]
  python -m benchmarks.serving --attack

The parameters are random, in a bundle that this program writes. The first command compares
64 concurrent clients, whose questions are of eight tasks, with one client that asks one
question after another, through the same server; their turns alternate. Seconds are those of
the wall, and the CPU seconds (user and system) of the server, which depend little on the
other work of the machine. `--transformers` names a Python with torch and transformers: the
same network, exported, then answers behind the same server by Transformers' `generate`, and
64 clients ask both in turns. With `--onnx=float32` or int8, our server answers with an
export to ONNX Runtime. `--attack` sends 10,000 questions beside clients that hang, go
away, or send nonsense; compares every answer with that of a quiet server; and ends the
server under load.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import serving_client
from benchmarks.answering import PRECISIONS, exported, write_bundle
from benchmarks.serving_client import Client, Server

CLIENTS = 64
TASKS = 8
LENGTHS = '--lengths=64,16'
_LARGE = 10_000_000


def question(number: int) -> dict[str, Any]:
  """Returns a question; there are 64 different ones, of eight tasks."""
  number %= 64
  text = f'question {number}: ' + 'is it? ' * (2 + number % 5)
  return {'task': f'task_{number % TASKS}', 'inputs': text}


async def warm_up(server: Server, batch_size: int) -> None:
  """Has the programs compiled that the questions need: two lengths, of 32 and 64 tokens."""
  client, rows = Client(server.port), 1
  while rows <= batch_size:
    for number in (0, 4):
      questions = [question(number)] * rows
      status, value = await client.ask('/v1/predict', {'questions': questions})
      assert status == 200, value
    rows *= 2
  client.close()


async def measure(server: Server, clients: int, number: int) -> dict[str, Any]:
  """Asks questions from several clients, each of which waits for its answers.

  Args:
    server: is the server.
    clients: is the number of clients.
    number: is the number of questions of all clients.
  """
  numbers, seconds = iter(range(number)), []

  async def ask() -> None:
    client = Client(server.port)
    for n in numbers:
      started = time.perf_counter()
      status, value = await client.ask('/v1/predict', question(n))
      assert status == 200, value
      seconds.append(time.perf_counter() - started)
    client.close()

  cpu, started = server.cpu_seconds(), time.perf_counter()
  await asyncio.gather(*(ask() for _ in range(clients)))
  wall = time.perf_counter() - started
  return {
    'wall': wall / number,
    'cpu': (server.cpu_seconds() - cpu) / number,
    'seconds': seconds,
  }


async def throughput(folder: pathlib.Path, flags: argparse.Namespace) -> dict[str, Any]:
  """Compares many clients with one."""
  turns: dict[str, list[dict[str, Any]]] = {'one client': [], f'{CLIENTS} clients': []}
  with serving_client.running(_words(folder, flags), folder.parent / 'log') as server:
    await server.wait()
    await warm_up(server, flags.batch_size)
    for _ in range(flags.turns):
      one, many = turns.values()
      one.append(await measure(server, 1, max(1, flags.requests // 8)))
      many.append(await measure(server, CLIENTS, flags.requests))
    server.terminate()
    assert await server.ended() == 0
  return {name: summary(measured) for name, measured in turns.items()}


def _words(folder: pathlib.Path, flags: argparse.Namespace) -> list[str]:
  given = (LENGTHS, f'--batch_size={flags.batch_size}', '--compile=none', '--timeout=600')
  return serving_client.command(folder, *given)


async def beside_transformers(
  folder: pathlib.Path, served: pathlib.Path, flags: argparse.Namespace
) -> dict[str, Any]:
  """Compares our server with Transformers' `generate` behind the same code.

  Each size of batches of `--their_batch_sizes` has a server of its own.

  Args:
    folder: is the bundle, which they answer with.
    served: is the folder that we answer with.
    flags: are the command's.
  """
  theirs = folder.with_name('theirs')
  words = [sys.executable, '-m', 'hyperprompt_jax', 'convert', f'--input={folder}']
  words += [f'--output={theirs}', '--to=huggingface']
  subprocess.run(words, check=True, stdout=sys.stderr)
  serve = [flags.transformers, '-m', 'benchmarks.serving_transformers', folder, theirs]
  commands = {'ours': _words(served, flags)}
  for size in flags.their_batch_sizes:
    commands[f'Transformers, batches of {size}'] = [*serve, f'--batch_size={size}']
  turns: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
  with contextlib.ExitStack() as stack:
    servers = {
      name: stack.enter_context(serving_client.running(command, folder.with_name(name)))
      for name, command in commands.items()
    }
    for server in servers.values():
      await server.wait()
    await warm_up(servers['ours'], flags.batch_size)
    answers = [await texts(server) for server in servers.values()]
    if flags.onnx != 'int8':  # which rounds, and answers otherwise
      assert all(other == answers[0] for other in answers), answers
    for _ in range(flags.turns):
      for name, server in servers.items():
        turns[name].append(await measure(server, CLIENTS, flags.requests))
  return {name: summary(measured) for name, measured in turns.items()}


async def texts(server: Server) -> list[str]:
  """Returns the answers to eight questions, each asked by itself."""
  client = Client(server.port)
  replies = [await client.ask('/v1/predict', question(n)) for n in range(TASKS)]
  client.close()
  return [value['answers'][0]['text'] for _, value in replies]


def summary(measured: list[dict[str, Any]]) -> dict[str, float]:
  """Returns the medians over turns, and the latencies of all requests."""
  seconds = sorted(second for turn in measured for second in turn['seconds'])
  at = lambda share: seconds[min(len(seconds) - 1, int(share * len(seconds)))]
  return {
    'questions': len(seconds),
    'wall seconds a question': statistics.median(turn['wall'] for turn in measured),
    'CPU seconds a question': statistics.median(turn['cpu'] for turn in measured),
    'p50': at(0.5),
    'p99': at(0.99),
  }


class Attack:
  """An attack on a server, and the counts of its responses.

  Args:
    server: is the server.
    number: is the number of questions that are to be answered.
  """

  def __init__(self, server: Server, number: int):
    self._server = server
    self._number = number
    self._expected: list[Any] = []
    self._over = False
    self.counts: dict[str, int] = {}

  def _count(self, name: str) -> None:
    self.counts[name] = self.counts.get(name, 0) + 1

  async def run(self) -> dict[str, Any]:
    """Attacks the server, and ends it under load."""
    client = Client(self._server.port)
    for n in range(64):
      _, value = await client.ask('/v1/predict', question(n))
      self._expected.append(value['answers'][0])
    client.close()
    memory = {'at the start': self._server.megabytes()}
    villains = [asyncio.ensure_future(work()) for work in self._villains()]
    for part in range(4):
      bounds = (self._number * part // 4, self._number * (part + 1) // 4)
      numbers = iter(range(*bounds))
      await asyncio.gather(*(self._ask(numbers) for _ in range(CLIENTS)))
      memory[f'after {bounds[1]} questions'] = self._server.megabytes()
    self._over = True
    await asyncio.gather(*villains)
    before, right = await self._answered(), self.counts['right']
    endless = iter(range(10**9))
    asking = [asyncio.ensure_future(self._ask(endless)) for _ in range(CLIENTS)]
    await asyncio.sleep(2)
    self._server.terminate()
    await asyncio.gather(*asking)
    status = await self._server.ended()
    closing = self._server.log().splitlines()[-1]
    answered = int(re.findall(r'(\d+) questions answered', closing)[0])
    received = self.counts['right'] - right
    return {
      'responses': dict(sorted(self.counts.items())),
      'under load at the end': {
        'answered by the server': answered - before,
        'received': received,
      },
      'megabytes': memory,
      'status': status,
      'closing line': closing,
    }

  async def _answered(self) -> int:
    """Returns the number of questions that the server has answered."""
    client = Client(self._server.port)
    _, text = await client.ask('/metrics')
    client.close()
    counts = re.findall(r'^hyperprompt_questions_total\S* (\d+)$', text, re.MULTILINE)
    return sum(map(int, counts))

  async def _ask(self, numbers: Any) -> None:
    """Asks questions until there are no more, or the server has ended."""
    client = Client(self._server.port)
    for n in numbers:
      while True:
        try:
          status, value = await client.ask('/v1/predict', question(n))
        except OSError:
          self._count('refused at the end' if self._over else 'lost')
          return
        if status != 429 and (status != 503 or self._over):
          break
        self._count(f'{status}, asked again')
        await asyncio.sleep(0.05)
      if status == 503 and self._over:
        self._count('refused at the end')
      elif status != 200:
        self._count(f'unexpected {status}')
      else:
        self._count('right' if self._is_right(n, value) else 'wrong')
    client.close()

  def _is_right(self, n: int, value: Any) -> bool:
    (answer,) = value['answers']
    expected = self._expected[n % 64]
    close = abs(answer['log_likelihood'] - expected['log_likelihood']) < 1e-4
    return close and (answer['text'], answer['task']) == (
      expected['text'],
      expected['task'],
    )

  def _villains(self) -> list[Any]:
    nonsense = {
      'unknown task': ({'task': 'task_99', 'inputs': 'x'}, 422),
      'no JSON': (b'{"task": ', 400),
      'no text': ({'task': 'task_0', 'inputs': 7}, 422),
      '10 MB': ({'task': 'task_0', 'inputs': 'x' * _LARGE}, 413),
    }
    loops: list[Any] = []
    for name, (body, status) in nonsense.items():
      loops.append(lambda name=name, body=body, s=status: self._nonsense(name, body, s))
    message = serving_client.request('/v1/predict', question(0))
    loops += [lambda: self._hang('half a header', message[:40], None)] * 4
    loops += [lambda: self._hang('half a body', message[:-20], 408)] * 4
    loops += [lambda: self._leave(message)] * 4
    return loops

  async def _nonsense(self, name: str, body: Any, expected: int) -> None:
    raw = serving_client.request('/v1/predict', body)
    client = Client(self._server.port)
    while not self._over:
      try:
        await client.send(raw)
        status = (await client.response())[0]
      except ConnectionError:
        client.close()
        status = 408
      # Ten megabytes may take longer than a body may; 503 is of too many connections.
      right = status in (expected, 503) or (len(raw) > _LARGE and status == 408)
      self._count(f'{name}: {status}' if right else f'unexpected {status}')
      await asyncio.sleep(0.1)
    client.close()

  async def _hang(self, name: str, data: bytes, expected: int | None) -> None:
    """Sends a part of a request, and waits until the server has had enough."""
    while not self._over:
      client = Client(self._server.port)
      await client.send(data)
      try:
        status: Any = (await asyncio.wait_for(client.response(), 60))[0]
      except ConnectionError:
        status = None
      except TimeoutError:
        status = 'never ended'
      right = status == expected
      self._count(f'{name}: {status or "closed"}' if right else f'unexpected {status}')
      client.close()

  async def _leave(self, data: bytes) -> None:
    """Sends a question, and goes away before its answer."""
    while not self._over:
      client = Client(self._server.port)
      await client.send(data)
      client.close()
      self._count('left at once')
      await asyncio.sleep(0.1)


async def attack(folder: pathlib.Path, number: int) -> dict[str, Any]:
  """Attacks a server of a bundle."""
  given = (LENGTHS, '--compile=none', '--timeout=300', '--queue=48', '--body_timeout=3')
  words = serving_client.command(folder, *given)
  with serving_client.running(words, folder.parent / 'log') as server:
    await server.wait()
    await warm_up(server, 16)
    return await Attack(server, number).run()


def main() -> None:
  """Prints one JSON object."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', default='tiny', help='a file of gin/models')
  parser.add_argument('--attack', action='store_true', help='attack, and measure no speed')
  parser.add_argument('--transformers', metavar='PYTHON', help='compare with Transformers')
  parser.add_argument('--their_batch_sizes', type=int, nargs='+', default=[16, 32])
  parser.add_argument('--requests', type=int, help='questions of each turn, or in all')
  parser.add_argument('--turns', type=int, default=3)
  parser.add_argument('--batch_size', type=int, default=16)
  parser.add_argument('--onnx', choices=PRECISIONS, help='answer with such an export')
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary) / 'bundle'
    os.environ.setdefault('XDG_CACHE_HOME', temporary)
    write_bundle(folder, flags.size)
    served = exported(folder, flags.onnx)
    if flags.attack:
      report = asyncio.run(attack(served, flags.requests or 10_000))
    elif flags.transformers:
      flags.requests = flags.requests or 512
      report = asyncio.run(beside_transformers(folder, served, flags))
      ours, *theirs = report.values()
      for unit in ('wall', 'CPU'):
        name = f'{unit} seconds a question'
        report[f'{unit}: the best of Transformers / ours'] = (
          min(other[name] for other in theirs) / ours[name]
        )
    else:
      flags.requests = flags.requests or 512
      report = asyncio.run(throughput(served, flags))
      one, many = report.values()
      for unit in ('wall', 'CPU'):
        name = f'{unit} seconds a question'
        report[f'{unit}: one client / {CLIENTS} clients'] = one[name] / many[name]
  print(json.dumps({'size': flags.size, **report}, indent=1))


if __name__ == '__main__':
  main()
