"""Checks names and docstrings; `make lint` runs it, and `--report` counts for each folder.

Five rules hold in every Python file:

- `name`: no variable, parameter, attribute or method is named `found`, `said`, `of`,
  `moving` or `moved`. A name is a noun that says what it holds.
- `noun`: no entry under "Args:" or "Attributes:" begins with a word that stands for a
  missing noun, as "of the network" and "what was read" do.
- `summary`: no docstring begins with such a word, as "What attention is given" does.
- `verb`: each of these entries has a finite verb. "The mesh of devices." has none; "names
  the mesh of devices.", "is the mesh" and "whether there is a mesh" have one.
- `case`: each of these entries, and each under "Raises:", begins in lower case, because it
  goes on from the name: "mesh: is the mesh of devices.", "UserError: if there is none.".
  Names such as "MODEL_DIR" and "SeqIO" stay as they are.

English verbs have no mark of their own, so the last rule goes by the list `verbs.txt`:

- Auxiliaries ("is", "may") and third persons ("holds") count anywhere.
- Third persons that are plural nouns as well ("names"; a star in the list) count as the
  first word ("names the mesh") unless the next word shows a noun ("names of tasks",
  "steps done"), and after `RELATIVES`.
- Base forms and forms in -ed count after `RELATIVES` ("the rows that share a prompt"), base
  forms also as the first word about a plural ("**macros: override the defaults").

A verb that the list lacks is added to it.
"""

import argparse
import ast
import collections
import dataclasses
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

FOLDERS = ('benchmarks', 'hyperprompt_jax', 'launch', 'studies', 'tasks', 'tests', 'tools')


def words(text: str) -> frozenset[str]:
  """Returns the set of the words of a text."""
  return frozenset(text.split())


FORBIDDEN_NAMES = words('found said of moving moved')
WITHOUT_NOUN = words('by of that what whatever which who whoever whom whose')
RELATIVES = words('also it that they which who')
AFTER_NOUN = words(
  ', . ; : ( ) and or as at between by done during for from given in made of on over per '
  'that to under when where which while whose with without'
)
AUXILIARIES = words(
  'am are can cannot could did do does had has have is may might must shall should was '
  'were will would'
)
LISTED = words((pathlib.Path(__file__).parent / 'verbs.txt').read_text(encoding='utf-8'))
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
DESCRIBED = ('Args', 'Attributes')
SECTION = re.compile(r'(\s*)([A-Z][a-z]+):\s*$')
ENTRY = re.compile(r'\s*([*\w`][\w.,*` ]*?)\s*(?:\([^)]*\))?:(?:\s+(.*))?$')
CAPITALISED = re.compile(r'[A-Z][a-z]*(?!\w)')


def third_person(verb: str) -> str:
  """Returns the third person singular: "carries" for "carry"."""
  if verb.endswith(('s', 'x', 'z', 'ch', 'sh', 'go')):
    return f'{verb}es'
  if verb.endswith('y') and verb[-2] not in 'aeou':
    return f'{verb[:-1]}ies'
  return f'{verb}s'


BASE_FORMS = frozenset(verb.rstrip('*') for verb in LISTED)
VERBS_ALONE = frozenset(third_person(verb) for verb in LISTED if not verb.endswith('*'))
NOUNS_TOO = frozenset(third_person(verb[:-1]) for verb in LISTED if verb.endswith('*'))


@dataclasses.dataclass(frozen=True)
class Violation:
  """A place that breaks a rule.

  Attributes:
    path: is the file that holds the place.
    line: is the line of the place, which counts from 1.
    rule: is the rule's name: 'name', 'noun', 'summary', 'verb' or 'case'.
    message: says what is wrong.
  """

  path: pathlib.Path
  line: int
  rule: str
  message: str

  def __str__(self) -> str:
    return f'{self.path}:{self.line}: {self.message}'


def has_finite_verb(name: str, text: str) -> bool:
  """Returns whether a name's entry has a finite verb, by the rules of this module."""
  forms = NOUNS_TOO | BASE_FORMS if name.endswith('s') or '*' in name else NOUNS_TOO
  text = re.sub(r"(n't|'s|')\b", '', re.sub(r'`[^`]*`', '`', text.lower()))
  tokens = re.findall(r'[a-z]+|`|[.,;:()]', text)
  for before, word, after in zip(['', *tokens], tokens, [*tokens[1:], ''], strict=False):
    if word in AUXILIARIES or word in VERBS_ALONE or (word == 'whether' and not before):
      return True
    is_noun = not after or after in AFTER_NOUN or after.endswith('ed')
    if word in forms and not before and not is_noun:
      return True
    if before in RELATIVES and (word in BASE_FORMS | NOUNS_TOO or word.endswith('ed')):
      return True
  return False


def entries(docstring: str, sections: Sequence[str] = DESCRIBED) -> list[list]:
  """Returns line offset, name and text of each entry of some sections."""
  section = width = None
  result: list[list] = []
  for offset, line in enumerate(docstring.splitlines()):
    indent = len(line) - len(line.lstrip())
    if match := SECTION.match(line):
      section = len(match[1]) if match[2] in sections else None
      width = None
    elif section is None or not line.strip():
      continue
    elif indent <= section:
      section = None
    else:
      width = width or indent
      if indent == width and (match := ENTRY.match(line)):
        result.append([offset, match[1], match[2] or ''])
      elif result:
        result[-1][2] += f' {line.strip()}'
  return result


def documented(tree: ast.AST) -> Iterator[tuple[int, str]]:
  """Yields first line and text of the docstrings of a file, its classes and functions."""
  for node in ast.walk(tree):
    if not isinstance(node, DOCUMENTED):
      continue
    if docstring := ast.get_docstring(node):
      yield node.body[0].lineno, docstring


def summary_violations(path: pathlib.Path, tree: ast.AST) -> Iterator[Violation]:
  """Yields the docstrings that begin without their noun."""
  for line, docstring in documented(tree):
    first = re.findall(r'^[A-Za-z]*', docstring)[0].lower()
    if first in WITHOUT_NOUN:
      summary = docstring.splitlines()[0]
      message = f'"{summary}" begins with "{first}" where a noun is missing'
      yield Violation(path, line, 'summary', message)


def entry_violations(path: pathlib.Path, tree: ast.AST) -> Iterator[Violation]:
  """Yields the entries that break one of the rules for them, with the first such rule."""
  for line, docstring in documented(tree):
    for offset, name, text in entries(docstring, ('Raises',)):
      if CAPITALISED.match(text):
        message = f'"{_quoted(name, text)}" begins with a capital letter'
        yield Violation(path, line + offset, 'case', message)
    for offset, name, text in entries(docstring):
      quote = f'"{_quoted(name, text)}"'
      first = re.findall(r'^[A-Za-z]*', text)[0].lower()
      if first in WITHOUT_NOUN:
        message = f'{quote} begins with "{first}" where a noun is missing'
        yield Violation(path, line + offset, 'noun', message)
      elif not has_finite_verb(name, text):
        yield Violation(path, line + offset, 'verb', f'{quote} has no verb (tools/prose)')
      elif CAPITALISED.match(text):
        message = f'{quote} begins with a capital letter'
        yield Violation(path, line + offset, 'case', message)


def _quoted(name: str, text: str) -> str:
  return f'{name}: {text if len(text) < 50 else text[:47] + "..."}'


def name_violations(path: pathlib.Path, tree: ast.AST) -> Iterator[Violation]:
  """Yields the forbidden names that a file gives to something."""
  for node in ast.walk(tree):
    match node:
      case (
        ast.Name(id=str(name), ctx=ast.Store())
        | ast.Attribute(attr=str(name), ctx=ast.Store())
        | ast.arg(arg=str(name))
        | ast.alias(asname=str(name))
        | ast.ExceptHandler(name=str(name))
        | ast.MatchAs(name=str(name))
        | ast.MatchStar(name=str(name))
        | ast.FunctionDef(name=str(name))
        | ast.AsyncFunctionDef(name=str(name))
        | ast.ClassDef(name=str(name))
      ) if name in FORBIDDEN_NAMES:
        message = f'{name!r} is not a noun that says what it holds'
        yield Violation(path, node.lineno, 'name', message)


def check(path: pathlib.Path) -> tuple[int, list[Violation]]:
  """Returns the number of entries in a file, and its violations in the order of lines."""
  tree = ast.parse(path.read_text(encoding='utf-8'))
  number = sum(len(entries(docstring)) for _, docstring in documented(tree))
  rules = (name_violations, summary_violations, entry_violations)
  violations = [violation for rule in rules for violation in rule(path, tree)]
  return number, sorted(violations, key=lambda violation: violation.line)


def print_report(results: dict[pathlib.Path, tuple[int, list[Violation]]]) -> None:
  """Prints how many names and entries break the rules in each folder, and in all."""
  rows: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  for path, (number, violations) in results.items():
    for folder in {str(path.parent), path.parts[0], 'all'}:
      rows[folder]['entries'] += number
      rows[folder].update(violation.rule for violation in violations)
  columns = ' '.join(f'{head:>12}' for head in ('no noun', 'no verb', 'case'))
  print(f'{"folder":36} {"names":>6} {"entries":>8} {columns}')
  for folder, row in sorted(rows.items()):
    shares = (
      f'{row[rule]} {row[rule] / max(row["entries"], 1):6.1%}'
      for rule in ('noun', 'verb', 'case')
    )
    columns = ' '.join(f'{share:>12}' for share in shares)
    print(f'{folder:36} {row["name"]:6} {row["entries"]:8} {columns}')


def main() -> int:
  """Checks files, prints what breaks a rule, and returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('paths', nargs='*', type=pathlib.Path, help='files or folders')
  parser.add_argument('--report', action='store_true', help='count violations by folder')
  flags = parser.parse_args()
  paths = flags.paths or [pathlib.Path(f) for f in FOLDERS if pathlib.Path(f).is_dir()]
  files = sorted({f for p in paths for f in (p.rglob('*.py') if p.is_dir() else [p])})
  results = {file: check(file) for file in files}
  if flags.report:
    print_report(results)
    return 0
  everything = [violation for _, violations in results.values() for violation in violations]
  print(*everything, sep='\n', end='\n' if everything else '')
  return 1 if everything else 0


if __name__ == '__main__':
  sys.exit(main())
