"""Advice for frequent mistakes: names of other programs, forgotten flags, wrong verbs."""

from collections.abc import Collection, Sequence

from hyperprompt_jax.errors import nearest

# Verbs of other programs, and ours for the same purpose.
_VERBS = {
  'evaluate': 'eval',
  'finetune': 'train',
  'fit': 'train',
  'generate': 'infer',
  'predict': 'infer',
  'run': 'train',
  'test': 'eval',
  'validate': 'eval',
}
# Flags of other programs, and ours for the same purpose.
_FLAGS = {
  '--checkpoint': '--init',
  '--dataset': '--mixture',
  '--dropout': '--dropout_rate',
  '--init_checkpoint': '--init',
  '--lr': '--learning_rate',
  '--max_length': '--lengths',
  '--max_steps': '--train_steps',
  '--model_name_or_path': '--init',
  '--num_train_steps': '--train_steps',
  '--output_dir': '--model_dir',
  '--save_steps': '--checkpoint_period',
  '--steps': '--train_steps',
  '--task': '--mixture',
  '--tasks': '--mixture',
  '--workdir': '--model_dir',
}


def for_verb(verb: str, known: Collection[str]) -> str:
  """Returns ` (did you mean …?)` for a verb that does not exist, or nothing."""
  if verb in _VERBS:
    return f' (did you mean {_VERBS[verb]}?)'
  return nearest(verb, known)


def for_argument(word: str, options: Collection[str]) -> str:
  """Returns advice for an argument that a verb does not know.

  Args:
    word: is the argument.
    options: are the verb's flags.
  """
  flag, equals, value = word.partition('=')
  if '--gin_file' in options and word.endswith('.gin') and not word.startswith('-'):
    return f': a gin file is given as --gin_file={word}'
  if '--model_dir' in options and not word.startswith('-') and '/' in word:
    return f': a folder is given as --model_dir={word}'
  flag = f'--{flag.lstrip("-").replace("-", "_")}'
  other = _FLAGS.get(flag)
  if flag in options or other in options:
    return f' (did you mean {flag if flag in options else other}{equals}{value}?)'
  known = [option for option in options if len(option) > 2 and option != '--help']
  hint = nearest(flag, known)
  return f'{hint}; gin bindings are written --gin.NAME=VALUE'


def for_missing(message: str, words: Sequence[str]) -> str:
  """Returns advice for a folder that stands where --model_dir is required, or nothing.

  Args:
    message: is argparse's message.
    words: are the words after the verb.
  """
  if '--model_dir' not in message:
    return ''
  before = ['', *words]
  folders = [
    word
    for word, last in zip(words, before, strict=False)
    if not word.startswith('-') and (not last.startswith('-') or '=' in last)
  ]
  return f': add the flag, --model_dir={folders[0]}' if folders else ''
