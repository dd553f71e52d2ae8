"""Progress, messages and tables in the terminal."""

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text

T = TypeVar('T')

_silent = False
# Tables of more tasks show those at both ends.
MOST_ROWS = 40
# A phase that takes no longer is not reported.
_QUIET_SECONDS = 1.0


def keep_for_results(silent: bool) -> None:
  """Keeps the output of libraries, such as Gloo's connections, off standard output.

  Args:
    silent: tells whether to show only errors. One of several hosts shows the rest.
  """
  global _silent
  _silent = silent
  sys.stdout.flush()
  nowhere = os.open(os.devnull, os.O_WRONLY)
  results = nowhere if silent else os.dup(1)
  os.dup2(nowhere, 1)
  sys.stdout = os.fdopen(results, 'w', encoding='utf-8')


def stderr_console() -> rich.console.Console:
  """Returns the console for progress and messages; standard output is for results."""
  return rich.console.Console(stderr=True, soft_wrap=True, highlight=False, quiet=_silent)


def say(text: str) -> None:
  """Prints a line on standard error, as it is."""
  stderr_console().print(rich.text.Text(text))


@contextlib.contextmanager
def phase(name: str, message: Callable[[str], None] | None = None) -> Iterator[None]:
  """Reports a phase that takes over a second: its name then, and its time at the end.

  Args:
    name: names the phase, such as 'compiling the training step'.
    message: prints a line; None prints on standard error.
  """
  message, started = message or say, time.monotonic()
  timer = threading.Timer(_QUIET_SECONDS, message, (f'{name} …',))
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()
  took = time.monotonic() - started
  if took > _QUIET_SECONDS:
    message(f'{name}: {took:.1f} s')


class Progress:
  """Training's progress: a bar in a terminal, otherwise a line for each report.

  Args:
    total_steps: is the step at which training ends.
    step: is the step at which it begins.
    enabled: tells whether this process shows its progress.
  """

  def __init__(self, total_steps: int, step: int, enabled: bool):
    self._total = total_steps
    self._console = stderr_console()
    self._mark = (time.monotonic(), step)
    self._enabled = enabled
    self._bar = None
    if enabled and self._console.is_terminal:
      self._bar = rich.progress.Progress(
        '[progress.description]{task.description}',
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        '{task.fields[note]}',
        console=self._console,
      )
      self._task = self._bar.add_task('train', total=total_steps, completed=step, note='')
      self._bar.start()

  def restart(self, step: int) -> None:
    """Leaves the time so far, such as that of compilation, out of the rates."""
    self._mark = (time.monotonic(), step)

  def pause(self) -> None:
    """Leaves the time until `resume` out of the rates."""
    self._paused = time.monotonic()

  def resume(self) -> None:
    """Ends a pause."""
    start, step = self._mark
    self._mark = (start + time.monotonic() - self._paused, step)

  def report(
    self, step: int, loss: float, examples: float, skipped: int = 0
  ) -> dict[str, float]:
    """Shows a step, and returns the rates since the last report.

    Args:
      step: is the number of steps done.
      loss: is the mean loss since the last report.
      examples: is the mean number of examples of a step.
      skipped: is the number of steps that the run has skipped so far.
    """
    now = time.monotonic()
    start, last_step = self._mark
    self._mark = (now, step)
    rate = (step - last_step) / max(now - start, 1e-9)
    remaining = (self._total - step) / rate if rate else math.inf
    note = (
      f'loss {loss:.4f}  {rate:.2f} steps/s  {rate * examples:.0f} examples/s'
      f'  ETA {duration(remaining)}'
    )
    if skipped:
      note += f'  {skipped} skipped'
    if self._bar:
      self._bar.update(self._task, completed=step, note=note)
    else:
      self.message(f'step {step}/{self._total}  {note}')
    return {'steps_per_second': rate, 'examples_per_second': rate * examples}

  def message(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    if self._enabled:
      # markup=False would also apply to the bar, which is redrawn below the line.
      self._console.print(rich.text.Text(text))

  def close(self) -> None:
    """Leaves the bar as it is."""
    if self._bar:
      self._bar.stop()


def track(items: Iterable[T], title: str, total: int | None) -> Iterable[T]:
  """Shows a progress bar in a terminal while items are taken.

  Args:
    items: are passed on, one after the other.
    title: stands before the bar.
    total: is their number; None if it is not known.
  """
  console = stderr_console()
  return rich.progress.track(
    items, title, total, console=console, disable=not console.is_terminal
  )


@contextlib.contextmanager
def track_bytes(title: str, total: int) -> Iterator[Callable[[int], None]]:
  """Shows a progress bar of bytes in a terminal; yields a function that advances it."""
  console = stderr_console()
  with rich.progress.Progress(
    '[progress.description]{task.description}',
    rich.progress.BarColumn(),
    rich.progress.DownloadColumn(),
    rich.progress.TransferSpeedColumn(),
    rich.progress.TimeRemainingColumn(),
    console=console,
    disable=not console.is_terminal,
  ) as bar:
    task = bar.add_task(title, total=total)
    yield lambda done: bar.advance(task, done)


class Stages:
  """Shows the present stage and its time: a spinner in a terminal, otherwise lines."""

  def __init__(self, console: rich.console.Console, bar: rich.progress.Progress):
    self._console = console
    self._bar = bar
    self._task: rich.progress.TaskID | None = None

  def __call__(self, stage: str) -> None:
    """Begins a stage, and ends the previous one."""
    if not self._console.is_terminal:
      self.message(stage)
      return
    if self._task is not None:
      self._bar.remove_task(self._task)
    self._task = self._bar.add_task(stage, total=None)

  def message(self, text: str) -> None:
    """Prints a line that stays."""
    self._console.print(rich.text.Text(text))


@contextlib.contextmanager
def stages() -> Iterator[Stages]:
  """Shows progress through stages of unknown length."""
  console = stderr_console()
  columns = (
    rich.progress.SpinnerColumn(),
    '[progress.description]{task.description}',
    rich.progress.TimeElapsedColumn(),
  )
  with rich.progress.Progress(
    *columns, console=console, disable=not console.is_terminal, transient=True
  ) as bar:
    yield Stages(console, bar)


def duration(seconds: float) -> str:
  """Returns hours, minutes and seconds as `1:02:03`."""
  if not math.isfinite(seconds):
    return '-'
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{rest:02d}'


def print_table(
  title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], ruled: int = 0
) -> None:
  """Prints a table on standard output; the last `ruled` rows stand below a rule."""
  table = rich.table.Table(box=rich.box.SIMPLE)
  for index, column in enumerate(columns):
    table.add_column(column, justify='right' if index else 'left', no_wrap=True)
  for index, row in enumerate(rows):
    table.add_row(*row, end_section=index == len(rows) - ruled - 1)
  console = rich.console.Console(highlight=False, file=sys.stdout)
  if not console.is_terminal:
    console.width = 160  # a file or pipe limits no width
  console.print(title)  # the table would wrap a title of its own to the table's width
  console.print(table)
