"""Fixtures that several test files share: a trained run, and compiled programs."""

import atexit
import gc
import os
import pathlib
import shutil
import tempfile
from importlib import metadata

# `hyperprompt` sets this too, but TensorFlow may be loaded before a test runs it.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Most of the tests' time is compilation, and the programs then run for milliseconds.
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
  # These flags halve it again; newer versions of XLA lack one of them, and abort.
  + ' --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
  * metadata.version('jaxlib').startswith('0.10.'),
)

# Examples are materialised once for all tests and workers, away from the user's own cache.
if 'PYTEST_XDIST_WORKER' not in os.environ:
  os.environ['HYPERPROMPT_DATA_CACHE'] = tempfile.mkdtemp(prefix='hyperprompt-test-data-')
  atexit.register(shutil.rmtree, os.environ['HYPERPROMPT_DATA_CACHE'], ignore_errors=True)

import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.runtime import libtpu, workarounds
from tests import slow

# `hyperprompt` sets this too.
libtpu.prepare()
# A training run keeps the memory that it frees; here it would be that of all tests.
workarounds.reuse_freed_memory = lambda: None

# The slowest files run first, so that no worker is left with one at the end.
SLOW_FILES = (
  'runtime/test_distributed.py',
  'test_methods.py',
  'methods/test_methods.py',
  'checkpoints/test_initial.py',
  'checkpoints/test_convert.py',
  'cli/test_cli.py',
  'planning/test_planner.py',
  'training/test_small_tasks.py',
  'training/test_train_step.py',
  'cli/mistakes/test_runs.py',
  'walkthroughs/test_tutorials.py',
  'methods/test_hyperprompt.py',
  'tasks/test_mixtures.py',
  'data/test_features.py',
  'data/test_build.py',
  'data/test_cache.py',
  'test_model.py',
  'training/test_rare_tasks.py',
  'inspection/test_parameter_count.py',
  'nn/test_transformer.py',
  'checkpoints/test_huggingface.py',
  'inspection/test_peek.py',
  'data/test_stream.py',
  '../studies/tests/test_studies.py',
  'tasks/test_builtin.py',
  'data/test_parity.py',
  'methods/test_by_segment.py',
  'nn/test_attention.py',
  'training/test_optimizers.py',
  'training/test_trainable.py',
  'data/test_indexed.py',
)


def pytest_configure(config):
  """Runs a test that is named, even if it is slow."""
  if config.option.markexpr == 'not slow' and any('::' in arg for arg in config.args):
    config.option.markexpr = ''


@pytest.hookimpl(wrapper=True)
def pytest_collection():
  """Imports TensorFlow as the command does: Keras takes a second, and no test needs it."""
  with workarounds.without_keras():
    return (yield)


def pytest_collection_modifyitems(config, items):
  """Runs the slow files first."""
  config.stash[slow.COLLECTED] = [*items]

  def rank(item):
    name = os.path.relpath(item.path, pathlib.Path(__file__).parent)
    return SLOW_FILES.index(name) if name in SLOW_FILES else len(SLOW_FILES)

  items.sort(key=rank)


def pytest_collection_finish():
  """Excludes the libraries' million permanent objects from garbage collection.

  Tracing a network makes many objects, so that the collector would walk through all of
  them again and again, which takes nearly half of the tests' time.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 50, 100)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """Gives each file to one worker: the runs that its tests share are trained once."""
  from xdist.scheduler import LoadFileScheduling

  return LoadFileScheduling(config, log)


@pytest.fixture(scope='session', autouse=True)
def no_cache_of_the_users(tmp_path_factory):
  """Commands keep what they compile, by default in a folder of the user's."""
  os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))


@pytest.fixture(scope='session')
def compile_once(tmp_path_factory):
  """Compiles each program once, although every start of a verb compiles its own."""
  import jax  # not above: pytest's own process, which starts the workers, needs none of it
  from jax.experimental.compilation_cache import compilation_cache

  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent  # of all workers: each finds what another has compiled
  folder /= 'compiled'
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  compilation_cache.reset_cache()
  return folder


@pytest.fixture(scope='session')
def trained(tmp_path_factory, compile_once):
  """A run of four steps on one task, with checkpoints of steps 2 and 4; it is read only."""
  from tests import tiny_run

  folder = tmp_path_factory.mktemp('trained') / 'run'
  assert cli.main(tiny_run.train_arguments(folder)) == 0
  return folder
