"""A world of stand-ins, in which the launch scripts run."""

import functools
import os
import pathlib
import pty
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
LAUNCH = HERE.parents[1] / 'launch'
FLAGS = {
  'tpu_vm.sh': [
    '--name=slice',
    '--zone=z',
    '--accelerator_type=v4-16',
    '--runtime_version=r',
  ],
  'gke.sh': [
    '--name=slice',
    '--cluster=c',
    '--location=l',
    '--machine_type=ct4p-hightpu-4t',
    '--topology=2x2x2',
    '--accelerator=tpu-v4-podslice',
  ],
}


class World:
  """The folder that stand_in.sh describes."""

  def __init__(self, folder):
    self.folder = folder
    self.environment = {
      'PATH': f'{folder}/bin:{os.defpath}',
      'WORLD': str(folder),
      'HOME': str(folder),
      'TMPDIR': str(folder),
      'PYTHON': sys.executable,
    }

  def equip(self):
    """Puts the stand-ins on PATH."""
    (self.folder / 'bin').mkdir(parents=True)
    for name in ('gcloud', 'kubectl', 'sudo', 'systemctl', 'python3', 'tail'):
      (self.folder / 'bin' / name).symlink_to(HERE / 'stand_in.sh')
    return self

  def launch(self, script, verb, *flags, arguments=(), answer=None, events=(), broken=()):
    """Runs a verb with the flags of a slice; if there is an answer, on a terminal."""
    (self.folder / 'events').write_text('\n'.join(events))
    (self.folder / 'broken').write_text('\n'.join(broken))
    (self.folder / 'calls').write_text('')
    if verb in ('start', 'run') and not arguments:
      arguments = ('--gin_file=models/base.gin',)
    words = [
      *FLAGS[script],
      '--poll_seconds=0',
      *flags,
      *(['--', *arguments] * bool(arguments)),
    ]
    return self.script(script, verb, *words, answer=answer)

  def script(self, script, *words, answer=None):
    controller, keyboard = (
      pty.openpty() if answer is not None else (None, subprocess.DEVNULL)
    )
    if answer is not None:
      os.write(controller, f'{answer}\n'.encode())
    done = subprocess.run(
      [LAUNCH / script, *words],
      env=self.environment,
      cwd=self.folder,
      stdin=keyboard,
      capture_output=True,
      text=True,
      timeout=40,
    )
    if answer is not None:
      os.close(controller)
      os.close(keyboard)
    return done

  def words(self, *programs):
    """Returns the words of each command since `launch`, of all programs or of some."""
    *records, _ = (self.folder / 'calls').read_text().split('\0\1\0')
    calls = [record.split('\0') for record in records]
    return [call for call in calls if not programs or call[0] in programs]

  def calls(self, *programs):
    """The same, each in one line."""
    return [' '.join(call) for call in self.words(*programs)]

  def changes(self):
    """The calls that change machines, in order, by their verb."""
    return [
      call.split()[4 if 'queued' in call else 3]
      for call in self.calls('gcloud')
      if ('queued-resources' in call or 'node-pools' in call) and ' list ' not in call
    ]

  def hosts(self):
    return sorted((self.folder / 'hosts').iterdir())

  def logs(self):
    """The copied logs: the text of each, by name."""
    paths = (self.folder / 'launch_logs').rglob('*.log')
    return sorted((path.name, path.read_text()) for path in paths)


@pytest.fixture
def world(tmp_path):
  """An empty world: no machines yet."""
  return World(tmp_path / 'world').equip()


@pytest.fixture(scope='session')
def training(tmp_path_factory):
  """Makes for a script a world in which training runs, which tests only read."""

  @functools.cache
  def make(script):
    world = World(tmp_path_factory.mktemp('training') / 'world').equip()
    for verb in ('create', 'install', 'start'):
      done = world.launch(script, verb)
      assert done.returncode == 0, done.stderr
    return world

  return make


@pytest.fixture
def ready(tmp_path, training):
  """Makes a copy of a world in which training runs."""

  def copy(script):
    shutil.copytree(training(script).folder, tmp_path / 'world', symlinks=True)
    return World(tmp_path / 'world')

  return copy
