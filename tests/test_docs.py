"""The documents: links resolve, and the verbs, flags and files of their commands exist."""

import importlib
import json
import pathlib
import re
import shlex
import subprocess

import pytest

from hyperprompt_jax.cli import arguments, command
from hyperprompt_jax.configuration import checks, gin_files

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md')])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SOURCES = ('.py', '.sh', '.gin', '.toml', '.service', 'Makefile')
# The project's own folders, whatever else a demo or a build has left there.
TRACKED = subprocess.run(
  ['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.splitlines()
FOLDERS = {file.split('/')[0] for file in TRACKED if '/' in file and file[0] != '.'}


def without_code(text):
  return re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.MULTILINE)


def anchors(page):
  """The anchors that GitHub gives to a page's headings."""
  headings = re.findall(r'^#+ (.*)$', without_code(page.read_text()), re.MULTILINE)
  texts = (re.sub(r'[^\w\- ]', '', heading.lower()) for heading in headings)
  return {text.replace(' ', '-') for text in texts}


def blocks(text):
  """The commands of a page's code blocks, with continued lines joined."""
  for block in re.findall(r'^```\n(.*?)^```', text, re.DOTALL | re.MULTILINE):
    yield from block.replace('\\\n', ' ').splitlines()


def commands():
  """Returns page and words of each command in the documents that runs our programs."""
  for page in PAGES:
    text = page.read_text()
    inline = re.findall(r'`((?:hyperprompt|python -m|make) [^`]*)`', without_code(text))
    for line in [*blocks(text), *(part.replace('\n', ' ') for part in inline)]:
      line = re.sub(r'^(\s*[A-Z_]+=\S+ )*(\S*/)?(?=hyperprompt |python )', '', line.strip())
      if re.match(r'(hyperprompt|python -m|make) ', line):
        yield str(page.relative_to(ROOT)), shlex.split(line, comments=True)


COMMANDS = list(commands())
OURS = {
  ' '.join(words[1:]): (page, words)
  for page, words in COMMANDS
  if words[0] == 'hyperprompt'
}


class Parsed(Exception):
  """Raised when a verb has parsed its flags."""


@pytest.fixture
def parse(monkeypatch):
  """Runs a verb as far as its flags are parsed; returns the parser and the bindings."""

  def stop(parser, words):
    raise Parsed(parser, words)

  real = arguments.Parser.parse
  monkeypatch.setattr(arguments.Parser, 'parse', stop)

  def run(verb, words, whole):
    with pytest.raises(Parsed) as parsed:
      importlib.import_module(f'hyperprompt_jax.cli.{verb}').parse(words)
    parser, words = parsed.value.args
    return parser, real(parser, words).bindings if whole else []

  return run


@pytest.mark.parametrize('name', NAMES)
def test_links_resolve(name):
  page = ROOT / name
  wrong = []
  for link in re.findall(r'\]\(([^)\s]+)\)', without_code(page.read_text())):
    path, _, anchor = link.partition('#')
    target = (page.parent / path).resolve() if path else page
    if re.match(r'https?://', link):
      continue
    if not target.exists() or (anchor and anchor not in anchors(target)):
      wrong.append(link)
  assert not wrong


def test_every_page_is_in_the_index():
  index = ROOT / 'docs' / 'README.md'
  linked = {
    (index.parent / link).resolve()
    for link in re.findall(r'\]\(([^)#\s]+)\)', index.read_text())
  }
  pages = {page for page in PAGES if page.is_relative_to(ROOT / 'docs')} - {index}
  assert {
    p for p in pages if p.parent.name != 'decisions' or p.name == 'README.md'
  } <= linked


def test_every_decision_has_a_date_a_context_a_decision_and_a_consequence():
  parts = (rf'- \*\*{part}\.\*\* .+' for part in ('Context', 'Decision', 'Consequence'))
  form = r'[^\n]+\n\n2026-\d\d-\d\d\n\n' + ''.join(parts)
  for page in sorted(ROOT.glob('docs/decisions/[a-z]*.md')):
    _, *records = page.read_text().split('\n## ')
    assert records, page
    wrong = [text for text in records if not re.fullmatch(form, text, re.DOTALL)]
    assert not wrong, page


@pytest.mark.parametrize('name', NAMES)
def test_files_that_a_page_names_are_there(name):
  text = without_code((ROOT / name).read_text())
  paths = re.findall(r'`((?:[\w-]+/)+[\w-]+\.(?:py|sh|gin|json|toml|service))`', text)
  assert not [p for p in paths if p.split('/')[0] in FOLDERS and not (ROOT / p).exists()]


def test_pages_that_the_code_names_are_there():
  listed = subprocess.run(
    ['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True
  )
  files = [ROOT / file for file in listed.stdout.split('\0') if file.endswith(SOURCES)]
  assert len(files) > 200
  wrong = [
    f'{file.relative_to(ROOT)}: {page}'
    for file in files
    if file.exists()
    for page in re.findall(r'\bdocs/[\w/.-]+\.md\b', file.read_text(encoding='utf-8'))
    if not (ROOT / page).exists()
  ]
  assert not wrong


@pytest.mark.parametrize('line', sorted(OURS))
def test_a_command_of_ours_parses(line, parse):
  page, (_, verb, *words) = OURS[line]
  if verb in ('VERB', '--help', '--version'):
    return
  assert verb in command.VERBS, page
  if not words or words == ['--help']:
    return
  elided = any('…' in word or 'METHOD' in word for word in words)
  parser, bindings = parse(verb, words, whole=not elided)
  flags = {
    word.split('=')[0] for word in words if word[:2] == '--' and word[:6] != '--gin.'
  }
  assert flags <= set(parser._option_string_actions), page
  files = [word.removeprefix('--gin_file=') for word in words if word[:10] == '--gin_file']
  exist = all((gin_files.gin_directory() / file).exists() for file in files)
  if verb != 'train' or elided or not exist:
    return
  # A checkpoint that gives the size is not there, and neither are files of own tasks.
  reads_files = any(file.startswith('tasks/') for file in files)
  if checks.check(files, bindings).size_from is None and not reads_files:
    gin_files.parse(files, bindings)


def test_the_gin_files_of_commands_are_there():
  files = [
    word.removeprefix('--gin_file=')
    for _, words in COMMANDS
    for word in words
    if re.match(r'--gin_file=(models|methods|runs|t5x)/\w+\.gin', word)
    and 'METHOD' not in word
  ]
  assert len(files) > 30
  assert not [file for file in files if not (gin_files.gin_directory() / file).exists()]


def test_modules_and_make_targets_of_commands_are_there():
  targets = re.findall(r'^([\w./-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
  wrong = []
  for page, words in COMMANDS:
    if words[0] == 'make':
      names = [word for word in words[1:] if '=' not in word and '…' not in word]
      wrong += [f'{page}: make {name}' for name in names if name not in targets]
    elif words[0] == 'python' and words[2].split('.')[0] in FOLDERS:
      path = ROOT.joinpath(*words[2].split('.'))
      if not (path.with_suffix('.py').exists() or (path / '__main__.py').exists()):
        wrong.append(f'{page}: {words[2]}')
  assert not wrong


def test_the_readme_counts_the_parameters_of_xxl(capsys):
  files = [
    f'--gin_file={name}.gin' for name in ('models/xxl', 'methods/hyperprompt_global')
  ]
  assert command.main(['params', *files, '--json']) == 0
  counts = json.loads(capsys.readouterr().out)
  text = ' '.join((ROOT / 'README.md').read_text().split())
  assert f"adds {counts['task']:,} parameters to XXL's {counts['backbone']:,}" in text
  assert f'for eight tasks, {100 * counts["ratio"]:.3f} %' in text


def test_every_name_of_paper_to_code_resolves():
  text = (ROOT / 'docs' / 'paper_to_code.md').read_text()
  names = re.findall(r'`(hyperprompt_(?:jax|tasks)[\w.]*)`', text)
  assert len(names) > 25
  for name in names:
    resolve(name)
  with pytest.raises(AttributeError):
    resolve('hyperprompt_jax.methods.hyperprompt.NoSuchMethod')


def resolve(name):
  """Imports the longest module that a dotted name begins with, and gets the rest."""
  parts, rest = name.split('.'), []
  while True:
    try:
      value = importlib.import_module('.'.join(parts))
      break
    except ModuleNotFoundError:
      rest.insert(0, parts.pop())
  for attribute in rest:
    value = getattr(value, attribute)
  return value


def test_the_network_of_the_readme_runs():
  text = (ROOT / 'README.md').read_text()
  (example,) = re.findall(r'^```python\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
  assert len(example.splitlines()) <= 14
  names = {}
  exec(example, names)
  assert names['logits'].shape == (2, 8, 256)


def python_blocks(page):
  return re.findall(r'^```python\n(.*?)^```', (ROOT / page).read_text(), re.M | re.DOTALL)


@pytest.mark.slow(held_by='test_the_network_of_the_readme_runs')
def test_the_example_of_nnx_lowers_its_loss():
  (example,) = python_blocks('docs/how_to/nnx.md')
  names = {}
  exec(example, names)
  first, *_, last = map(float, names['losses'])
  assert last < first


def test_the_reference_lists_every_verb():
  text = (ROOT / 'docs/reference/runs.md').read_text()
  verbs = re.findall(r'^\| `(\w+)` \| ', text, re.MULTILINE)[: len(command.VERBS)]
  assert sorted(verbs) == sorted(command.VERBS)
