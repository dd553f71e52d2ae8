"""Each target of fuzzing reads valid input; one that refused every case found nothing."""

import argparse
import importlib
import pkgutil

import gin
import pytest

from hyperprompt_tasks import official_files
from tools.fuzz import targets


@pytest.fixture(scope='module')
def mistakes():
  """The errors by which readers refuse a case; undoes what the targets set in modules."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(gin.config, '__import__', __import__, raising=False)
    patch.setattr(argparse.ArgumentParser, 'print_help', lambda *_: None)
    patch.setattr(official_files, 'warn_once', official_files.warn_once)
    yield importlib.import_module('tools.fuzz.case').MISTAKES


@pytest.mark.parametrize(
  'name', [module.name for module in pkgutil.iter_modules(targets.__path__)]
)
def test_a_target_reads_a_seed_of_its_own(name, mistakes, tmp_path):
  target = importlib.import_module(f'tools.fuzz.targets.{name}').TARGET
  refused = 0
  for number, seed in enumerate(target.seeds):
    folder = tmp_path / str(number)
    folder.mkdir()
    try:
      target.run(seed, folder)
    except mistakes:
      refused += 1
  assert refused < len(target.seeds)
