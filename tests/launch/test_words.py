"""Flags, dry runs, and the way of a user's words to training."""

import re
import subprocess

import pytest
import yaml

from tests.launch.conftest import FLAGS, LAUNCH

SCRIPTS = ('tpu_vm.sh', 'gke.sh')
VERBS = ('create', 'install', 'start', 'status', 'logs', 'stop', 'run', 'delete')
both = pytest.mark.parametrize('script', SCRIPTS)
HOSTILE = [
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 32}",
  '--gin.MODEL_DIR="gs://bucket/$(touch evil)"',
  '--a=`touch evil`; touch evil & touch evil | touch evil > evil',
  '--b=two\nlines\ttab  two spaces ',
  '--c=\'"\\"\' ${HOME} $HOME $(HOME) $$(HOME) $$ ~ * ? [a-z] !x # é %s %USER% @HOME@',
  '--',
  '--dry-run',
  '',
  '--no',
]
VALUE = 'se\'cr"et $(touch evil) $(HOME) $$x\nline=2; é'


def expanded(text):
  """Returns a container's argument as Kubernetes makes it, without variables."""
  return re.sub(r'\$(\$|\((\w+)\))', lambda m: '$' if m[1] == '$' else m[0], text)


def watch_processes(world):
  """Makes the stand-ins record the words of all processes of this machine."""
  (world.folder / 'processes').touch()


def assert_secret(world, value):
  """Other users of this machine see the words of each process."""
  processes = (world.folder / 'processes').read_bytes()
  assert b'--env=VALUE' in processes and value.encode() not in processes
  assert not [call for call in world.words() if any(value in word for word in call)]
  assert not list(world.folder.rglob('evil'))


def test_every_word_reaches_training_on_tpu_vms_unchanged(world):
  for verb in ('create', 'install'):
    world.launch('tpu_vm.sh', verb)
  world.environment['VALUE'] = VALUE
  watch_processes(world)
  done = world.launch('tpu_vm.sh', 'start', '--env=VALUE', arguments=HOSTILE)
  assert done.returncode == 0, done.stderr
  for host in world.hosts():
    script = host / 'hyperprompt/train.sh'
    # It may hold secrets.
    assert script.stat().st_mode & 0o077 == 0
    subprocess.run(['sh', script], env={'HOME': str(host)}, cwd=host, check=True)
    given = (host / 'given').read_bytes().decode().split('\0')[:-1]
    assert given == [VALUE, 'train', '--meet_seconds=600', '--device_count=8', *HOSTILE]
  assert_secret(world, VALUE)
  assert VALUE not in done.stdout + done.stderr


def test_every_word_reaches_training_on_gke_unchanged(world):
  world.environment['VALUE'] = VALUE
  watch_processes(world)
  done = world.launch('gke.sh', 'start', '--env=VALUE', arguments=HOSTILE)
  assert done.returncode == 0, done.stderr
  secret = world.folder / 'train.sh'
  assert secret.stat().st_mode & 0o077 == 0
  # The pod's command, in a shell that knows no bash, and with the environment beside it.
  text = secret.read_text().replace('/hyperprompt/venv/bin/hyperprompt', 'show')
  show = """show() { printf '%s\\0' "$VALUE" "$@"; }\n"""
  shown = subprocess.run(
    ['sh'], input=show + text.replace('exec show', 'show'), capture_output=True, text=True
  )
  *given, _ = shown.stdout.split('\0')
  assert given == [VALUE, 'train', '--meet_seconds=600', '--device_count=8', *HOSTILE]
  assert_secret(world, VALUE)
  assert VALUE not in done.stdout + done.stderr
  # Whoever may read JobSets reads nothing of the run.
  assert 'gin' not in (world.folder / 'jobset.yaml').read_text()
  assert 'VALUE' not in (world.folder / 'jobset.yaml').read_text()


@pytest.mark.parametrize('name', ['ROOT', 'NAME', 'FLAG', 'SCRATCH', 'VERB'])
def test_a_variable_of_the_script_has_the_value_of_the_caller(world, name):
  world.environment[name] = 'of the caller\n'
  done = world.launch('gke.sh', 'start', f'--env={name}')
  assert done.returncode == 0, done.stderr
  assert f"export '{name}=of the caller\n'\n" in (world.folder / 'train.sh').read_text()


@both
@pytest.mark.parametrize('verb', VERBS)
def test_a_flag_that_is_a_command_runs_nothing(ready, script, verb):
  world = ready(script)
  evil = '$(touch evil)`touch evil`; touch evil; \'"\n'
  flags = {
    'tpu_vm.sh': ['zone', 'project', 'accelerator_type', 'runtime_version', 'output']
  }
  flags['gke.sh'] = ['cluster', 'location', 'project', 'output']
  words = [f'--{name}={evil}/{name}' for name in flags[script]]
  if verb == 'logs':
    words = words[:-1]
  events = ['', '', 'end'] if verb == 'run' else []
  done = world.launch(script, verb, *words, '--yes', events=events)
  assert done.returncode == 0, done.stderr
  assert not [path for path in world.folder.rglob('*') if path.name == 'evil']
  flag = f'--{flags[script][1]}='
  given = {word for call in world.words('gcloud') for word in call if word.startswith(flag)}
  assert given == {words[1]}


@both
@pytest.mark.parametrize('verb', VERBS)
def test_a_dry_run_prints_commands_and_runs_none(world, script, verb):
  world.environment['VALUE'] = 'hunter2'
  done = world.launch(script, verb, '--dry-run', '--env=VALUE')
  assert done.returncode == 0, done.stderr
  assert world.calls() == []
  assert {path.name for path in world.folder.iterdir()} == {
    'bin',
    'broken',
    'calls',
    'events',
  }
  assert 'hunter2' not in done.stdout + done.stderr
  assert re.search(r'^(gcloud|kubectl) ', done.stdout, re.MULTILINE)


@both
def test_a_dry_run_prints_what_runs(world, script):
  def plain(words):
    """Without the names that only running gives."""
    words = [re.sub(r'.*/tmp\.\w+/', 'SCRATCH/', word) for word in words]
    return [re.sub('hyperprompt_jax-.*whl', 'WHEEL', word) for word in words]

  printed = world.launch(script, 'run', '--spot', '--dry-run').stdout
  lines = [line for line in printed.splitlines() if re.match('(gcloud|kubectl) ', line)]
  # As a shell reads them.
  echo = '\n'.join(f"printf '%s\\0' {line} $'\\1'" for line in lines)
  read = subprocess.run(['bash', '-c', echo], capture_output=True, text=True, check=True)
  promised = [plain(call.split('\0')) for call in read.stdout.split('\0\1\0')[:-1]]
  ran = []
  for verb in ('create', 'install', 'start'):
    world.launch(script, verb, '--spot')
    ran += map(plain, world.words('gcloud', 'kubectl'))
  assert sorted(promised) == sorted(
    [call for n, call in enumerate(ran) if call not in ran[:n]]
  )


# Mistakes: the words of a command, and a part of the message.
MISTAKES = [
  ([], 'name a verb: create install start status logs stop run delete'),
  (['destroy'], 'there is no verb destroy; there are create'),
  (['create install'], r'there is no verb create\ install; there are'),
  (['create', 'FLAGS', '--colour=red'], 'there is no flag --colour; --help lists'),
  (['create', 'FLAGS', 'now'], 'now is no flag: write --name=VALUE'),
  (['create', 'FLAGS', '-y'], '-y is no flag: write --name=VALUE'),
  (['create', 'FLAGS', '--project'], '--project needs a value: write --project=VALUE'),
  (['create', 'FLAGS', '--project='], '--project needs a value: write --project=VALUE'),
  (['create', 'FLAGS', '--spot=true'], '--spot takes no value: leave out =…'),
  (['create', 'FLAGS', '--env=A'], '--env=A: there is no such variable here: export A'),
  (['create', 'FLAGS', '--env=1 A'], '--env needs the name of a variable'),
  (['create', 'FLAGS', '--env=A=b'], '--env=A=… would show the value to every user'),
  (['create', 'FLAGS', '--patience=0'], '--patience=0 must be a whole number'),
  (['create', 'FLAGS', '--answer_seconds=0'], '--answer_seconds=0 must be a whole number'),
  (
    ['create', 'FLAGS', '--poll_seconds=soon'],
    '--poll_seconds=soon must be a whole number',
  ),
  (['create', 'FLAGS', '--name=My_Slice'], '--name=My_Slice must be lower-case letters'),
  (['create', 'FLAGS', '--name=a-'], '--name=a- must be lower-case letters'),
  (['create', 'FLAGS', f'--name=a{"b" * 40}'], 'must be lower-case letters'),
  (['create', 'FLAGS', '--name=a\nb'], 'must be lower-case letters'),
  (
    ['create', 'FLAGS', '--', '--x'],
    'create takes no arguments of hyperprompt: leave out --',
  ),
  (['start', 'FLAGS'], 'start needs the arguments of hyperprompt train after --'),
  (['run', 'FLAGS', '--', 'train', '--x'], 'flags of hyperprompt train, without train'),
  (['status'], 'status needs --name=VALUE; --help says what it is'),
]
OWN_MISTAKES = [
  (
    'tpu_vm.sh',
    ['create', '--name=a', '--zone=z'],
    'create needs --accelerator_type=VALUE',
  ),
  ('tpu_vm.sh', ['create', 'FLAGS', '--cluster=c'], 'there is no flag --cluster'),
  (
    'gke.sh',
    ['create', 'FLAGS', '--topology=8'],
    '--topology=8 must be two or three numbers',
  ),
  ('gke.sh', ['create', 'FLAGS', '--topology=a[$(touch evil)]x2'], 'must be two or three'),
  ('gke.sh', ['create', 'FLAGS', '--topology=1x2'], 'has 2 chips, which hosts of 4 do not'),
  ('gke.sh', ['create', 'FLAGS', '--machine_type=n2'], 'must end with the chips of a host'),
  ('gke.sh', ['start', 'FLAGS', '--image=a"b', '--', '-x'], 'must be the name of an image'),
  ('gke.sh', ['start', 'FLAGS', '--accelerator=a b', '--', '-x'], 'must be a label of GKE'),
  (
    'gke.sh',
    ['start', '--name=a', '--cluster=c', '--location=l'],
    'start needs --machine_type',
  ),
]


@pytest.mark.parametrize(
  ('script', 'words', 'message'),
  [(script, *mistake) for script in SCRIPTS for mistake in MISTAKES] + OWN_MISTAKES,
)
def test_a_mistake_is_one_line_and_runs_nothing(world, script, words, message):
  at = words.index('FLAGS') if 'FLAGS' in words else len(words)
  done = world.script(
    script, *words[:at], *FLAGS[script] * (at < len(words)), *words[at + 1 :]
  )
  assert done.returncode == 2
  assert message in done.stderr and done.stderr.startswith(f'{script}: ')
  assert done.stderr.count('\n') == 1 and done.stdout == ''
  assert not (world.folder / 'calls').exists()


@both
def test_help_names_every_verb_and_flag(world, script):
  text = world.script(script, '--help').stdout
  assert text == world.script(script, 'create', '--help').stdout
  source = (LAUNCH / script).read_text()
  flags = re.search(r'^VALUES=\(([^)]*)\)$', source, re.MULTILINE)[1].split()
  switches = re.search(r'^SWITCHES=\((.*)\)$', source, re.MULTILINE)[1].split()
  for verb in VERBS:
    assert f'\n  {verb} ' in text
  for name in [*flags, 'env']:
    assert f'\n  --{name}=' in text
  for name in switches:
    assert f'\n  --{name.replace("_", "-")} ' in text


@both
def test_a_hyphen_does_for_an_underscore(world, script):
  words = [word.replace('_', '-', 1) for word in FLAGS[script]]
  assert world.script(script, 'create', *words, '--dry_run').returncode == 0


@pytest.mark.parametrize(
  ('accelerator_type', 'count'),
  [
    ('v4-16', 8),
    ('v5p-8', 4),
    ('v5litepod-16', 16),
    ('v6e-4', 4),
    ('v3-8', 8),
    ('v9-8', None),
  ],
)
def test_training_is_told_how_many_devices_to_expect(world, accelerator_type, count):
  flags = [f'--accelerator_type={accelerator_type}', '--dry-run']
  printed = world.launch('tpu_vm.sh', 'start', *flags).stdout
  assert re.findall(r'--device_count=(\d+)', printed) == ([str(count)] if count else [])


def test_the_jobset_is_for_the_slice(world):
  world.launch('gke.sh', 'start', '--spot', '--topology=2x2x4')
  text = (world.folder / 'jobset.yaml').read_text()
  assert '@' not in re.sub('^ *#.*$', '', text, flags=re.MULTILINE)
  jobset = yaml.safe_load(text)
  (replicated,) = jobset['spec']['replicatedJobs']
  job = replicated['template']['spec']
  pod = job['template']['spec']
  # 16 chips on hosts of 4, that fail together.
  assert (job['completionMode'], job['completions'], job['parallelism']) == (
    'Indexed',
    4,
    4,
  )
  assert job['backoffLimit'] == 0
  # Preemptions count, and a failure that comes again and again must end.
  assert jobset['spec']['failurePolicy']['maxRestarts'] == 100
  assert pod['containers'][0]['resources'] == {'limits': {'google.com/tpu': 4}}
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-nodepool': 'slice',
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v4-podslice',
    'cloud.google.com/gke-tpu-topology': '2x2x4',
  }
  assert pod['tolerations'][0]['key'] == 'cloud.google.com/gke-spot'
  (install,) = pod['initContainers']
  assert expanded(install['command'][-1]) == (
    'python3 -m venv /hyperprompt/venv && /hyperprompt/venv/bin/pip install --quiet '
    '--constraint /hyperprompt/wheel/constraints.txt '
    '"$(echo /hyperprompt/wheel/hyperprompt_jax-*.whl)[tpu]"'
  )
  assert pod['containers'][0]['command'] == ['sh', '/hyperprompt/train/train.sh']
  assert {
    (mount['name'], mount['mountPath']) for mount in pod['containers'][0]['volumeMounts']
  } == {(name, f'/hyperprompt/{name}') for name in ('wheel', 'venv', 'train')}
  assert pod['volumes'][1] == {
    'name': 'train',
    'secret': {'secretName': 'slice', 'defaultMode': 0o400},
  }
  # A mistake in training, and not in the install, ends it all.
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob'
  assert rule['onExitCodes'] == {
    'containerName': pod['containers'][0]['name'],
    'operator': 'In',
    'values': [2],
  }
  (rule,) = jobset['spec']['failurePolicy']['rules']
  assert (rule['action'], rule['onJobFailureReasons']) == (
    'FailJobSet',
    ['PodFailurePolicy'],
  )
