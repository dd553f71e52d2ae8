"""Advice for frequent mistakes: names of other programs, forgotten flags, wrong verbs."""

from collections.abc import Collection, Sequence

from hyperprompt_jax.errors import nearest

# Verbs of other programs, and ours for the same purpose.
_VERBS = {
  'compare': 'eval --compare',
  'evaluate': 'eval',
  'finetune': 'train',
  'fit': 'train',
  'generate': 'infer',
  'help': '--help',
  'predict': 'infer',
  'run': 'train',
  'test': 'eval',
  'validate': 'eval',
}
# Flags of other programs, and ours for the same purpose.
_FLAGS = {
  '--bf16': '--dtype=bfloat16',
  '--checkpoint': '--init',
  '--config': '--gin_file',
  '--dataset': '--mixture',
  '--dropout': '--dropout_rate',
  '--fp16': '--dtype=bfloat16',
  '--init_checkpoint': '--init',
  '--lr': '--learning_rate',
  '--max_length': '--lengths',
  '--max_steps': '--train_steps',
  '--model_name_or_path': '--init',
  '--num_train_steps': '--train_steps',
  '--output_dir': '--model_dir',
  '--per_device_train_batch_size': '--batch_size',
  '--save_steps': '--checkpoint_period',
  '--steps': '--train_steps',
  '--task': '--mixture',
  '--tasks': '--mixture',
  '--workdir': '--model_dir',
}
# Flags of other programs that are not needed here, and why.
_NEEDLESS = {
  '--devices': 'all devices of the machine are used',
  '--epochs': 'training is counted in steps, by --train_steps',
  '--gpus': 'all devices of the machine are used',
  '--num_epochs': 'training is counted in steps, by --train_steps',
  '--num_gpus': 'all devices of the machine are used',
  '--num_train_epochs': 'training is counted in steps, by --train_steps',
  '--overwrite_output_dir': 'a new run needs a new --model_dir',
  '--resume': 'the same command goes on where the run stopped',
  '--resume_from_checkpoint': 'the same command goes on where the run stopped',
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
  other, _, its_value = _FLAGS.get(flag, '').partition('=')
  if flag in options:
    return f' (did you mean {flag}{equals}{value}?)'
  if other == '--mixture' and ',' in value:
    return ': leave it out; --mixture names one task, or one mixture of several'
  if other in options:
    given = f'={its_value}' if its_value else f'{equals}{value}'
    return f' (did you mean {other}{given}?)'
  if flag in _NEEDLESS and '--train_steps' in options:
    return f': leave it out; {_NEEDLESS[flag]}'
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
