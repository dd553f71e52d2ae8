"""`hyperprompt completion`: prints a script that completes commands in bash and zsh.

eval "$(hyperprompt completion)"
"""

import contextlib
import importlib
import io
import re
from collections.abc import Iterator, Sequence

from hyperprompt_jax.cli import arguments
from hyperprompt_jax.configuration import paths, tasks

NEEDS = ()
# Bash takes `=` for a word of its own, so that a value stands after its flag and `=`. zsh
# runs the function, too, but does not split words there.
_SCRIPT = """
_hyperprompt() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" flag="${{COMP_WORDS[COMP_CWORD-1]}}" words=''
  [[ $word == '=' ]] && word=''
  [[ $flag == '=' ]] && flag="${{COMP_WORDS[COMP_CWORD-2]}}"
  [[ ${{COMP_WORDS[COMP_CWORD]}} == '=' ]] && flag="${{COMP_WORDS[COMP_CWORD-1]}}"
  if ((COMP_CWORD == 1)); then
    words='{verbs}'
  elif [[ $flag == --gin_file ]]; then
    words='{files}'
  elif [[ $flag == --mixture || $flag == --mixture_or_task_name ]]; then
    words='{mixtures}'
  elif [[ $word == -* ]]; then
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
if [[ -n ${{ZSH_VERSION:-}} ]]; then
  autoload -U +X compinit && compinit
  autoload -U +X bashcompinit && bashcompinit
fi
complete -o default -F _hyperprompt hyperprompt
"""


def parse(words: Sequence[str]) -> arguments.Parsed:
  """Parses the words after the verb."""
  return arguments.Parser('completion', __doc__).parse(words)


def run(parsed: arguments.Parsed) -> None:
  """`hyperprompt completion`."""
  del parsed
  print(script(), end='')


def script() -> str:
  """Returns the script; its flags are those of the verbs' own help."""
  from hyperprompt_jax.cli.command import VERBS

  flags = {verb: ' '.join(_flags(verb)) for verb in VERBS}
  cases = '\n'.join(f"      {verb}) words='{text}' ;;" for verb, text in flags.items())
  return _SCRIPT.lstrip().format(
    verbs=' '.join(VERBS),
    files=' '.join(paths.own_files()),
    mixtures=' '.join(tasks.NAMES),
    cases=cases,
  )


def _flags(verb: str) -> Iterator[str]:
  """Yields the flags of a verb, from its help."""
  page = io.StringIO()
  module = importlib.import_module(f'hyperprompt_jax.cli.{verb}')
  with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
    module.parse(['--help'])
  # A flag is at the start of a line, or follows another name of it.
  for line in re.findall(r'^  (-.*)$', page.getvalue(), re.MULTILINE):
    if not line.startswith('--gin.'):  # the explanation of bindings
      yield from re.findall(r'(?:^|, )(--\w+)', line.split('  ')[0])
