"""One notation: every letter of an einsum, and of a shape in a docstring, has its entry."""

import ast
import pathlib
import re

import pytest

import hyperprompt_jax
from hyperprompt_jax import nn

PACKAGE = pathlib.Path(hyperprompt_jax.__file__).parent
FILES = sorted(
  [
    *PACKAGE.glob('nn/**/*.py'),
    *PACKAGE.glob('methods/**/*.py'),
    PACKAGE / 'model.py',
    PACKAGE / 'decoding.py',
    PACKAGE / 'sampling.py',
  ]
)


def legend(text):
  """The letters of the legend: one before two spaces, at the start of either column."""
  table = text.split('Legend of axes')[1].split('\n\n')[1]
  return set(re.findall(r'(?:^|\s{2,})([A-Za-z])  (?=\S)', table, re.MULTILINE))


LEGEND = legend(nn.__doc__)


def einsum_letters(source):
  """The letters of each einsum's subscripts, by line.

  Raises:
    ValueError: if subscripts are not written out where they are used.
  """
  letters = {}
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.Call):
      continue
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ''
    if (getattr(node.func, 'id', name)) != 'einsum':
      continue
    # A choice of two subscripts is one of literals, too.
    subscripts = node.args[0]
    choices = (
      [subscripts.body, subscripts.orelse]
      if isinstance(subscripts, ast.IfExp)
      else [subscripts]
    )
    for choice in choices:
      if not isinstance(choice, ast.Constant):
        raise ValueError(f'line {node.lineno}: subscripts of einsum are no literal')
      letters.setdefault(node.lineno, set()).update(re.findall('[A-Za-z]', choice.value))
  return letters


def test_the_legend_is_read_whole():
  assert set('mtldhkber') | set('BSQKPVFNCA') == LEGEND


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_letter_of_an_einsum_is_in_the_legend(path):
  for line, letters in einsum_letters(path.read_text()).items():
    assert letters <= LEGEND, f'{path.name}:{line}: {sorted(letters - LEGEND)}'


def test_einsums_are_seen():
  (attention,) = [path for path in FILES if path.name == 'attention.py']
  assert set('BQKhk') in einsum_letters(attention.read_text()).values()


def test_an_unknown_letter_and_hidden_subscripts_are_noticed():
  (letters,) = einsum_letters("x = jnp.einsum('Bz,zd->Bd', x, y)").values()
  assert letters - LEGEND == {'z'}
  (letters,) = einsum_letters("einsum('mB->m' if x else 'mz->m', x)").values()
  assert letters - LEGEND == {'z'}
  with pytest.raises(ValueError, match='no literal'):
    einsum_letters("jnp.einsum(f'{leading}d,d->d', x, y)")


# Shapes in docstrings and comments: `[B, Q, h * k]`; words, numbers and `...` are free.
SHAPE = re.compile(r'`\[([^\]`]*)\]`|# .*?\[([A-Za-z0-9 ,*+/.]*)\]')


def shape_letters(source):
  """The letters that stand alone in the shapes of a file's docstrings and comments."""
  shapes = (first or second for first, second in SHAPE.findall(source))
  return {letter for shape in shapes for letter in re.findall(r'\b[A-Za-z]\b', shape)}


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_letter_of_a_shape_is_in_the_legend(path):
  # The kernel counts the heads of a block, which has a letter in that file alone.
  own = {'n'} if path.name == 'fused_attention.py' else set()
  assert shape_letters(path.read_text()) <= LEGEND | own
