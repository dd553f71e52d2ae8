"""Tokens without TensorFlow are those of SeqIO's vocabularies."""

import pathlib

import pytest
import seqio

import hyperprompt_tasks
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.inference.tokenizer import open_tokenizer

MODEL = pathlib.Path(seqio.__file__).parent / 'test_data' / 'sentencepiece'
TEXTS = ['', 'a', 'This is a test.', 'né <extra_id_0> é\n\t x', '日本 🙂', '  two  blanks ']


@pytest.fixture
def names(tmp_path):
  """The vocabularies by name: bytes, a file, and the folder of a Hugging Face model."""
  contents = (MODEL / 'sentencepiece.model').read_bytes()
  (tmp_path / 'spiece.model').write_bytes(contents)
  return ['bytes', str(MODEL / 'sentencepiece.model'), str(tmp_path)]


def test_tokens_and_texts_are_those_of_seqio(names):
  for name in names:
    ours = open_tokenizer(name)
    theirs = hyperprompt_tasks.use_vocabulary(name)
    assert ours.vocab_size == theirs.vocab_size
    for text in TEXTS:
      tokens = ours.encode(text)
      assert tokens == theirs.encode(text), (name, text)
      assert ours.decode([*tokens, 1, 9, 9]) == theirs.decode([*tokens, 1, 9, 9])
    strange = [0, 2, 5, 10**6, ours.vocab_size - 1, ours.vocab_size, 1, 7]
    assert ours.decode(strange) == theirs.decode(strange)


def test_unknown_pieces_are_counted(names):
  known, spiece, _ = map(open_tokenizer, names)
  assert known.count_unknown(known.encode('日本')) == 0
  # The model has few letters: no capital, and no `b`.
  assert spiece.count_unknown(spiece.encode('a test is a test')) == 0
  assert spiece.count_unknown(spiece.encode('a 日 test b')) == 2


@pytest.mark.parametrize(
  ('contents', 'message'),
  [(b'no model', 'is no SentencePiece model'), (None, 'cannot be read')],
)
def test_a_file_that_is_no_vocabulary(tmp_path, contents, message):
  path = tmp_path / 'x.model'
  if contents is not None:
    path.write_bytes(contents)
  with pytest.raises(UserError, match=message):
    open_tokenizer(str(path))
