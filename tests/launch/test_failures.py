"""Machines cost money: what the scripts do where commands fail, hang or print nonsense."""

import os
import re
import signal
import subprocess
import time

import pytest

from tests.launch.conftest import FLAGS, LAUNCH

SCRIPTS = ('tpu_vm.sh', 'gke.sh')
both = pytest.mark.parametrize('script', SCRIPTS)
# A time limit that a test can wait for.
IMPATIENT = '--answer_seconds=1'
# The commands before the deletion, by a word that they have.
PRELIMINARIES = [
  ('tpu_vm.sh', 'get-value'),
  ('tpu_vm.sh', ' list '),
  ('tpu_vm.sh', 'describe'),
  ('tpu_vm.sh', ' scp '),
  ('gke.sh', 'get-value'),
  ('gke.sh', ' list '),
  ('gke.sh', 'get pods'),
  ('gke.sh', 'logs '),
]


def machines(world):
  path = world.folder / 'machines'
  return path.read_text().strip() if path.exists() else None


def follow_advice(world, done, confirmation=''):
  """Runs the command that a message says deletes the machines, in a user's shell."""
  (world.folder / 'broken').write_text('')
  *_, command = re.findall(r'this deletes them: (.*)', done.stderr)
  environment = {**world.environment, 'KUBECONFIG': str(world.folder / 'kubeconfig')}
  subprocess.run(
    ['bash', '-c', command + confirmation],
    env=environment,
    cwd=world.folder,
    stdin=subprocess.DEVNULL,
    check=True,
  )


@pytest.mark.parametrize(('script', 'word'), PRELIMINARIES)
@pytest.mark.parametrize('fault', ['', 'garbage:', 'hang:'])
def test_delete_deletes_whatever_fails_before(ready, script, word, fault):
  world = ready(script)
  done = world.launch(script, 'delete', '--yes', IMPATIENT, broken=[f'{fault}{word}'])
  assert done.returncode == 0, done.stderr
  assert 'everything was deleted' in done.stderr
  assert world.changes() == ['delete'] and machines(world) is None
  assert not (world.folder / 'jobset.yaml').exists()
  # What the faulty command printed is neither run nor sent to the terminal.
  assert '\x1b' not in done.stderr and not list(world.folder.rglob('evil'))


@pytest.mark.parametrize(
  'broken',
  [
    'get-credentials',
    'garbage:get-credentials',
    'hang:get-credentials',
    'jobset,configmap,secret',
    'hang:jobset,configmap,secret',
  ],
)
def test_delete_without_the_cluster_deletes_machines_and_lists_the_rest(ready, broken):
  world = ready('gke.sh')
  done = world.launch('gke.sh', 'delete', '--yes', IMPATIENT, broken=[broken])
  assert done.returncode == 1
  assert machines(world) is None
  assert 'not deleted: the objects of training; this deletes them: gcloud' in done.stderr
  assert 'not deleted: the node pool' not in done.stderr
  assert (world.folder / 'jobset.yaml').exists()
  follow_advice(world, done)
  assert not (world.folder / 'jobset.yaml').exists()


@pytest.mark.parametrize(
  ('script', 'fault'), [('tpu_vm.sh', ''), ('gke.sh', ''), ('gke.sh', 'hang:')]
)
def test_machines_that_are_not_deleted_are_listed_with_the_command(ready, script, fault):
  world = ready(script)
  word = 'resources delete' if script == 'tpu_vm.sh' else 'pools delete'
  done = world.launch(script, 'delete', '--yes', IMPATIENT, broken=[f'{fault}{word}'])
  assert done.returncode == 1
  assert 'not everything was deleted' in done.stderr
  assert re.search(r'not deleted: the (TPU VMs of slice|node pool) slice', done.stderr)
  assert not (world.folder / 'jobset.yaml').exists()
  assert machines(world)
  follow_advice(world, done)
  assert machines(world) is None


@both
def test_a_deletion_that_is_interrupted_lists_what_is_left(ready, script):
  world = ready(script)
  (world.folder / 'broken').write_text('hang: list ')
  process = subprocess.Popen(
    [LAUNCH / script, 'delete', *FLAGS[script], '--yes'],
    env=world.environment,
    cwd=world.folder,
    stdin=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
    # Tests that run in the background ignore the signal, and so would the script.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
  while ' list ' not in ' '.join(world.calls('gcloud')[-1:]):
    time.sleep(0.05)
  os.killpg(process.pid, signal.SIGINT)
  _, stderr = process.communicate(timeout=10)
  assert process.returncode == 130
  assert re.search('not deleted: .*; this deletes them: gcloud .* delete slice', stderr)


@both
def test_the_question_names_everything(ready, script):
  world = ready(script)
  done = world.launch(script, 'delete', '--project=my-project', answer='n')
  expected = {
    'tpu_vm.sh': 'Delete the queued resource slice with its TPU VMs and everything on '
    'them, zone z, project my-project? [y/N]',
    'gke.sh': 'Delete the node pool slice, and the JobSet, the ConfigMap and the Secret '
    'slice, cluster c, location l, project my-project? [y/N]',
  }
  assert expected[script] in done.stderr
  assert world.changes() == []


@both
def test_the_project_of_the_question_is_that_of_the_deletion(ready, script):
  world = ready(script)
  done = world.launch(script, 'delete', answer='y')
  assert ', project default-project? [y/N]' in done.stderr
  (call,) = (call for call in world.calls('gcloud') if ' delete slice ' in call)
  assert '--project=default-project' in call


def test_a_project_that_cannot_be_read_is_no_name(ready):
  world = ready('tpu_vm.sh')
  done = world.launch('tpu_vm.sh', 'delete', answer='n', broken=['garbage:get-value'])
  assert 'project of gcloud config (which could not be read)? [y/N]' in done.stderr


def test_run_ends_where_one_host_runs_and_one_has_no_training(ready):
  world = ready('tpu_vm.sh')
  done = world.launch('tpu_vm.sh', 'run', '--patience=3', events=['', 'lose_unit'])
  assert done.returncode == 1
  assert re.search(r'training is mixed \(\S+ running, \S+ absent\), and was', done.stderr)
  # One line at the first look, and one at the end.
  assert done.stderr.count('training is mixed') == 2
  assert 'the TPU VMs of slice slice may be on' in done.stderr


@pytest.mark.parametrize('fault', ['', 'garbage:', 'hang:'])
@pytest.mark.parametrize(
  ('script', 'word'), [('tpu_vm.sh', 'LoadState'), ('gke.sh', 'get jobset')]
)
def test_run_ends_and_changes_nothing_where_training_is_unclear(ready, script, word, fault):
  world = ready(script)
  # It would delete the machines if training had ended.
  flags = ['--patience=2', '--delete-at-end', IMPATIENT]
  done = world.launch(script, 'run', *flags, broken=[f'{fault}{word}'])
  assert done.returncode == 1
  assert 'the state of training is unclear: ' in done.stderr
  assert 'it was so for 2 looks' in done.stderr
  assert world.changes() == []
  assert not [call for call in world.calls() if 'wheel' in call or 'create' in call]
  assert re.search('may be on, and then cost money; this deletes them:', done.stderr)
  assert '\x1b' not in done.stderr


@both
@pytest.mark.parametrize('state', ['PAUSED', 'SUSPENDED_BY_ADMIN', 'a\x1b[31m $(evil)'])
def test_an_unknown_state_of_machines_is_named_and_ends(world, script, state):
  (world.folder / 'machines').write_text(state)
  done = world.launch(script, 'create', '--patience=3')
  assert done.returncode == 1
  name = re.escape(state) if state.isidentifier() else r'.*\\E\[31m \$\(evil\)'
  assert re.search(f'slice is in the state {name}.*: waiting for 3 looks', done.stderr)
  assert re.search(f'slice is still in the state {name}', done.stderr)
  assert world.changes() == []
  assert '\x1b' not in done.stderr


@both
def test_run_names_an_unknown_state_and_ends(ready, script):
  world = ready(script)
  done = world.launch(script, 'run', '--patience=3', events=['', 'machines=PAUSED'])
  assert done.returncode == 1
  assert done.stderr.count('the state of slice is PAUSED') == 2
  assert world.changes() == []


def test_a_node_pool_in_the_state_suspended_is_named(ready):
  world = ready('gke.sh')
  done = world.launch('gke.sh', 'run', '--patience=3', events=['', 'machines=SUSPENDED'])
  assert done.returncode == 1 and 'the state of slice is SUSPENDED' in done.stderr


@both
def test_create_forgives_a_lost_connection_while_it_waits(world, script):
  done = world.launch(script, 'create', events=['', 'offline', 'offline'])
  assert done.returncode == 0, done.stderr
  assert 'slice is in the state no answer: waiting for 60 looks' in done.stderr
  assert world.changes() == ['create']


def test_a_connection_lost_while_installing_leaves_no_machines_on_in_silence(world):
  done = world.launch(
    'tpu_vm.sh', 'run', events=['', '', '', *['offline'] * 3], broken=['scp']
  )
  assert done.returncode == 1
  assert 'slice could not be set up; its state is no answer' in done.stderr
  assert re.search(
    r'the TPU VMs of slice slice may be on, and then cost money; this deletes them: '
    r'\S+/launch/tpu_vm.sh delete --name=slice --zone=z\n$',
    done.stderr,
  )
  assert machines(world) == 'ACTIVE'
  follow_advice(world, done, ' --yes')
  assert machines(world) is None


@both
def test_run_deletes_machines_that_could_not_be_set_up_where_asked(world, script):
  done = world.launch(script, 'run', '--delete-at-end', broken=['wheel'])
  assert done.returncode == 1
  assert 'slice could not be set up' in done.stderr and machines(world) is None
  assert 'may be on' not in done.stderr


@both
@pytest.mark.parametrize(('event', 'status'), [('end', 0), ('mistake', 2), ('crashes', 2)])
def test_run_deletes_at_the_end_where_asked(ready, script, event, status):
  world = ready(script)
  done = world.launch(script, 'run', '--delete-at-end', events=['', '', event])
  assert done.returncode == status, done.stderr
  assert machines(world) is None and len(world.logs()) == 2
  assert 'may be on' not in done.stderr


@both
def test_a_deletion_at_the_end_that_fails_is_no_success(ready, script):
  world = ready(script)
  done = world.launch(
    script, 'run', '--delete-at-end', events=['', '', 'end'], broken=[' delete slice ']
  )
  assert done.returncode == 1 and 'may be on, and then cost money' in done.stderr


@both
def test_run_says_at_its_end_that_machines_are_on(ready, script):
  world = ready(script)
  done = world.launch(script, 'run', events=['', '', 'end'])
  assert done.returncode == 0
  follow_advice(world, done, ' --yes')
  assert machines(world) is None


@pytest.mark.parametrize('script', SCRIPTS)
def test_training_that_is_not_started_again_is_no_reason_to_try_again(ready, script):
  world = ready(script)
  done = world.launch(script, 'run', events=['', '', 'crashes'])
  assert done.returncode == 2
  assert 'fails again if nothing is changed' in done.stderr


def test_a_path_to_search_for_folders_changes_nothing(world, tmp_path):
  (tmp_path / 'launch').mkdir()
  world.environment['CDPATH'] = f'{tmp_path}:/'
  done = subprocess.run(
    ['launch/tpu_vm.sh', 'install', *FLAGS['tpu_vm.sh'], '--dry-run'],
    env=world.environment,
    cwd=LAUNCH.parent,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert f'{LAUNCH.parent}/constraints.txt' in done.stdout
  assert str(tmp_path / 'launch') not in done.stdout
