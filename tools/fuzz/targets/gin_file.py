"""The text of a gin file, on top of a small run's: read to its end, or an error."""

import pathlib
import tempfile
from typing import Any

import gin

import hyperprompt_tasks
from hyperprompt_jax.configuration import gin_files
from tools.fuzz.case import Target

# A run with a few macros of several types; the files of `gin/runs` have six times as many.
# It has no size and no method, since a case may choose each only once.
_FOLDER = tempfile.TemporaryDirectory()
RUN = pathlib.Path(_FOLDER.name) / 'run.gin'
RUN.write_text("""from __gin__ import dynamic_registration
from hyperprompt_jax import model
from hyperprompt_jax.training import settings
from hyperprompt_jax import methods
from hyperprompt_jax.nn import config
TRAIN_STEPS = 4
EVAL_PERIOD = 2
BATCH_SIZE = 4
MODEL_DIR = '/run'
TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 8}
settings.OptimisationSettings.total_steps = %TRAIN_STEPS
settings.EvaluationSettings.period = %EVAL_PERIOD
settings.DataSettings.batch_size = %BATCH_SIZE
settings.CheckpointSettings.model_dir = %MODEL_DIR
settings.DataSettings.task_feature_lengths = %TASK_FEATURE_LENGTHS
""")
# A gin file may import what it likes: it is code. Here it gets what is ours.
_import = __import__


def _guarded(name: str, *args: Any, **kwargs: Any) -> Any:
  if name.partition('.')[0] not in ('hyperprompt_jax', 'hyperprompt_tasks', 'gin'):
    raise ImportError(f'no module {name}')
  return _import(name, *args, **kwargs)


gin.config.__import__ = _guarded
_GIN = pathlib.Path(__file__).parents[3] / 'gin'
SEEDS = (
  b'TRAIN_STEPS = 3\nBATCH_SIZE = %EVAL_PERIOD  # so many\n',
  b'from __gin__ import dynamic_registration\nfrom hyperprompt_jax.nn import config\n'
  b'config.Config:\n  emb_dim = 8\n  mlp_dim = (\n  4)\nconfig.Config.head_dim = 2',
  b"include 'models/tiny.gin'\nA = %B\nB = [1, {'a': %C, 2: (None, -3.5e1)}]\nC = 'x'\n",
  b"include 'CASE'\n",
  b'A = %B\nB = %A\nTRAIN_STEPS = %A\n',
  b'from __gin__ import dynamic_registration\nimport hyperprompt_tasks\n'
  b'MIXTURE_OR_TASK_NAME = @hyperprompt_tasks.from_files()\nhyperprompt_tasks.from_files:\n'
  b"  name = 'mine'\n  files = {'a': {'train': '/nowhere/a.jsonl'}}\n",
  b'from __gin__ import dynamic_registration\nimport hyperprompt_tasks\n'
  b"x/hyperprompt_tasks.condition.name = 'mine'\n"
  b"x/hyperprompt_tasks.condition.tasks = {'hp_builtin_copy': 1.0}\n",
  *(path.read_bytes() for path in sorted(_GIN.glob('m*/[hmtw]*.gin'))),
)
WORDS = (
  *(b'@config.Config()', b'@config.Config', b'%TRAIN_STEPS', b'%gin.REQUIRED', b'include'),
  *(b'import ', b'from ', b' = ', b'a/b', b'{[]: 1}', b'gin.macro', b'@gin.macro()'),
  *(b'\\\n', b'"""', b'(', b'-', b'methods.HyperPromptGlobal', b'inf', b'@x/'),
)


def _run(case: bytes, folder: pathlib.Path) -> None:
  path = folder / 'case.gin'
  text = case.replace(b'CASE', str(path).encode())
  path.write_bytes(text + b'\nTHE_LAST_LINE = 1\n')
  gin_files.parse([str(RUN), str(path)], [])
  last = gin.query_parameter('THE_LAST_LINE/gin.macro.value')
  assert last == 1, 'the end of the file was not read'


assert hyperprompt_tasks
TARGET = Target(SEEDS, _run, WORDS)
