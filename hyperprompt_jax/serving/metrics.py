"""Counters, gauges and histograms of a server, in the text format of Prometheus."""

import bisect
import collections
import threading
from collections.abc import Callable, Mapping, Sequence

CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_PREFIX = 'hyperprompt_'


class Metrics:
  """Collects numbers from several threads."""

  def __init__(self):
    self._lock = threading.Lock()
    self._counters: dict[str, collections.Counter[str]] = {}
    self._histograms: dict[str, tuple[Sequence[float], dict[str, list[float]]]] = {}
    self._gauges: dict[str, Callable[[], float]] = {}
    self._help: dict[str, str] = {}

  def describe(self, name: str, text: str) -> None:
    """Declares a counter.

    Args:
      name: names it, without the prefix of all names.
      text: describes the number.
    """
    self._help[name] = text
    self._counters[name] = collections.Counter()

  def describe_histogram(self, name: str, text: str, bounds: Sequence[float]) -> None:
    """Declares a histogram.

    Args:
      name: names it, without the prefix of all names.
      text: describes the measurement.
      bounds: are the upper bounds of its buckets.
    """
    self._help[name] = text
    self._histograms[name] = (bounds, {})

  def describe_gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
    """Declares a gauge.

    Args:
      name: names it, without the prefix of all names.
      text: describes the value.
      read: returns its value.
    """
    self._help[name] = text
    self._gauges[name] = read

  def add(self, name: str, labels: Mapping[str, str] | None = None, by: float = 1) -> None:
    """Adds to a counter.

    Args:
      name: names a declared counter.
      labels: are the labels of the series.
      by: is the number to add.
    """
    with self._lock:
      self._counters[name][_labels(labels or {})] += by  # type: ignore[assignment]

  def observe(
    self, name: str, value: float, labels: Mapping[str, str] | None = None
  ) -> None:
    """Adds a value to a histogram.

    Args:
      name: names a declared histogram.
      value: is the value.
      labels: are the labels of the series.
    """
    with self._lock:
      bounds, series = self._histograms[name]
      # The counts of the buckets, and the sum of all values.
      counts = series.setdefault(_labels(labels or {}), [0.0] * (len(bounds) + 2))
      counts[bisect.bisect_left(bounds, value)] += 1
      counts[-1] += value

  def total(self, name: str) -> float:
    """Returns the sum of all series of a counter."""
    with self._lock:
      return sum(self._counters[name].values())

  def text(self) -> str:
    """Returns all numbers."""
    lines = []
    with self._lock:
      for name, counts in self._counters.items():
        lines += self._head(name, 'counter')
        lines += [f'{_PREFIX}{name}{_braced(key)} {n:.12g}' for key, n in counts.items()]
      for name, (bounds, series) in self._histograms.items():
        lines += self._head(name, 'histogram')
        for key, values in series.items():
          lines += _buckets(_PREFIX + name, key, bounds, values)
    for name, read in self._gauges.items():
      lines += [*self._head(name, 'gauge'), f'{_PREFIX}{name} {read():.12g}']
    return '\n'.join(lines) + '\n'

  def _head(self, name: str, kind: str) -> list[str]:
    full = _PREFIX + name
    return [f'# HELP {full} {self._help[name]}', f'# TYPE {full} {kind}']


def _buckets(
  name: str, key: str, bounds: Sequence[float], values: Sequence[float]
) -> list[str]:
  """Returns the lines of one series of a histogram, whose buckets are cumulative."""
  *counts, total = values
  lines, number = [], 0.0
  for bound, count in zip([*map('{:g}'.format, bounds), '+Inf'], counts, strict=True):
    number += count
    inner = ','.join(filter(None, [key, f'le="{bound}"']))
    lines.append(f'{name}_bucket{{{inner}}} {number:.12g}')
  lines.append(f'{name}_sum{_braced(key)} {total:.12g}')
  lines.append(f'{name}_count{_braced(key)} {number:.12g}')
  return lines


def _labels(labels: Mapping[str, str]) -> str:
  escape = lambda text: text.replace('\\', r'\\').replace('"', r'\"').replace('\n', r'\n')
  return ','.join(f'{name}="{escape(value)}"' for name, value in labels.items())


def _braced(key: str) -> str:
  return f'{{{key}}}' if key else ''


def resident_bytes() -> float:
  """Returns the memory that this process holds; 0 where the system does not tell."""
  try:
    with open('/proc/self/statm', encoding='ascii') as file:
      pages = int(file.read().split()[1])
  except OSError:
    return 0
  import resource

  return float(pages * resource.getpagesize())
