"""The study's pictures: Okabe and Ito's colours, and lines that differ in grey, too."""

import pathlib
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np

from studies.interference.results import half_width

matplotlib.use('Agg')

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = (
  *('#0072B2', '#D55E00', '#009E73', '#CC79A7'),
  *('#56B4E9', '#E69F00', '#000000', '#999999'),
)
LINES, MARKERS = ('-', '--', '-.', ':'), 'osD^v<>P'
SETTINGS = {'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False}

# Of each label: what every seed gave.
Values = Mapping[str, np.ndarray]


def save(path: pathlib.Path, draw: Callable[[], Figure]) -> None:
  """Writes what `draw` draws as PNG; the same numbers make the same bytes."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with plt.rc_context(SETTINGS):
    figure = draw()
    figure.savefig(path, dpi=150, metadata={'Software': None})
  plt.close(figure)


def intervals(differences: Values, label: str) -> Figure:
  """A line for each name: its seeds, their mean and interval, and zero."""
  figure, axis = plt.subplots(
    figsize=(6.5, 0.7 + 0.3 * len(differences)), layout='constrained'
  )
  places = np.arange(len(differences))[::-1]
  for place, values in zip(places, differences.values(), strict=True):
    axis.plot(values, np.full(len(values), place - 0.2), '|', color='0.6', markersize=5)
    axis.errorbar(
      *(values.mean(), place),
      xerr=half_width(values),
      fmt='o',
      color=COLOURS[0],
      capsize=3,
      markersize=4,
    )
  axis.axvline(0, color='0.4', lw=0.8)
  axis.set_yticks(places, differences.keys())
  axis.set_ylim(-0.7, len(differences) - 0.5)
  axis.set_xlabel(label)
  return figure


def curves(steps: Sequence[int], values: Values, label: str) -> Figure:
  """Means over seeds, `[seeds, evaluations]` each, as they grow with training."""
  figure, axis = plt.subplots(figsize=(6.5, 3.6), layout='constrained')
  for place, (name, of) in enumerate(values.items()):
    colour = COLOURS[place % len(COLOURS)]
    axis.plot(steps, of.mean(0), LINES[place % len(LINES)], color=colour, label=name)
  axis.set_xlabel('training step')
  axis.set_ylabel(label)
  axis.set_xlim(0, None)
  axis.set_ylim(0, 102)
  axis.legend(frameon=False, fontsize=8)
  return figure


def over(
  values: Mapping[str, Mapping[float, np.ndarray]], label: str, measured: str
) -> Figure:
  """Means and intervals over something that varies, a line for each name."""
  figure, axis = plt.subplots(figsize=(4.8, 3), layout='constrained')
  for place, (name, of) in enumerate(values.items()):
    _line(axis, place, name, list(of), list(of.values()))
  axis.axhline(0, color='0.4', lw=0.8)
  axis.set_xscale('symlog', base=2, linthresh=1)
  ticks = sorted({value for of in values.values() for value in of})
  axis.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
  axis.set_xlabel(label)
  axis.set_ylabel(measured)
  if len(values) > 1:
    axis.legend(frameon=False)
  return figure


def layers(panels: Mapping[str, Values]) -> Figure:
  """By encoder layer: a panel for each label, `[seeds, layers]` for each name in it."""
  figure, axes = plt.subplots(1, len(panels), figsize=(7.2, 2.8), layout='constrained')
  for axis, (label, values) in zip(axes, panels.items(), strict=True):
    for place, (name, of) in enumerate(values.items()):
      _line(axis, place, name, range(of.shape[1]), list(of.T))
    axis.set_xlabel('encoder layer')
    axis.set_ylabel(label)
    axis.set_ylim(0, None)
    axis.xaxis.get_major_locator().set_params(integer=True)
  axes[0].legend(frameon=False)
  return figure


def _line(
  axis: Axes, place: int, name: str, x: Sequence[float], values: Sequence[np.ndarray]
) -> None:
  axis.errorbar(
    x,
    [of.mean() for of in values],
    [half_width(of) for of in values],
    fmt=f'{MARKERS[place]}{LINES[place]}',
    color=COLOURS[place],
    capsize=3,
    markersize=4,
    label=name,
  )
