"""Mistakes of newcomers: each is answered by one line, and the line's advice works.

The commands run as far as the verb's own checks, before TensorFlow and JAX are imported.
`followed` does what a message says and nothing else.
"""

import json
import re
import shlex
import subprocess
import sys

import pytest

import hyperprompt_tasks  # noqa: F401 - registers its tasks
from hyperprompt_jax.cli import command, train
from hyperprompt_jax.configuration import tasks
from hyperprompt_jax.errors import UserError
from hyperprompt_tasks.registration import seqio

SIZE, METHOD, RECIPE = FILES = (
  '--gin_file=models/tiny.gin',
  '--gin_file=methods/hyperprompt_global.gin',
  '--gin_file=runs/finetune.gin',
)
REQUIRED = ('--mixture=hp_builtin', '--lengths=18,8', '--train_steps=5', '--model_dir=/run')
RUN = ('train', *FILES, *REQUIRED)
TRUST = '--trust_gin'  # the folder has a config.gin and no record
PLAN = ('plan', '--gin_file=models/base.gin', METHOD)
# The values that a message leaves open.
VALUES = {
  '--model_dir': 'RUN',
  '--mixture': 'hp_builtin',
  '--lengths': '18,8',
  '--train_steps': '5',
}

# The last word of each of the first commands is mistaken.
MISTAKES = {
  'a verb with a typo': ('trian', *RUN[1:]),
  'the verb of another program': (
    *('predict', '--model_dir=RUN', '--task=a', '--output=b', TRUST),
  ),
  'a verb that is a flag': ('compare', 'RUN'),
  'several tasks': (*RUN, '--tasks=copy,reverse'),
  'no flags at all': ('train',),
  'no size': ('train', METHOD, RECIPE, *REQUIRED),
  'no method': ('train', SIZE, RECIPE, *REQUIRED),
  'no recipe': ('train', SIZE, METHOD, *REQUIRED),
  'two methods': (*RUN, '--gin_file=methods/mtl.gin'),
  'two sizes': (*RUN, '--gin_file=models/small.gin'),
  'a gin file with a typo': ('train', '--gin_file=models/tny.gin', *RUN[2:]),
  'a gin file without its ending': ('train', '--gin_file=models/tiny', *RUN[2:]),
  'gin files without a flag': ('train', *FILES[:2], 'runs/finetune.gin', *REQUIRED),
  'the method as a flag': ('train', SIZE, RECIPE, *REQUIRED, '--method=hyperprompt_globl'),
  'an optimizer by its name': (*RUN, '--optimizer=adamw'),
  'a flag with hyphens': (*RUN, '--batch-size=4'),
  'a flag of another program': (*RUN, '--lr=1e-4'),
  'a macro with a typo': (*RUN, '--gin.BATCH_SIZ=4'),
  'a parameter with a typo': (*RUN, '--gin.config.Config.emb_dims=8'),
  'a class with a typo': (*RUN, '--gin.config.Confg.emb_dim=8'),
  'a reference with a typo': (*RUN, '--optimizer=@optimizers.adafacto()'),
  'a text without quotes': ('train', *FILES, *REQUIRED[:-1], '--gin.MODEL_DIR=/run'),
  'a number with commas': (*RUN, '--eval_period=10,000'),
  'a decimal comma': (*RUN, '--learning_rate=0,001'),
  'a number with an exponent': (
    'train',
    *FILES,
    *REQUIRED[:2],
    '--train_steps=1e5',
    '--model_dir=/run',
  ),
  'epochs': (*RUN, '--epochs=3'),
  'a number of GPUs': (*RUN, '--num_gpus=8'),
  'a flag to go on': (*RUN, '--resume'),
  'half precision': (*RUN, '--fp16'),
  'a batch for each device': (*RUN, '--per_device_train_batch_size=8'),
  'a file of another program': ('train', '--config=models/tiny.gin', *RUN[2:]),
  'a step that is none': ('eval', '--model_dir=RUN', TRUST, '--step=last'),
  'a mixture by a part of its name': (
    'train',
    *FILES,
    *REQUIRED[1:],
    '--mixture=super_glue',
  ),
  'a number out of range': (*RUN, '--batch_size=0'),
  'a choice that is none': (*RUN, '--dtype=bf16'),
  'one length': ('train', *FILES, REQUIRED[0], *REQUIRED[2:], '--lengths=512'),
  'a setting given twice': (*RUN, '--gin.BATCH_SIZE=4', '--batch_size=8'),
  'a mixture with a typo': ('train', *FILES, *REQUIRED[1:], '--mixture=hp_bultin'),
  'no folder': ('train', *FILES, *REQUIRED[:-1]),
  'no number of steps': ('train', *FILES, *REQUIRED[:2], REQUIRED[-1]),
  'a folder without a flag': ('eval', 'RUN', TRUST),
  'an accelerator type for a shape': (*PLAN, '--topology=v5litepod-8'),
  'no accelerator': PLAN,
}


def followed(words, message):
  """Returns the command that the message asks for."""
  words = list(words)
  replace = lambda old, *new: [
    w for word in words for w in (new if word == old else [word])
  ]
  if match := re.search(r"no verb '(.+?)' \(did you mean (.+?)\?\)", message):
    return [*match[2].split(), *words[1:]]
  if match := re.search(r"unknown argument '(.+?)' \(did you mean (.+?)\?\)", message):
    return replace(match[1], match[2])
  if match := re.search(r"unknown argument '(.+?)': .* is given as (--\S+)", message):
    return replace(match[1], match[2])
  if match := re.search(r'no gin file (.+?), .*\(did you mean (.+?)\?\)', message):
    return replace(f'--gin_file={match[1]}', f'--gin_file={match[2]}')
  if match := re.search(r'--gin\.(\w+): .*\(did you mean (.+?)\?\)', message):
    return [word.replace(match[1], match[2]) for word in words]
  parameter = r'(?:no parameter|there is no) (\S+) \(did you mean (\S+)\?\)'
  if match := re.search(parameter, message):
    return [word.replace(match[1], match[2]) for word in words]
  if match := re.search(r'(--mixture|--step)(=\S+): .*\(did you mean (.+?)\?\)', message):
    return replace(match[1] + match[2], f'{match[1]}={match[3]}')
  if match := re.search(r"unknown argument '(.+?)': leave it out", message):
    return replace(match[1])
  if match := re.search(r'quotes: (--gin\.\S+=".*?"), or (--\S+)', message):
    (quoted,) = shlex.split(match[1])
    name = quoted.split('=')[0]
    return [quoted if word.startswith(f'{name}=') else word for word in words]
  if match := re.search(r'^(--\S+) (?:has commas|is no .+): write (.+)$', message):
    return replace(match[1], *shlex.split(match[2]))
  if match := re.search(r'and (\S+) each choose .* leave out one of them', message):
    return [word for word in words if not word.endswith(f'={match[1]}')]
  if match := re.search(r'(--\S+) and (--\S+) both set .*give one', message):
    return [word for word in words if not word.startswith(match[2])]
  if match := re.search(r'add the flag, (--model_dir=(\S+))', message):
    return replace(match[2], match[1])
  expected = r'^(--\w+)(?:=\S+: expected .*as| must be.*?(?:from|like|, )) ?(\S+)'
  if match := re.search(expected, message):
    value = match[2].strip("',")
    return [f'{match[1]}={value}' if w.startswith(f'{match[1]}=') else w for w in words]
  added_flags = r'(?:add|train needs [^:]*:|name a slice,) (--\S+(?: --\S+)*)'
  if match := re.search(added_flags, message):
    added = [flag.strip(',;') for flag in match[1].split()]
    return words + [
      f'{flag[:-2]}={VALUES[flag[:-2]]}' if flag.endswith('=…') else flag for flag in added
    ]
  raise AssertionError(f'no advice in {message!r}')


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
  """Runs all commands, and those that the messages ask for, in one new process.

  Returns:
    For each mistake the messages and the seconds of CPU, in the order of the attempts; the
    last message is None if the command has passed its checks.
  """
  folder = tmp_path_factory.mktemp('run')
  (folder / 'config.gin').write_text("METHOD = 'mtl'\nVOCABULARY = 'bytes'\n")
  (folder / 'checkpoints' / '4').mkdir(parents=True)
  code = (
    'import importlib, json, sys, time\n'
    'from hyperprompt_jax.cli import command\n'
    'from hyperprompt_jax.errors import UserError\n'
    'for line in sys.stdin:\n'
    '  verb, *words = json.loads(line)\n'
    '  message, begun = None, time.process_time()\n'
    '  try:\n'
    '    if verb not in command.VERBS:\n'
    '      raise UserError(command.unknown_verb(verb))\n'
    "    importlib.import_module('hyperprompt_jax.cli.' + verb).parse(words)\n"
    '  except UserError as error:\n'
    '    message = str(error)\n'
    "  loaded = sorted({'jax', 'tensorflow', 'seqio'} & {*sys.modules})\n"
    '  print(json.dumps([message, time.process_time() - begun, loaded]), flush=True)\n'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )

  def ask(words):
    process.stdin.write(json.dumps([w.replace('RUN', str(folder)) for w in words]) + '\n')
    process.stdin.flush()
    message, seconds, loaded = json.loads(process.stdout.readline())
    assert loaded == []
    return message and message.replace(str(folder), 'RUN'), seconds

  result = {}
  for name, words in MISTAKES.items():
    attempts = []
    while len(attempts) < 4 and (not attempts or attempts[-1][0]):
      attempts.append(ask(words))
      if attempts[-1][0]:
        words = followed(words, attempts[-1][0])
    result[name] = attempts
  process.stdin.close()
  assert process.wait(10) == 0
  return result


@pytest.mark.parametrize('name', MISTAKES)
def test_the_advice_works(answers, name):
  *messages, last = [message for message, _ in answers[name]]
  assert last is None, (messages, last)
  # A command that lacks several things is told so once or twice, and never the same thing.
  assert 1 <= len(messages) <= (3 if name == 'no flags at all' else 1)
  assert all(len(message.splitlines()) == 1 for message in messages)


def test_every_answer_takes_less_than_half_a_second_of_cpu(answers):
  slowest = max(seconds for attempts in answers.values() for _, seconds in attempts)
  assert slowest < 0.5


@pytest.mark.parametrize(
  ('mixture', 'gin', 'accepted'),
  [
    ('hp_builtin', '', True),
    ('hp_builtin.copy', '', True),
    ('my_tasks', '', True),
    ('hp_bultin', '', False),
    ('hp_bultin', 'import my_module', True),
    ('hp_bultin', "hyperprompt_tasks.from_files.name = 'hp_bultin'", True),
  ],
)
def test_only_a_name_that_nobody_can_have_registered_is_refused(
  mixture, gin, accepted, tmp_path, monkeypatch
):
  monkeypatch.delitem(sys.modules, 'seqio')
  file = tmp_path / 'mine.gin'
  file.write_text(f'import hyperprompt_tasks\n{gin}\n')
  words = [*FILES, f'--gin_file={file}', *REQUIRED[1:], f'--mixture={mixture}']
  if accepted:
    train.parse(words)
  else:
    with pytest.raises(UserError, match='no such task or mixture'):
      train.parse(words)


def test_the_names_of_our_tasks_are_those_of_the_registry():
  names = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  ours = {name for name in names if name.startswith('hp_') and 'hp_test' not in name}
  assert ours == {*tasks.NAMES}


def test_a_verb_of_another_program_is_known_by_its_purpose(capsys):
  assert command.main(['finetune']) == 2
  assert 'did you mean train?' in capsys.readouterr().err
