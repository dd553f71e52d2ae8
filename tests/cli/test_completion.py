"""The script of `hyperprompt completion`, run by bash."""

import subprocess

import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.cli import completion


@pytest.fixture(scope='module')
def script():
  return completion.script()


@pytest.mark.parametrize(
  ('words', 'expected', 'others'),
  [
    (['tr'], ['train'], []),
    (['train', '--batch'], ['--batch_size'], []),
    (['train', '--'], ['--lengths', '--gin_file', '--coordinator_address'], ['--topology']),
    (['plan', '--t'], ['--topology'], ['--train']),
    (['train', '--gin_file', '=', 'models/t'], ['models/tiny.gin'], ['models/base.gin']),
    (['train', '--gin_file', '='], ['methods/mtl.gin', 'runs/finetune.gin'], []),
    (['train', '--mixture', '=', 'hp_b'], ['hp_builtin'], ['hp_glue_v002_proportional']),
    (['eval', 'x'], [], ['--model_dir']),
  ],
)
def test_words_are_completed(script, words, expected, others):
  quoted = ' '.join(f"'{word}'" for word in ['hyperprompt', *words])
  ended = subprocess.run(
    ['bash', '-euc', f'{script}\nCOMP_WORDS=({quoted}) COMP_CWORD={len(words)}\n'
     '_hyperprompt || true; printf "%s\\n" "${COMPREPLY[@]}"'],
    capture_output=True,
    text=True,
    check=True,
  )  # fmt: skip
  completed = ended.stdout.split()
  assert {*expected} <= {*completed} and not {*others} & {*completed}
  assert ended.stderr == ''


def test_the_verb_prints_the_script(script, capsys):
  assert cli.main(['completion']) == 0
  assert capsys.readouterr().out == script
