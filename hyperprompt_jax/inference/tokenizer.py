"""Texts and tokens of a model's vocabulary, as SeqIO makes them, without TensorFlow."""

import os
import re
from collections.abc import Sequence
from typing import Any, Protocol

from hyperprompt_jax.checkpoints.storage import check_file
from hyperprompt_jax.configuration import recorded
from hyperprompt_jax.errors import UserError

# The id that ends a text of bytes.
_EOS = 1
_SPECIAL, _BYTES = 3, 256
# The sentinels that T5 adds to a model that lacks them.
EXTRA_IDS = 100
_USER_DEFINED = 4
_LARGEST_BYTES = 2**28


class Tokenizer(Protocol):
  """Maps texts to tokens and back."""

  @property
  def vocab_size(self) -> int:
    """The number of ids."""

  @property
  def eos_id(self) -> int:
    """The token that ends a text."""

  def encode(self, text: str) -> list[int]:
    """Returns the tokens of a text, without EOS."""

  def decode(self, tokens: Sequence[int]) -> str:
    """Returns the text of tokens, up to the first EOS."""

  def count_unknown(self, tokens: Sequence[int]) -> int:
    """Returns the number of tokens that stand for a piece which is not known."""


class ByteTokenizer:
  """The vocabulary of ByT5: each byte of UTF-8 is a token."""

  vocab_size = _SPECIAL + _BYTES
  eos_id = _EOS

  def encode(self, text: str) -> list[int]:
    """Returns the tokens of a text, without EOS."""
    return [byte + _SPECIAL for byte in text.encode('utf-8')]

  def decode(self, tokens: Sequence[int]) -> str:
    """Returns the text of tokens, up to the first EOS."""
    kept = _until_eos(tokens, _EOS)
    values = [token - _SPECIAL for token in kept if 0 <= token - _SPECIAL < _BYTES]
    return bytes(values).decode('utf-8', errors='ignore')

  def count_unknown(self, tokens: Sequence[int]) -> int:
    """Returns 0: every text is made of bytes."""
    del tokens
    return 0


class SentencePieceTokenizer:
  """A SentencePiece model, with T5's sentinels.

  Args:
    path: names the model's file.
    contents: are the bytes of the file.
    sentinels: is the number of sentinels to add to a model that has none.

  Raises:
    UserError: if they are no SentencePiece model, or text cannot end in it.
  """

  def __init__(self, path: str, contents: bytes, sentinels: int = EXTRA_IDS):
    import sentencepiece

    try:
      processor = sentencepiece.SentencePieceProcessor(model_proto=contents)
      first = ('<extra_id_0>', '▁<extra_id_0>')
      unknown = processor.unk_id()
      if all(processor.piece_to_id(piece) == unknown for piece in first):
        processor = sentencepiece.SentencePieceProcessor(
          model_proto=_with_sentinels(contents, sentinels)
        )
    except (RuntimeError, ValueError, TypeError) as error:
      raise UserError(f'{path} is no SentencePiece model: get it again') from error
    self._processor: Any = processor
    self._unknown = processor.unk_id()
    self.eos_id = processor.eos_id()
    self.vocab_size = processor.get_piece_size()
    if self.eos_id <= 0:
      raise UserError(f'{path} has no piece that ends a text: it is no vocabulary of a T5')

  def encode(self, text: str) -> list[int]:
    """Returns the tokens of a text, without EOS."""
    return self._processor.encode(text)

  def decode(self, tokens: Sequence[int]) -> str:
    """Returns the text of tokens, up to the first EOS."""
    known = [self._unknown if t >= self.vocab_size else int(t) for t in tokens]
    return self._processor.decode(_until_eos(known, self.eos_id))

  def count_unknown(self, tokens: Sequence[int]) -> int:
    """Returns the number of tokens that stand for a piece which is not known."""
    return list(tokens).count(self._unknown)


def open_tokenizer(name: str) -> Tokenizer:
  """Opens a vocabulary.

  Args:
    name: is 'bytes', a SentencePiece file, or a folder that holds one, as Hugging Face's
      do; or `gs://…` of such a file.

  Raises:
    UserError: if it cannot be read.
  """
  if name == recorded.BYTES:
    return ByteTokenizer()
  match = re.fullmatch(r'(.+):(\d{1,6})', name)
  path, sentinels = (match[1], int(match[2])) if match else (name, EXTRA_IDS)
  if '://' in path:
    from etils import epath

    return SentencePieceTokenizer(path, epath.Path(path).read_bytes(), sentinels)
  if os.path.isdir(path):
    return _of_folder(path)
  check_file(path, _LARGEST_BYTES)
  with open(path, 'rb') as file:
    return SentencePieceTokenizer(path, file.read(), sentinels)


def _of_folder(folder: str) -> Tokenizer:
  """Opens the vocabulary of a Hugging Face model."""
  import hyperprompt_tasks  # and with it TensorFlow, which runs do not need

  if hyperprompt_tasks.is_bytes(folder):
    return ByteTokenizer()
  path, sentinels = hyperprompt_tasks.vocabulary_file(folder)
  return open_tokenizer(f'{path}:{sentinels}')


def _until_eos(tokens: Sequence[int], eos: int) -> list[int]:
  kept = list(tokens)
  return kept[: kept.index(eos) + 1] if eos in kept else kept


def _with_sentinels(contents: bytes, number: int) -> bytes:
  """Appends sentinels to a SentencePiece model, the first with the highest id."""
  from sentencepiece import sentencepiece_model_pb2

  # The class is made at run time, so that a checker of types does not see it.
  model = vars(sentencepiece_model_pb2)['ModelProto'].FromString(contents)
  for sentinel in reversed(range(number)):
    piece = model.pieces.add()
    piece.piece = f'▁<extra_id_{sentinel}>'
    piece.score = 0.0
    piece.type = _USER_DEFINED
  return model.SerializeToString()
