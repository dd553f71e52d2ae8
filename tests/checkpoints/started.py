"""Runs that start from a checkpoint."""

import numpy as np
import orbax.checkpoint as ocp

from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.source import open_source
from tests import published, tiny_run

STEP = published.STEP
NETWORK = {**published.NETWORK, 'methods.HyperPromptGlobal.prompt_length': 2}
MTL = ('models/tiny.gin', 'methods/mtl.gin', 'runs/finetune.gin')


def arguments(folder, path, *more, files=tiny_run.FILES, network=NETWORK, **macros):
  macros = {'INITIAL_CHECKPOINT_PATH': str(path), 'TRAIN_STEPS_RELATIVE': 1, **macros}
  without = ['TRAIN_STEPS'] if 'TRAIN_STEPS' not in macros else []
  return tiny_run.train_arguments(
    folder, *more, files=files, network=network, without=without, **macros
  )


def train(folder, path, *more, **kwargs):
  """A run that moves nothing, and is not evaluated."""
  macros = {
    'MIXTURE_OR_TASK_NAME': tiny_run.UNSCORED,
    'EVAL_STEPS': 0,
    'LEARNING_RATE': 0.0,
  }
  args = arguments(folder, path, *more, **{**macros, **kwargs})
  assert cli.main(args) == 0
  return folder


def mtl(folder, path, **kwargs):
  return train(folder, path, files=MTL, network=published.NETWORK, **kwargs)


def params_of(folder, step):
  with ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.restore(folder / f'checkpoints/{step}/params')
  return {path: np.asarray(x) for path, x in by_path(tree).items()}


def backbone_of(path):
  return published.values(open_source(str(path)).without_method().arrays)


def mistake(capsys, args):
  capsys.readouterr()
  assert cli.main(args) == 2
  out, err = capsys.readouterr()
  assert out == '' and 'Traceback' not in err
  message = err[err.index('hyperprompt: ') :]
  return message.rstrip('\n')
