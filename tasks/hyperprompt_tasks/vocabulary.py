"""The one vocabulary of this process, which the tasks look up when they are used.

SeqIO fixes a task's vocabulary when the task is registered, which is when this package
is imported: before anyone could say which vocabulary to use. So all tasks are
registered with one object that stands for the vocabulary in use.
"""

import os
from typing import Any

import seqio
import tensorflow as tf
from google.protobuf import message
from typing_extensions import override

from hyperprompt_tasks import errors, storage

# T5's own. The file holds 32,000 pieces and the 100 sentinels.
DEFAULT_VOCABULARY = 'gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model'
BYTES = 'bytes'
HUGGING_FACE_FILE = 'spiece.model'
EXTRA_IDS = 100

_in_use: dict[str, seqio.Vocabulary] = {}


def use_vocabulary(name: str) -> seqio.Vocabulary:
  """Sets the vocabulary of every `hp_` task in this process and returns it.

  Datasets that exist already keep the vocabulary that they were made with.

  Args:
    name: `bytes`; a SentencePiece model file, local or `gs://`; or the local folder of a
      Hugging Face model that holds one. A model without T5's 100 sentinels (spec 1) gets
      them at its end, so that the 32,000-piece file that other libraries ship gives T5's
      32,100 ids.

  Raises:
    VocabularyError: the file is absent or no SentencePiece model, or Google Cloud
      Storage does not answer.
  """
  vocabulary = seqio.ByteVocabulary() if name == BYTES else _sentencepiece(name)
  _in_use['vocabulary'] = vocabulary
  return vocabulary


def current_vocabulary() -> seqio.Vocabulary:
  """Returns the vocabulary in use: the last one set, T5's where none was.

  Raises:
    VocabularyError: none was set and T5's cannot be read.
  """
  return _in_use.get('vocabulary') or use_vocabulary(DEFAULT_VOCABULARY)


def in_use(vocabulary: seqio.Vocabulary) -> seqio.Vocabulary:
  """Returns the vocabulary itself, or the one that a `TaskVocabulary` stands for now."""
  if isinstance(vocabulary, TaskVocabulary):
    return current_vocabulary()
  return vocabulary


def vocabulary_file(name: str) -> str:
  """The SentencePiece file that a folder of a Hugging Face model holds, or `name` itself.

  Raises:
    VocabularyError: the folder holds none.
  """
  if not os.path.isdir(name):
    return name
  path = os.path.join(name, HUGGING_FACE_FILE)
  if not os.path.isfile(path):
    raise errors.VocabularyError(
      f'vocabulary {name} is a folder without a {HUGGING_FACE_FILE}: add the file, which '
      'the model was published with, or name a SentencePiece model file'
    )
  return path


def _sentencepiece(name: str) -> seqio.Vocabulary:
  path = vocabulary_file(name)
  if reason := storage.unreachable(path):
    raise errors.VocabularyError(
      f'vocabulary {path} cannot be reached ({reason}): set VOCABULARY to a local copy, '
      f'or to the folder of a Hugging Face model that holds a {HUGGING_FACE_FILE}'
    )
  try:
    vocabulary = seqio.SentencePieceVocabulary(path)
    tokenizer = vocabulary.tokenizer
  except (tf.errors.OpError, OSError, RuntimeError, message.DecodeError) as error:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    raise errors.VocabularyError(
      f'vocabulary {path} cannot be read: {reason}; expected a SentencePiece model '
      f'file, local or gs://, or {BYTES!r}'
    ) from error
  has_sentinels = any(
    tokenizer.PieceToId(piece) != tokenizer.unk_id()
    for piece in ('<extra_id_0>', '▁<extra_id_0>')
  )
  if has_sentinels:
    return vocabulary
  return seqio.SentencePieceVocabulary(path, extra_ids=EXTRA_IDS)


class TaskVocabulary(seqio.Vocabulary):
  """Stands for the vocabulary in use, whichever that is at the time of the call.

  It holds no state, so copies and pickles of it stay bound to the process they are in.
  It equals the vocabulary that it stands for, which the checks of T5X rely on.
  """

  @property
  @override
  def bos_id(self) -> int | None:
    return current_vocabulary().bos_id

  @property
  @override
  def eos_id(self) -> int | None:
    return current_vocabulary().eos_id

  @property
  @override
  def unk_id(self) -> int | None:
    return current_vocabulary().unk_id

  @property
  @override
  def extra_ids(self) -> int:
    return current_vocabulary().extra_ids

  @property
  @override
  def vocab_size(self) -> int:
    return current_vocabulary().vocab_size

  @property
  @override
  def _base_vocab_size(self) -> int:
    return current_vocabulary()._base_vocab_size

  @override
  def _encode(self, s: str) -> Any:
    return current_vocabulary()._encode(s)

  @override
  def _decode(self, ids: Any) -> str:
    return current_vocabulary()._decode(ids)

  @override
  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    return current_vocabulary()._encode_tf(s)

  @override
  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    return current_vocabulary()._decode_tf(ids)

  def __eq__(self, other: object) -> bool:
    # Two of these are one vocabulary; finding that out must not read a file, as SeqIO
    # compares the tasks of a mixture.
    return isinstance(other, TaskVocabulary) or current_vocabulary() == other

  def __str__(self) -> str:
    return f'TaskVocabulary({current_vocabulary()})'
