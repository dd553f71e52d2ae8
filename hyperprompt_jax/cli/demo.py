"""`hyperprompt demo`: HyperPrompt-Global beside multi-task learning, on a CPU, in minutes.

Both train on the built-in mixture, whose tasks share their inputs and conflict in their
outputs: the same text, model, steps and batches, and only the method differs.
"""

import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import macros, static
from hyperprompt_jax.runtime import terminal
from hyperprompt_jax.training.settings import CheckpointSettings

NEEDS = ('tensorflow', 'matplotlib', 'hyperprompt_jax.training.train')
# The name that an average of scores has beside the tasks'.
AVERAGE = 'average'
MIXTURE = 'hp_builtin'
METHODS = {'mtl': 'MTL', 'hyperprompt_global': 'HyperPrompt'}

# The method's defaults are for T5's sizes, and would nearly double the tiny network.
_BINDINGS = {
  'mtl': [],
  'hyperprompt_global': [
    'methods.HyperPromptGlobal.prompt_length=8',
    'methods.HyperPromptGlobal.bottleneck_dim=8',
    'methods.HyperPromptGlobal.task_embed_dim=16',
  ],
}

# These can be told apart in grey, by their lines and by the colour-blind (Okabe & Ito).
_STYLES = {'mtl': ('#0072B2', '--'), 'hyperprompt_global': ('#D55E00', '-')}


def demo(
  output_dir: str, files: Sequence[str] = (), bindings: Sequence[str] = ()
) -> dict[str, Any]:
  """Trains each method, or resumes the runs in `output_dir`.

  Args:
    output_dir: gets a run's folder for each method, and the picture.
    files: are gin files besides the demo's own.
    bindings: are gin bindings for all methods.

  Returns:
    `chance` and, for each method, `scores` by task (x 100, at the last step), both with
    an `average`; and the path of the picture, `curves`.
  """
  import hyperprompt_tasks
  from hyperprompt_jax.configuration import gin_files
  from hyperprompt_jax.evaluation import scores as recorded_scores
  from hyperprompt_jax.training import train

  scores: dict[str, recorded_scores.ScoresByStep] = {}
  for method, label in METHODS.items():
    terminal.stderr_console().print(f'\n{label}: methods/{method}.gin')
    gin_files.parse(*_composed(output_dir, method, files, bindings))
    scores[method] = recorded_scores.scores_by_step(gin_files.call(train.train))
  chance = {
    task: hyperprompt_tasks.chance(task) for task in hyperprompt_tasks.task_list(MIXTURE)
  }
  chance[AVERAGE] = sum(chance.values()) / len(chance)
  picture = pathlib.Path(output_dir) / 'learning_curves.png'
  _draw(scores, chance, picture)
  return {
    'chance': chance,
    'scores': {method: scores[method][max(scores[method])] for method in METHODS},
    'curves': str(picture),
  }


def _composed(
  output_dir: str, method: str, files: Sequence[str], bindings: Sequence[str]
) -> tuple[list[str], list[str]]:
  """Returns the gin files and bindings of one method's run."""
  model_dir = str(pathlib.Path(output_dir) / method)
  return (
    ['models/tiny.gin', f'methods/{method}.gin', 'runs/demo.gin', *files],
    [f'MODEL_DIR={model_dir!r}', *_BINDINGS[method], *bindings],
  )


def _draw(
  scores: Mapping[str, Mapping[int, Mapping[str, float]]],
  chance: Mapping[str, float],
  path: pathlib.Path,
) -> None:
  """Draws the scores over the steps: one panel for each task and one for the average."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(3, 3, figsize=(9, 7.5), sharex=True, sharey=True)
  names = [*(name for name in chance if name != AVERAGE), AVERAGE]
  for axis, name in zip(axes.flat, names, strict=True):
    for method, (color, line) in _STYLES.items():
      steps = sorted(scores[method])
      axis.plot(
        steps,
        [scores[method][step][name] for step in steps],
        line,
        color=color,
        label=METHODS[method],
      )
    axis.axhline(chance[name], color='0.5', linewidth=1, linestyle=':', label='chance')
    axis.set_title(name, fontweight='bold' if name == AVERAGE else None)
    axis.set_ylim(-3, 103)
  for axis in axes[:, 0]:
    axis.set_ylabel('exact match (%)')
  for axis in axes[-1]:
    axis.set_xlabel('training step')
  handles, labels = axes.flat[0].get_legend_handles_labels()
  figure.legend(handles, labels, frameon=False, loc='upper center', ncols=len(labels))
  figure.tight_layout(rect=(0, 0, 1, 0.96))
  figure.savefig(path, dpi=150)
  plt.close(figure)


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb, and checks the configuration that they compose."""
  parser = arguments.Parser('demo', __doc__)
  parser.add_argument(
    '--output_dir',
    default='runs/demo',
    help='the folder for the runs and the picture, from which a stopped demo resumes '
    '(default: %(default)s)',
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object')
  # The demonstration names the folders of its runs itself.
  groups = [group for group in macros.GROUPS if group is not CheckpointSettings]
  arguments.add_settings(parser, groups)
  parsed = parser.parse(words)
  for method in METHODS:
    flags = parsed.flags
    static.check(*_composed(flags.output_dir, method, flags.gin_file, parsed.bindings))
  return parsed


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt demo`."""
  flags = parsed.flags
  started = time.monotonic()
  report = demo(flags.output_dir, flags.gin_file, parsed.bindings)
  if flags.json:
    print(json.dumps(report))
    return
  columns = [report['chance'], *(report['scores'][method] for method in METHODS)]
  terminal.print_table(
    'Exact match (x 100) on the validation split, after the same number of steps',
    ('task', 'chance', *METHODS.values()),
    [(task, *(f'{column[task]:.1f}' for column in columns)) for task in report['chance']],
    ruled=1,
  )
  print(f'learning curves: {report["curves"]}')
  terminal.stderr_console().print(f'took {terminal.duration(time.monotonic() - started)}')
