import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def prose(tmp_path):
  """Runs the check on modules: returns its exit status and the lines that it prints."""

  def run(*sources, flags=()):
    for number, source in enumerate(sources):
      (tmp_path / f'm{number:02}.py').write_text(source)
    command = [sys.executable, '-m', 'tools.prose', str(tmp_path), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.replace(f'{tmp_path}/', '').splitlines()

  return run


def described(*entries, section='Args'):
  lines = ''.join(f'    {entry}\n' for entry in entries)
  docstring = f'Builds.\n\n  {section}:\n{lines}\n  Returns:\n    The house.\n  '
  return f'def build(x):\n  """{docstring}"""\n'


def test_a_name_that_is_no_noun_fails_wherever_it_is_given(prose):
  sources = (
    'found = 1',
    'self.said = 1',
    'def of(x): pass',
    'def f(moving): pass',
    'def f(*, moved=1): pass',
    'for found in x: pass',
    'y = [said for said in x]',
    'with open(x) as found: pass',
    'import os as of',
    'class Result:\n  found: int = 1',
    'f = lambda said: 1',
    'if (found := f()): pass',
    'try: pass\nexcept OSError as said: pass',
  )
  status, lines = prose(*sources)
  assert status == 1
  assert [line[:6] for line in lines] == [
    f'm{number:02}.py' for number in range(len(sources))
  ]
  assert all('is not a noun that says what it holds' in line for line in lines)


def test_names_that_are_only_read_or_are_part_of_others_pass(prose):
  assert prose('x = module.found\nnot_found = np.moved_axis(x)\nf(of=1)\n') == (0, [])


@pytest.mark.parametrize('section', ('Args', 'Attributes'))
def test_an_entry_without_a_verb_fails(prose, section):
  entries = (
    'x: The mesh of devices.',
    'x: The width of one head, k.',
    'x (int): names of tasks.',
    'x: int32 scalar, steps done.',
    'x: `[B, P]` names.',
    'x: the tokens,\n      and their segments.',
    'rows: share of the tokens.',
    'x: override the rest.',
    'x:',
  )
  status, lines = prose(*(described(entry, section=section) for entry in entries))
  assert status == 1
  assert len(lines) == len(entries)
  assert all(line[6:9] == ':5:' and 'has no verb' in line for line in lines)


def test_an_entry_that_begins_without_its_noun_fails(prose):
  status, lines = prose(
    described(
      'x: of the network.', 'y: What was read.', 'z: that it holds.', 'u: by which it is.'
    )
  )
  assert status == 1
  assert [line.split('"')[3] for line in lines] == ['of', 'what', 'that', 'by']


def test_a_docstring_that_begins_without_its_noun_fails(prose):
  status, lines = prose(
    '"""What is built."""\n',
    'class House:\n  """Whose it is."""\n',
    'def build():\n  """Whether it stands."""\n',
  )
  assert status == 1
  assert [line.split(':')[:2] for line in lines] == [['m00.py', '1'], ['m01.py', '2']]
  assert [line.split('"')[3] for line in lines] == ['what', 'whose']


def test_an_entry_with_a_verb_passes(prose):
  entries = (
    'x: is the mesh of devices.',
    'x: the mesh that holds the parameters.',
    'x: names the mesh.',
    'x: places parameters and batches on the device mesh.',
    'x: whether rows hold several examples.',
    'x (int): the rows that share a prompt.',
    'x: the mesh,\n      which may be None.',
    "x: the device's mesh isn't read.",
    '*x, y: carries the rest.',
    '**x: override the rest.',
    'rows: share a prompt.',
  )
  assert prose(described(*entries), described(*entries, section='Attributes')) == (0, [])


def test_an_entry_that_begins_with_a_capital_letter_fails_unless_it_is_a_name(prose):
  status, lines = prose(
    described('x: Is the mesh.', 'y: A mesh is given.', 'z: MODEL_DIR is empty.'),
    described('x: SeqIO has it.', 'y: T5X has it.', 'z: `B` is a row.'),
  )
  assert status == 1
  assert [line.split('"')[1] for line in lines] == [
    'x: Is the mesh.',
    'y: A mesh is given.',
  ]
  assert all('begins with a capital letter' in line for line in lines)


def test_an_error_is_described_in_lower_case(prose):
  status, lines = prose(
    described(
      'E: If it is wet.', 'F: if it is wet.', 'G: MODEL_DIR is wet.', section='Raises'
    )
  )
  assert status == 1
  assert [line.split('"')[1] for line in lines] == ['E: If it is wet.']


def test_every_entry_is_looked_at_and_other_sections_are_not(prose):
  status, lines = prose(described('x: the mesh.', 'y: holds rows.', 'z: the rows.'))
  assert status == 1
  assert [line.split('"')[1] for line in lines] == ['x: the mesh.', 'z: the rows.']


def test_the_report_counts_by_folder_and_passes(prose):
  source = 'found = 1\n' + described('x: the mesh.', 'y: of it.', 'z: Is it.', 'u: is it.')
  status, lines = prose(source, flags=['--report'])
  assert status == 0
  assert lines[-1].split()[1:] == ['1', '4', *('1', '25.0%') * 3]
