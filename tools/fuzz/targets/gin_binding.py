"""`--gin.NAME=VALUE`, any number of them, on top of a run's files."""

import argparse
import os
import pathlib

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import gin_files
from tools.fuzz.case import Target
from tools.fuzz.targets.gin_file import RUN

SEEDS = (
  b'--gin.TRAIN_STEPS=3',
  b"--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': [1, 2.5]}\x00--gin.MODEL_DIR='/a'",
  b"--gin.config.Config.mlp_activations=('gelu', 'linear')",
  b'--gin.METHOD=@methods.HyperPromptGlobal()\x00--gin.EVAL_PERIOD=%TRAIN_STEPS',
  b'--gin.methods.HyperPromptGlobal.prompt_length=-1',
  b'--gin.EVAL_PERIOD=%BATCH_SIZE\x00--gin.BATCH_SIZE=%EVAL_PERIOD',
  b'--gin.x/config.Config.emb_dim=None',
  b'--gin_file=models/tiny.gin\x00--gin.VOCABULARY="bytes"',
  b'--train_steps=3\x00--lengths=8,8\x00--model_dir=/run\x00--optimizer=@optax.adamw()',
)
WORDS = (
  *(b'--gin.', b'--gin_file=', b'%TRAIN_STEPS', b'@config.Config()', b'={[]: 1}', b'='),
  *(b'import ', b'%gin.REQUIRED', b'@gin.macro', b'a/', b'\n', b'lambda', b'(', b'-', b'@'),
)


def _run(case: bytes, folder: pathlib.Path) -> None:
  del folder
  parser = arguments.Parser('train', None)
  arguments.add_settings(parser)
  words = [os.fsdecode(part) for part in case.split(b'\x00')]
  try:
    parsed = parser.parse(words)
  except SystemExit:  # --help
    return
  gin_files.parse([str(RUN), *parsed.flags.gin_file], parsed.bindings)


argparse.ArgumentParser.print_help = lambda *_: None  # type: ignore[method-assign]
TARGET = Target(SEEDS, _run, WORDS)
