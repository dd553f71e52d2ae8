"""Training runs that are small enough for tests, started by the command line."""

import pathlib
import re

import hyperprompt_tasks
from hyperprompt_tasks import builtin

# Two tasks of the built-in mixture: pipelines of all eight take seconds to build.
TWO_TASKS = 'hp_test_two'
hyperprompt_tasks.add_mixture(TWO_TASKS, {'hp_builtin_copy': 1.0, 'hp_builtin_first': 2.0})

# Tasks without metrics, for runs whose evaluations no test reads. Such runs compile half as
# much, because they do not generate text.
UNSCORED, TWO_UNSCORED = 'hp_test_unscored', 'hp_test_two_unscored'
for name, task in {UNSCORED: 'first', f'{UNSCORED}_copy': 'copy'}.items():
  hyperprompt_tasks.add_task(
    name,
    source=builtin.BuiltinSource(task),
    text=[],
    task_list=builtin.TASKS,
    conditioned_task=task,
    metric_fns=[],
  )
hyperprompt_tasks.add_mixture(TWO_UNSCORED, {f'{UNSCORED}_copy': 1.0, UNSCORED: 2.0})

FILES = ('models/tiny.gin', 'methods/hyperprompt_global.gin', 'runs/finetune.gin')

# Each stack has one layer of width 16. Dropout is on, since finetune.gin sets 0.1.
BACKBONE = {
  'config.Config.emb_dim': 16,
  'config.Config.mlp_dim': 16,
  'config.Config.num_heads': 2,
  'config.Config.head_dim': 4,
  'config.Config.num_encoder_layers': 1,
  'config.Config.num_decoder_layers': 1,
}
NETWORK = {**BACKBONE, 'methods.HyperPromptGlobal.prompt_length': 2}
# A layer that no loop runs over is traced and compiled sooner.
UNROLLED = {'config.Config.scan_layers': False}


# The first words of the lines that a run prints before anything slow.
HEADER = ('method', 'network', 'devices', 'tasks', 'steps', 'folder')


def without_header(text: str) -> list[str]:
  """The lines that a run printed, but its header and the phases that took seconds."""
  is_phase = re.compile(r'[a-z ]+( …|: \d+\.\d s)').fullmatch
  return [
    line
    for line in text.splitlines()
    if not re.match(rf'({"|".join(HEADER)})  ', line) and not is_phase(line)
  ]


def train_arguments(
  model_dir: pathlib.Path, *more: str, files=FILES, without=(), network=NETWORK, **macros
) -> list[str]:
  """Returns the arguments of `hyperprompt train` for one task of the built-in mixture."""
  bindings = {
    'MODEL_DIR': str(model_dir),
    'MIXTURE_OR_TASK_NAME': 'hp_builtin_first',
    'TASK_FEATURE_LENGTHS': {'inputs': 20, 'targets': 8},
    'TRAIN_STEPS': 4,
    'BATCH_SIZE': 4,
    'EVAL_PERIOD': 2,
    'EVAL_STEPS': 1,
    'EVALUATOR_NUM_EXAMPLES': 6,
    'LOG_PERIOD': 1,
    'DATA_REPORT_EXAMPLES': 0,
    **macros,
  }
  return [
    'train',
    *(f'--gin_file={file}' for file in files),
    *(f'--gin.{k}={v!r}' for k, v in bindings.items() if k not in without),
    *(f'--gin.{name}={value}' for name, value in network.items()),
    *more,
  ]
