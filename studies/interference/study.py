"""Runs the interference study: every run that results.jsonl does not hold yet.

    python -m studies.interference.study            (make study)

Each run has a core of its own, and is one line of the results, with its configuration and
seed, when it is done; what is cut off is done again. `report.py` makes docs/study.md of
them.
"""

import dataclasses
import json
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any


def _work(core: int, waiting: Any, finished: Any) -> None:
  """One worker: takes seeds of one configuration after another, on its own core."""
  os.sched_setaffinity(0, {core})
  # However the study ends: no run goes on that nobody waits for.
  threading.Thread(target=_end_with_parent, daemon=True).start()
  from hyperprompt_jax.runtime import libtpu
  from studies.interference import experiment

  libtpu.prepare()
  while (group := waiting.get()) is not None:
    for one in group:
      finished.put(experiment.run(one))


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)


def _next(finished: Any, workers: Sequence[Any]) -> dict[str, Any]:
  """The next record; ends the program if a worker has ended without it."""
  while True:
    try:
      return finished.get(timeout=10)
    except queue.Empty:
      if any(worker.exitcode for worker in workers):
        raise SystemExit('a run has failed, see above; start again to go on') from None


def main() -> None:
  """Runs what is missing."""
  # Before JAX is loaded, here and in the workers.
  os.environ['JAX_PLATFORMS'] = 'cpu'
  os.environ['XLA_FLAGS'] = '--xla_cpu_multi_thread_eigen=false'
  os.environ['JAX_COMPILATION_CACHE_DIR'] = os.path.expanduser('~/.cache/hyperprompt_study')
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  from studies.interference import design, results
  from studies.interference.experiment import Experiment

  results.mend()
  known = {Experiment(**record['experiment']) for record in results.read()}
  groups = [[one for one in group if one not in known] for group in design.groups()]
  count = sum(map(len, groups))
  context = multiprocessing.get_context('spawn')
  waiting, finished = context.Queue(), context.Queue()
  cores = sorted(os.sched_getaffinity(0))
  for group in (*filter(None, groups), *(None for _ in cores)):
    waiting.put(group)
  workers = [
    context.Process(target=_work, args=(core, waiting, finished), daemon=True)
    for core in cores
  ]
  for worker in workers:
    worker.start()
  start = time.monotonic()
  for number in range(1, count + 1):
    record = _next(finished, workers)
    with results.PATH.open('a', encoding='utf-8') as file:
      file.write(json.dumps(record) + '\n')
    score = sum(record['token_accuracy']) / len(record['token_accuracy'])
    changed = {
      field.name: record['experiment'][field.name]
      for field in dataclasses.fields(Experiment)
      if record['experiment'][field.name] != field.default
    }
    left = (time.monotonic() - start) / number * (count - number)
    print(
      f'{number}/{count}  token accuracy {score:.3f}  {changed}  '
      f'{record["seconds"]:.0f} s; {left / 60:.0f} min left',
      flush=True,
    )
  for worker in workers:
    worker.join()


if __name__ == '__main__':
  main()
