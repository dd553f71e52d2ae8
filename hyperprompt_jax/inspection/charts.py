"""Line charts as SVG elements, for a page that needs neither scripts nor files."""

import html
import math
from collections.abc import Callable, Mapping, Sequence

# Okabe and Ito's colours, which colour-blind people tell apart; dashes differ besides.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_DASHES = ('', '6 3', '2 2', '8 3 2 3')
_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 48
# More points than this cannot be told apart on a screen.
_MOST_POINTS = 500

Points = Sequence[tuple[float, float]]
Scale = Callable[[float], float]


def line_chart(series: Mapping[str, Points], label: str) -> str:
  """Returns a chart of values over steps with its legend, as HTML.

  Args:
    series: holds the points (step, value) of each line, by name; values that are not
      finite are left out.
    label: names the values.
  """
  lines = {
    name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()
  }
  points = [point for line in lines.values() for point in line]
  if not points:
    return '<p>There are no values.</p>'
  x_ticks = _ticks(0, max(x for x, _ in points))
  y_ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
  to_x = _scale(x_ticks, _LEFT, _WIDTH - _RIGHT)
  to_y = _scale(y_ticks, _HEIGHT - _BOTTOM, _TOP)
  drawn = ''.join(
    _line([(to_x(x), to_y(y)) for x, y in _thinned(line)], number)
    for number, line in enumerate(lines.values())
    if line
  )
  return (
    f'<figure><figcaption>{html.escape(label)}</figcaption>'
    f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    f'aria-label="{html.escape(label)} over steps">'
    f'{_axes(x_ticks, y_ticks, to_x, to_y)}{drawn}</svg>{_legend(lines)}</figure>'
  )


def _axes(
  x_ticks: Sequence[float], y_ticks: Sequence[float], to_x: Scale, to_y: Scale
) -> str:
  """Returns the numbers of both axes, and a line across at each value."""
  right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
  parts = [
    f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{to_y(y):.1f}" y2="{to_y(y):.1f}"/>'
    f'<text x="{_LEFT - 6}" y="{to_y(y) + 4:.1f}" text-anchor="end">{y:,g}</text>'
    for y in y_ticks
  ]
  parts += [
    f'<text x="{to_x(x):.1f}" y="{bottom + 18}" text-anchor="middle">{x:,g}</text>'
    for x in x_ticks
  ]
  middle = (_LEFT + right) / 2
  parts.append(f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">step</text>')
  return ''.join(parts)


def _line(points: Points, number: int) -> str:
  """Returns a line through coordinates; a single point is a dot."""
  colour = COLOURS[number % len(COLOURS)]
  if len(points) == 1:
    ((x, y),) = points
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
  path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
  return f'<polyline points="{path}" stroke="{colour}" stroke-dasharray="{_dash(number)}"/>'


def _legend(names: Mapping[str, Points]) -> str:
  """Returns the names of lines, each with a sample of its line."""
  items = [
    f'<li><svg viewBox="0 0 30 8" width="30" height="8"><line x1="0" x2="30" y1="4" y2="4" '
    f'stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="2" '
    f'stroke-dasharray="{_dash(number)}"/></svg>{html.escape(name)}</li>'
    for number, name in enumerate(names)
  ]
  return f'<ul class="legend">{"".join(items)}</ul>'


def _dash(number: int) -> str:
  return _DASHES[number // len(COLOURS) % len(_DASHES)]


def _thinned(line: Points) -> Points:
  """Returns at most about `_MOST_POINTS` of the points, the last among them."""
  stride = -(-len(line) // _MOST_POINTS)
  return [*line[:-1:stride], line[-1]]


def _scale(ticks: Sequence[float], begin: float, end: float) -> Scale:
  """Returns the function from values to coordinates; the ticks span the range."""
  low, high = ticks[0], ticks[-1]
  return lambda value: begin + (end - begin) * (value - low) / (high - low)


def _ticks(low: float, high: float) -> list[float]:
  """Returns about five round numbers that span a range."""
  if low == high:
    low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
  power = 10.0 ** math.floor(math.log10((high - low) / 4))
  step = next(k * power for k in (1, 2, 5, 10) if k * power * 5 >= high - low)
  first, last = math.floor(low / step), math.ceil(high / step)
  return [round(k * step, 12) for k in range(first, last + 1)]
