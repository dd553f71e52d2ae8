"""The pictures of a look inside, for a page and for a paper.

Colours are Okabe and Ito's and the map cividis, which colour-blind people tell apart; line
styles and markers differ besides, and all of it is readable in grey.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use('Agg')

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from scipy.cluster import hierarchy
from scipy.spatial import distance

# A look as JSON: `look.Look.report`, with the run's name.
Report = Mapping[str, Any]

_STYLES = (
  {'color': '#0072B2', 'linestyle': '-', 'marker': 'o'},
  {'color': '#D55E00', 'linestyle': '--', 'marker': 's'},
)
_SETTINGS: Any = {'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False}


def draw(reports: Sequence[Report]) -> dict[str, Figure]:
  """All pictures, by name.

  Args:
    reports: are the reports of a run, and of a baseline if there is one.
  """
  with plt.rc_context(_SETTINGS):
    figures = {
      'layers': _layers(reports),
      'tasks': _tasks(reports[0]),
      'entropy': _entropy(reports),
    }
    if reports[0]['similarity']:
      figures['similarity'] = _similarity(reports[0])
  return figures


def rendered(figure: Figure, suffix: str) -> bytes:
  """The picture as a file; the same numbers make the same bytes.

  Args:
    figure: is one that `draw` has made.
    suffix: is 'svg' or 'png'.
  """
  held = io.BytesIO()
  metadata = {'Date': None} if suffix == 'svg' else None
  with plt.rc_context({'svg.hashsalt': 'peek'}):
    figure.savefig(held, format=suffix, dpi=200, metadata=metadata)
  return held.getvalue()


def _layers(reports: Sequence[Report]) -> Figure:
  """Attention mass and mean entropy over the layers, each task thin, the mean thick."""
  figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.8), layout='constrained')
  for axis, name, label in zip(
    axes,
    ('prompt_mass', 'entropy'),
    ('attention mass on prompts', 'entropy over tokens (nats)'),
    strict=True,
  ):
    for report, style in zip(reports, _STYLES, strict=False):
      layers = np.arange(len(report[name]['overall']))
      axis.plot(layers, report[name]['by_task'], color=style['color'], lw=0.5, alpha=0.4)
      axis.plot(
        *(layers, report[name]['overall']),
        label=report['run'],
        markersize=4,
        clip_on=False,  # a mass of 0 lies on the axis
        **style,
      )
    axis.set_xlabel('encoder layer')
    axis.set_ylabel(label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    most = max(np.max(report[name]['by_task']) for report in reports)
    axis.set_ylim(0, 1.08 * most or 1)
  axes[0].legend(frameon=False)
  return figure


def _tasks(report: Report) -> Figure:
  """Attention mass of each task in each layer, as a map."""
  mass = np.asarray(report['prompt_mass']['by_task']).T
  size = (1.8 + 0.42 * mass.shape[1], 0.9 + 0.3 * mass.shape[0])
  figure, axis = plt.subplots(figsize=size, layout='constrained')
  _map(figure, axis, mass, 'attention mass on prompts', low=0.0, high=max(mass.max(), 1e-6))
  axis.set_xticks(range(mass.shape[1]))
  axis.set_yticks(range(mass.shape[0]), report['tasks'])
  axis.set_xlabel('encoder layer')
  return figure


def _entropy(reports: Sequence[Report]) -> Figure:
  """The distribution of entropy over queries, a panel for each layer."""
  layers = len(reports[0]['entropy_histogram'])
  columns = min(4, layers)
  rows = -(-layers // columns)
  figure, axes = plt.subplots(
    rows,
    columns,
    figsize=(1.9 * columns + 0.4, 1.4 * rows + 0.5),
    sharex=True,
    sharey=True,
    squeeze=False,
    layout='constrained',
  )
  bins = np.asarray(reports[0]['entropy_bins'])
  for axis in axes.flat[layers:]:
    axis.set_axis_off()
  for layer, axis in enumerate(axes.flat[:layers]):
    for report, style in zip(reports, _STYLES, strict=False):
      density = np.asarray(report['entropy_histogram'][layer]) / np.diff(bins)
      axis.stairs(density, bins, color=style['color'], ls=style['linestyle'], lw=1.2)
      axis.axvline(report['entropy']['overall'][layer], color=style['color'], lw=0.6)
    axis.set_title(f'layer {layer}', fontsize=8)
  for report, style in zip(reports, _STYLES, strict=False):
    axes[0, 0].plot(
      [], [], color=style['color'], ls=style['linestyle'], label=report['run']
    )
  figure.legend(loc='outside upper center', ncols=len(reports), frameon=False)
  figure.supxlabel('entropy of attention over tokens (nats)', fontsize=9)
  figure.supylabel('share of queries per nat', fontsize=9)
  return figure


def _similarity(report: Report) -> Figure:
  """Cosines between tasks as maps, above each a dendrogram of them."""
  similarity = report['similarity']
  tasks = report['task_list']
  width = 1.1 + 0.3 * len(tasks)
  figure, axes = plt.subplots(
    2,
    len(similarity),
    figsize=(width * len(similarity) + 0.6, 1.0 + width),
    height_ratios=(1, 2.5),
    squeeze=False,
    layout='constrained',
  )
  for column, (name, values) in enumerate(similarity.items()):
    cosines = np.asarray(values)
    above, below = axes[:, column]
    order = list(range(len(tasks)))
    if len(tasks) > 1:
      tree = linkage(cosines)
      order = hierarchy.dendrogram(
        tree, ax=above, no_labels=True, color_threshold=0, above_threshold_color='0.2'
      )['leaves']
    above.set_title(name)
    above.set_ylabel('1 - cosine' if column == 0 else '')
    _map(figure, below, cosines[np.ix_(order, order)], 'cosine', low=-1.0, high=1.0)
    names = [tasks[task] for task in order]
    below.set_xticks(range(len(tasks)), names, rotation=90)
    below.set_yticks(range(len(tasks)), names)
  return figure


def linkage(cosines: np.ndarray) -> np.ndarray:
  """SciPy's tree of tasks, by average linkage of `1 - cosine`."""
  apart = np.clip(1.0 - (cosines + cosines.T) / 2, 0.0, None)
  np.fill_diagonal(apart, 0.0)
  return hierarchy.linkage(distance.squareform(apart, checks=False), 'average')


def _map(
  figure: Figure, axis: Any, values: np.ndarray, label: str, *, low: float, high: float
) -> None:
  """A map with its numbers written in."""
  image = axis.imshow(values, cmap='cividis', vmin=low, vmax=high, aspect='auto')
  figure.colorbar(image, ax=axis, label=label)
  for (row, column), value in np.ndenumerate(values):
    dark = value < (low + high) / 2
    axis.text(
      *(column, row, f'{value:.2f}'),
      color='white' if dark else 'black',
      ha='center',
      va='center',
      fontsize=6,
    )
