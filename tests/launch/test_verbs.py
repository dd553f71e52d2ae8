"""The effects of the verbs of both scripts on machines, training and logs."""

import re

import pytest

SCRIPTS = ('tpu_vm.sh', 'gke.sh')
both = pytest.mark.parametrize('script', SCRIPTS)
# The state in which machines are ready, by script.
READY = {'tpu_vm.sh': 'ACTIVE', 'gke.sh': 'RUNNING'}


def machines(world):
  path = world.folder / 'machines'
  return path.read_text().strip() if path.exists() else None


@both
def test_create_makes_machines_and_waits_until_they_are_ready(world, script):
  done = world.launch(script, 'create', '--spot')
  assert done.returncode == 0, done.stderr
  assert machines(world) == READY[script]
  assert world.changes() == ['create']
  assert done.stderr.count('is not ready yet') == 1
  (call,) = (c for c in world.calls() if ' create ' in c)
  assert call.endswith('--spot')


@both
def test_nothing_is_left_behind_here(world, script):
  world.launch(script, 'create')
  world.launch(script, 'install')
  # kubectl's own settings, the wheel and its source were in a scratch folder.
  made = {path.name for path in world.folder.iterdir()}
  assert made == {'bin', 'broken', 'calls', 'events', 'hosts', 'machines'}


@both
def test_create_twice_makes_machines_once(world, script):
  assert world.launch(script, 'create').returncode == 0
  again = world.launch(script, 'create')
  assert again.returncode == 0 and 'slice is ready' in again.stderr
  assert world.changes() == []


@pytest.mark.parametrize(
  ('script', 'state'),
  [('tpu_vm.sh', 'SUSPENDED'), ('tpu_vm.sh', 'FAILED'), ('gke.sh', 'ERROR')],
)
def test_create_makes_lost_machines_again(world, script, state):
  (world.folder / 'machines').write_text(state)
  assert world.launch(script, 'create').returncode == 0
  assert world.changes() == ['delete', 'create']
  assert machines(world) == READY[script]


@pytest.mark.parametrize(
  'state', ['SUSPENDING', 'DELETING', 'WAITING_FOR_RESOURCES', 'CREATING']
)
def test_create_waits_for_what_is_under_way(world, state):
  (world.folder / 'machines').write_text(state)
  done = world.launch('tpu_vm.sh', 'create', events=['', '', 'machines=ACTIVE'])
  assert done.returncode == 0
  assert world.changes() == []


def test_create_gives_up_on_machines_that_keep_failing(world):
  (world.folder / 'machines').write_text('FAILED')
  done = world.launch('tpu_vm.sh', 'create', events=['', *['machines=FAILED'] * 9])
  assert done.returncode == 1
  assert 'slice failed three times' in done.stderr
  assert world.changes() == ['delete', 'create'] * 3


@both
def test_create_makes_nothing_where_the_state_is_unknown(world, script):
  done = world.launch(script, 'create', broken=['list'])
  assert done.returncode == 1
  assert 'could not ask for the state of slice' in done.stderr
  assert world.changes() == []


def test_install_reaches_every_host_and_may_be_repeated(world):
  world.launch('tpu_vm.sh', 'create')
  for _ in range(2):
    done = world.launch('tpu_vm.sh', 'install')
    assert done.returncode == 0, done.stderr
    for host in world.hosts():
      home = host / 'hyperprompt'
      assert [path.read_text() for path in home.glob('*.whl')] == ['a wheel\n']
      assert (home / 'constraints.txt').read_text().startswith('#')
      assert (home / 'venv/bin/hyperprompt').exists()
  assert any(
    './hyperprompt_jax-0.1.0-py3-none-any.whl[tpu]' in call for call in world.calls()
  )


@pytest.mark.parametrize('broken', ['wheel', 'scp', 'uv'])
def test_a_failed_install_stops_there_and_names_the_command(world, broken):
  world.launch('tpu_vm.sh', 'create')
  done = world.launch('tpu_vm.sh', 'run', broken=[broken])
  assert done.returncode == 1
  assert re.search(rf'this command failed: .*{broken}', done.stderr)
  assert not any('--now' in call for call in world.calls())


def test_install_puts_the_wheel_into_the_cluster(world):
  done = world.launch('gke.sh', 'install')
  assert done.returncode == 0, done.stderr
  delete, create = world.calls('kubectl')
  assert delete == 'kubectl delete configmap slice --ignore-not-found'
  assert re.search(
    r'--from-file=\S+/hyperprompt_jax-\S+\.whl --from-file=\S+/constraints', create
  )


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_second_start_changes_nothing(ready, script):
  world = ready(script)
  before = {
    p: p.read_text() for p in world.folder.rglob('*') if p.name in ('train.sh', 'unit')
  }
  again = world.launch(script, 'start', arguments=['--other'])
  assert again.returncode == 0
  assert 'training runs already' in again.stderr
  assert {p: p.read_text() for p in before} == before
  assert not [c for c in world.calls() if '--now' in c or 'create' in c or 'scp' in c]


def test_start_refuses_where_some_hosts_run(ready):
  world = ready('tpu_vm.sh')
  (world.hosts()[1] / 'unit').write_text('failed 143')
  done = world.launch('tpu_vm.sh', 'start')
  assert done.returncode == 1
  assert re.search(
    r'on some hosts only \(\S+ running, \S+ stopped\): stop it, then start it', done.stderr
  )


def test_start_needs_an_install(world):
  world.launch('tpu_vm.sh', 'create')
  for host in world.hosts():
    (host / 'hyperprompt').mkdir()
  done = world.launch('tpu_vm.sh', 'start')
  assert done.returncode == 1 and 'install comes first' in done.stderr


def test_the_service_outlives_the_connection_and_a_restart_of_the_host(world):
  for verb in ('create', 'install', 'start'):
    world.launch('tpu_vm.sh', verb)
  for host in world.hosts():
    service = (host / 'hyperprompt.service').read_text()
    assert f'ExecStart=/bin/sh {host}/hyperprompt/train.sh\n' in service
    assert f'StandardOutput=append:{host}/hyperprompt/train.log\n' in service
    assert 'Restart=on-failure\n' in service and 'RestartPreventExitStatus=2\n' in service
    assert '@' not in service
    # A failure that comes again and again ends, too.
    assert 'StartLimitIntervalSec=30d\n' in service and 'StartLimitBurst=100\n' in service
    assert (host / 'enabled').exists()


@both
@pytest.mark.parametrize(
  ('event', 'state'),
  [('', 'running'), ('end', 'ended'), ('mistake', 'failed'), ('crash', 'running')],
)
def test_status_shows_the_state_of_training(ready, script, event, state):
  world = ready(script)
  done = world.launch(script, 'status', events=[event])
  assert done.returncode == 0
  assert 'machines: ready' in done.stdout
  if script == 'tpu_vm.sh':
    assert [line.split()[1] for line in done.stdout.splitlines()[1:]] == [state] * 2


@both
def test_run_goes_from_nothing_to_the_end(world, script):
  done = world.launch(script, 'run', events=['', '', '', '', 'end'])
  assert done.returncode == 0, done.stderr
  assert 'training has ended' in done.stderr
  assert world.changes() == ['create']
  assert len(world.logs()) == 2


@both
def test_run_ends_with_a_mistake_of_the_user(world, script):
  done = world.launch(script, 'run', events=['', '', '', 'mistake'])
  assert done.returncode == 2
  assert re.search(
    'training is failed.*, and fails again if nothing is changed; logs are in', done.stderr
  )
  assert len(world.logs()) == 2
  # Hosts that made no mistake would wait for the others for ever.
  assert any('disable' in call or 'delete jobset' in call for call in world.calls())


def test_run_gets_a_preempted_slice_again_and_keeps_its_log(world):
  done = world.launch(
    'tpu_vm.sh', 'run', '--spot', events=['', '', '', '', 'preempt', '', '', '', '', 'end']
  )
  assert done.returncode == 0, done.stderr
  assert world.changes() == ['create', 'delete', 'create']
  commands = [c for c in world.calls('gcloud') if 'uv pip install' in c or '--now' in c]
  assert ['uv' in c for c in commands] == [True, False] * 2
  # The first life's log of its first host, and those of both hosts of the second.
  assert world.logs() == [
    ('host-0.log', 'started on 0\n'),
    ('host-0.log', 'started on 0\n'),
    ('host-1.log', 'started on 1\n'),
  ]


def test_run_survives_a_preemption_while_it_installs(world):
  world.launch('tpu_vm.sh', 'create')
  done = world.launch(
    'tpu_vm.sh', 'run', events=['', 'preempt', '', '', '', '', 'end'], broken=['once:uv']
  )
  assert done.returncode == 0, done.stderr
  assert 'preempted while being set up: once more' in done.stderr
  assert world.changes() == ['delete', 'create']


@both
def test_run_outlives_its_connection(ready, script):
  world = ready(script)
  done = world.launch(script, 'run', events=['', '', 'offline', 'offline', '', 'end'])
  assert done.returncode == 0, done.stderr
  assert world.changes() == []


@both
def test_run_only_watches_where_training_runs(ready, script):
  world = ready(script)
  done = world.launch(script, 'run', events=['', '', 'end'])
  assert done.returncode == 0
  assert not [c for c in world.calls() if 'wheel' in c or 'create' in c]


def test_run_leaves_a_deleted_slice_deleted(ready):
  world = ready('tpu_vm.sh')
  done = world.launch('tpu_vm.sh', 'run', events=['', '', 'gone'])
  assert done.returncode == 1 and 'slice was deleted' in done.stderr
  assert world.changes() == []


@both
def test_stop_ends_training_and_leaves_machines(ready, script):
  world = ready(script)
  done = world.launch(script, 'stop')
  assert done.returncode == 0 and len(world.logs()) == 2
  assert world.changes() == []
  assert machines(world) == READY[script]
  # `run` does not start what was stopped while it watched.
  world.launch(script, 'start')
  done = world.launch(script, 'run', events=['', 'stop'])
  assert done.returncode == 1
  assert re.search('training is (stopped|absent)', done.stderr)


@both
def test_logs_are_followed_or_copied(ready, script):
  world = ready(script)
  followed = world.launch(script, 'logs')
  assert followed.stdout in ('started on 0\n', 'step 1\n')
  assert re.search(r'logs --follow|tail -n 100 -F', world.calls()[-1])
  assert world.launch(script, 'logs', '--output=here/kept').returncode == 0
  assert len(list((world.folder / 'here/kept').rglob('*.log'))) == 2


@both
def test_delete_asks(ready, script):
  world = ready(script)
  done = world.launch(script, 'delete', answer='n')
  assert done.returncode == 1 and 'nothing was deleted' in done.stderr
  assert world.changes() == [] and not [c for c in world.calls('kubectl') if 'delete' in c]
  done = world.launch(script, 'delete', answer='y')
  assert done.returncode == 0
  assert world.changes() == ['delete'] and machines(world) is None
  assert len(world.logs()) == 2


@both
def test_delete_refuses_without_a_terminal(ready, script):
  world = ready(script)
  done = world.launch(script, 'delete')
  assert done.returncode == 1 and 'add --yes' in done.stderr
  assert world.changes() == []
  assert world.launch(script, 'delete', '--yes', '--no-logs').returncode == 0
  assert machines(world) is None and world.logs() == []
  assert world.launch(script, 'delete', '--yes').returncode == 0


@pytest.mark.parametrize(('enabled', 'state'), [(True, 'ended'), (False, 'stopped')])
def test_a_service_stopped_before_the_host_restarted_has_not_ended(ready, enabled, state):
  world = ready('tpu_vm.sh')
  for host in world.hosts():
    (host / 'unit').write_text('inactive 0\n')
    if not enabled:
      (host / 'enabled').unlink()
  assert state in world.launch('tpu_vm.sh', 'status').stdout
