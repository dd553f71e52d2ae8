"""The one vocabulary of this process, which the tasks look up when they are used.

SeqIO fixes a task's vocabulary when the task is registered. Our tasks are registered when
this package is imported, before a user can choose a vocabulary. So all tasks are
registered with one object that stands for the vocabulary in use.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import seqio
import tensorflow as tf
from google.protobuf import message
from typing_extensions import override

from hyperprompt_tasks import errors, model_folder, storage

# T5's own. The file holds 32,000 pieces and the 100 sentinels.
DEFAULT_VOCABULARY = 'gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model'
BYTES = 'bytes'
HUGGING_FACE_FILE = model_folder.SPIECE_FILE
EXTRA_IDS = 100
# SeqIO pads with id 0 whatever the vocabulary is, and the loss ignores padding.
_PADDING = 0

_in_use: dict[str, seqio.Vocabulary] = {}


def use_vocabulary(name: str) -> seqio.Vocabulary:
  """Sets the vocabulary of every `hp_` task in this process and returns it.

  Datasets that exist already keep the vocabulary that they were made with.

  Args:
    name: is `bytes`, or the path of a SentencePiece model file, local or `gs://`,
      or of a local folder of a Hugging Face model. A file without T5's 100 sentinels gets
      them at its end, so that the 32,000-piece file that other libraries ship gives T5's
      32,100 ids (docs/reference/task_specification.md, section 1). `FILE:N` adds N in
      their place. A folder tells their number itself.

  Raises:
    VocabularyError: if the file is absent or is no SentencePiece model, Google Cloud
      Storage does not answer, or the ids do not fit T5: id 0 is not padding, or no piece
      ends a text.
  """
  if not isinstance(name, str) or not name:
    raise errors.VocabularyError(
      f'VOCABULARY is {str(name)[:80]!r}; expected {BYTES!r} or the path of a '
      'SentencePiece model file'
    )
  is_bytes = name == BYTES or (os.path.isdir(name) and model_folder.is_bytes(name))
  vocabulary = seqio.ByteVocabulary() if is_bytes else _sentencepiece(name)
  _in_use['vocabulary'] = vocabulary
  return vocabulary


def current_vocabulary() -> seqio.Vocabulary:
  """Returns the vocabulary that was set last, or T5's if none was set.

  Raises:
    VocabularyError: if none was set and T5's cannot be read.
  """
  return _in_use.get('vocabulary') or use_vocabulary(DEFAULT_VOCABULARY)


def in_use(vocabulary: seqio.Vocabulary) -> seqio.Vocabulary:
  """Returns the vocabulary itself, or the one that a `TaskVocabulary` stands for now."""
  if isinstance(vocabulary, TaskVocabulary):
    return current_vocabulary()
  return vocabulary


def vocabulary_file(name: str) -> tuple[str, int]:
  """Returns the SentencePiece file that a name of a vocabulary stands for.

  Args:
    name: is that of a file, `FILE:N`, or a folder; see `use_vocabulary`.

  Returns:
    The path, and the number of sentinels to add to a file that has none.

  Raises:
    VocabularyError: if the folder holds no such file, and none can be made of its others.
  """
  if os.path.isdir(name):
    return model_folder.sentencepiece_file(name)
  match = re.fullmatch(r'(.+):(\d{1,6})', name)
  return (match[1], int(match[2])) if match else (name, EXTRA_IDS)


def check_labels(task: str, labels: Sequence[str], vocabulary: seqio.Vocabulary) -> None:
  """Checks that a model can answer with each label, and that all labels differ.

  Args:
    task: is the task that the error names.
    labels: are the closed set of targets of the task.
    vocabulary: the labels are written in this vocabulary.

  Raises:
    VocabularyError: if the tokens of a label stand for another text, as where a piece is
      unknown or blanks are dropped, or two labels have the same tokens.
  """
  owners: dict[tuple[int, ...], str] = {}
  for label in labels:
    tokens = tuple(vocabulary.encode(label))
    text = vocabulary.decode(tokens)
    if text != label:
      raise errors.VocabularyError(
        f'task {task}: VOCABULARY cannot write the label {label!r}, which becomes '
        f'{text!r}; choose other labels or another vocabulary'
      )
    if tokens in owners:
      raise errors.VocabularyError(
        f'task {task}: VOCABULARY writes the labels {owners[tokens]!r} and {label!r} in '
        'the same way; choose other labels or another vocabulary'
      )
    owners[tokens] = label


def _sentencepiece(name: str) -> seqio.Vocabulary:
  path, extra_ids = vocabulary_file(name)
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
  _check_special_ids(path, tokenizer)
  has_sentinels = any(
    tokenizer.PieceToId(piece) != tokenizer.unk_id()
    for piece in ('<extra_id_0>', '▁<extra_id_0>')
  )
  if has_sentinels or not extra_ids:
    return vocabulary
  return seqio.SentencePieceVocabulary(path, extra_ids=extra_ids)


def _check_special_ids(path: str, tokenizer: Any) -> None:
  """Checks that no text becomes padding, and that a text can end.

  A model that falls back to bytes has no unknown text, so its unknown piece may be id 0.

  Raises:
    VocabularyError: if a piece of text has the id of padding, or no piece ends a text.
  """
  advice = 'train the model with --pad_id=0 --eos_id=1 --unk_id=2, as T5 does'
  falls_back_to_bytes = tokenizer.IsByte(tokenizer.PieceToId('<0x00>'))
  if tokenizer.unk_id() == _PADDING and not falls_back_to_bytes:
    raise errors.VocabularyError(
      f'vocabulary {path}: its unknown piece has the id 0, which is padding, so unknown '
      f'text would be masked; {advice}'
    )
  if tokenizer.unk_id() != _PADDING and not (
    tokenizer.IsControl(_PADDING) or tokenizer.IsUnused(_PADDING)
  ):
    raise errors.VocabularyError(
      f'vocabulary {path}: its piece {tokenizer.IdToPiece(_PADDING)!r} has the id 0, which '
      f'is padding, so it would be masked; {advice}'
    )
  if tokenizer.eos_id() <= _PADDING:
    raise errors.VocabularyError(
      f'vocabulary {path}: it has no piece that ends a text; {advice}'
    )


class TaskVocabulary(seqio.Vocabulary):
  """Stands for the vocabulary that is in use at the time of a call.

  It holds no state, so that copies and pickles belong to the process that they are in. It
  equals the vocabulary that it stands for, because T5X compares vocabularies.
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
    # SeqIO compares the tasks of a mixture. Two of these are one vocabulary, and finding
    # that out must not read a file.
    return isinstance(other, TaskVocabulary) or current_vocabulary() == other

  def __str__(self) -> str:
    return f'TaskVocabulary({current_vocabulary()})'
