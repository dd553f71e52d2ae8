"""The vocabulary in a folder of a Hugging Face model.

Transformers 4 keeps the SentencePiece file of a T5, `spiece.model`. Transformers 5 writes
`tokenizer.json` alone, which holds the same pieces and scores, so that the file can be made
from it. What the result would encode otherwise is refused.
"""

import atexit
import base64
import binascii
import functools
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from hyperprompt_tasks import errors, plain_json

SPIECE_FILE = 'spiece.model'
TOKENIZER_FILE = 'tokenizer.json'
_SETTINGS_FILE = 'tokenizer_config.json'
_ADDED_FILE = 'added_tokens.json'
_NETWORK_FILE = 'config.json'
_BYTE_CLASS = 'ByT5Tokenizer'
_SENTINEL = re.compile(r'▁?<extra_id_(\d{1,6})>')
_BYTE = re.compile(r'<0x[0-9A-F]{2}>')
# The number of T5's sentinels, where a folder does not tell it.
_SENTINELS = 100
# The most bytes of a file that is read; tokenizer.json of 256,000 pieces has 17 MB.
_LARGEST_FILE = 2**28
# The class is made at run time, so that a checker of types does not see it.
_Model: Any = vars(sentencepiece_model_pb2)['ModelProto']
_Piece = _Model.SentencePiece


def has_vocabulary(folder: str) -> bool:
  """Returns whether a folder holds the files of a vocabulary, whether they fit or not."""
  return _has(folder, SPIECE_FILE) or _has(folder, TOKENIZER_FILE) or is_bytes(folder)


def is_bytes(folder: str) -> bool:
  """Returns whether a folder is that of a ByT5, whose tokens are bytes."""
  files = (_SETTINGS_FILE, _NETWORK_FILE)
  names = [_read(folder, file).get('tokenizer_class') for file in files]
  has_pieces = any(_has(folder, file) for file in (SPIECE_FILE, TOKENIZER_FILE))
  return not has_pieces and _BYTE_CLASS in names


def sentencepiece_file(folder: str) -> tuple[str, int]:
  """Returns the path of a folder's SentencePiece file, and the number of its sentinels.

  A file that is made from `tokenizer.json` lasts as long as this process.

  Raises:
    VocabularyError: if the folder holds no vocabulary, or one that SentencePiece does not
      encode in the same way.
  """
  if _has(folder, SPIECE_FILE):
    return os.path.join(folder, SPIECE_FILE), _check_added(folder)
  if _has(folder, TOKENIZER_FILE):
    path = os.path.join(folder, TOKENIZER_FILE)
    return _made(path, os.stat(path).st_mtime_ns)
  raise errors.VocabularyError(
    f'vocabulary {folder} is a folder without a {SPIECE_FILE} and without a '
    f'{TOKENIZER_FILE}: add one of them, which the model was published with, or name a '
    'SentencePiece model file'
  )


def _has(folder: str, file: str) -> bool:
  return os.path.isfile(os.path.join(folder, file))


def _read(folder: str, file: str) -> dict[str, Any]:
  """Returns the object that a JSON file of a folder holds; empty without the file."""
  path = pathlib.Path(folder) / file
  if not path.is_file():
    return {}
  if path.stat().st_size > _LARGEST_FILE:
    raise errors.VocabularyError(f'vocabulary {path} is too large to be one: not read')
  try:
    value = plain_json.parse(path.read_bytes())
  except (OSError, ValueError) as error:
    raise errors.VocabularyError(f'vocabulary {path} cannot be read: {error}') from error
  if not isinstance(value, dict):
    raise errors.VocabularyError(f'vocabulary {path} holds no JSON object')
  return value


def _check_added(folder: str) -> int:
  """Returns the number of sentinels beside `spiece.model`.

  Raises:
    VocabularyError: if the folder has tokens that the file lacks.
  """
  settings = _read(folder, _SETTINGS_FILE)
  decoder = settings.get('added_tokens_decoder')
  listed = decoder.values() if isinstance(decoder, dict) else []
  special = [settings.get(n) for n in ('additional_special_tokens', 'extra_special_tokens')]
  tokens = [
    *_texts(listed),
    *(text for value in special if isinstance(value, list) for text in _texts(value)),
    *_read(folder, _ADDED_FILE),
  ]
  sentinels = {text for text in tokens if _SENTINEL.fullmatch(text)}
  model = _Model()
  try:
    model.ParseFromString((pathlib.Path(folder) / SPIECE_FILE).read_bytes())
  except Exception:  # it is refused where it is loaded
    return _SENTINELS
  pieces = {piece.piece for piece in model.pieces}
  named = {'<pad>', '</s>', '<unk>', '<s>'}
  _refuse_added(
    folder, [text for text in tokens if text not in {*pieces, *named, *sentinels}]
  )
  number = settings.get('extra_ids')
  if sentinels or type(number) is not int:
    return len(sentinels) or _SENTINELS
  return number


def _texts(tokens: Iterable[Any]) -> list[str]:
  """Returns the texts of tokens, which are texts or objects that hold one."""
  texts = (t.get('content') if isinstance(t, dict) else t for t in tokens)
  return [text for text in texts if isinstance(text, str)]


def _refuse_added(where: str, tokens: list[str]) -> None:
  if tokens:
    raise errors.VocabularyError(
      f'vocabulary {where}: {len(tokens)} token(s) were added to it, such as '
      f'{tokens[0][:40]!r}, which SentencePiece would split: name a SentencePiece file '
      'that has them'
    )


@functools.cache
def _made(path: str, _: int) -> tuple[str, int]:
  """Writes the SentencePiece file that `tokenizer.json` stands for."""
  folder, file = os.path.split(path)
  model, sentinels = _model(path, _read(folder, file))
  made = tempfile.mkdtemp(prefix='hyperprompt-vocabulary-')
  atexit.register(shutil.rmtree, made, ignore_errors=True)
  spiece = os.path.join(made, SPIECE_FILE)
  pathlib.Path(spiece).write_bytes(model.SerializeToString(deterministic=True))
  return spiece, sentinels


def _model(path: str, tokenizer: Mapping[str, Any]) -> tuple[Any, int]:
  """Returns the SentencePiece model, and the number of sentinels that follow its pieces."""

  def refusal(reason: str) -> errors.VocabularyError:
    return errors.VocabularyError(
      f'vocabulary {path} cannot give the ids that the model was trained with: {reason}; '
      f'add its {SPIECE_FILE} to the folder'
    )

  unigram = tokenizer.get('model')
  if not isinstance(unigram, dict) or unigram.get('type') != 'Unigram':
    raise refusal('it holds no Unigram model')
  charsmap = _charsmap(tokenizer.get('normalizer'))
  if charsmap is None or not _is_metaspace(tokenizer.get('pre_tokenizer')):
    raise refusal("it does not normalise and split text as T5's SentencePiece does")
  try:
    pieces = [(str(text), float(score)) for text, score in unigram['vocab']]
    added = {
      int(token['id']): (str(token['content']), token.get('special') is True)
      for token in tokenizer.get('added_tokens') or ()
    }
    unknown = int(unigram['unk_id'])
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise refusal('its pieces cannot be read') from error
  if unigram.get('byte_fallback') or any(_BYTE.fullmatch(text) for text, _ in pieces):
    raise refusal('unknown text falls back to bytes, which it does in another way')
  ids = {text: number for number, (text, _) in enumerate(pieces)}
  ids |= {text: number for number, (text, _) in added.items()}
  size = max(ids.values(), default=0) + 1
  sentinels = sum(1 for text in ids if _SENTINEL.fullmatch(text))
  for text, number in ids.items():
    match = _SENTINEL.fullmatch(text)
    if match and number != size - 1 - int(match[1]):
      raise refusal(f'{text} is not where SeqIO puts it')
  plain = pieces[: size - sentinels]
  extra = [
    text
    for number, (text, is_special) in added.items()
    if number >= len(plain) or not is_special
  ]
  _refuse_added(path, [text for text in extra if not _SENTINEL.fullmatch(text)])
  if len(plain) < size - sentinels:
    raise refusal('there are ids between its pieces and its sentinels')
  kinds = {**dict.fromkeys(added, _Piece.CONTROL), unknown: _Piece.UNKNOWN}
  return _unigram_model(plain, kinds, charsmap), sentinels


def _unigram_model(
  pieces: list[tuple[str, float]], kinds: Mapping[int, Any], charsmap: bytes
) -> Any:
  """Makes a SentencePiece model.

  Args:
    pieces: each piece has a text and a score; its id is its place in the list.
    kinds: are the types of pieces that are not plain text, by id.
    charsmap: the compiled map of characters normalises texts.
  """
  model = _Model()
  model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
  model.trainer_spec.vocab_size = len(pieces)
  model.normalizer_spec.name = 'precompiled'
  model.normalizer_spec.precompiled_charsmap = charsmap
  for number, (text, score) in enumerate(pieces):
    model.pieces.add(piece=text, score=score, type=kinds.get(number, _Piece.NORMAL))
  return model


def _parts(value: Any, inner: str) -> list[Any]:
  """Returns the parts of a component of a tokenizer, which may be a sequence."""
  if isinstance(value, dict) and value.get('type') == 'Sequence':
    parts = value.get(inner)
    return parts if isinstance(parts, list) else []
  return [value]


def _charsmap(normalizer: Any) -> bytes | None:
  """Returns SentencePiece's map of characters; None if text is normalised otherwise."""
  first, *others = _parts(normalizer, 'normalizers') or [None]
  if not isinstance(first, dict) or first.get('type') != 'Precompiled':
    return None
  # Transformers 4 adds what SentencePiece does itself: it drops blanks at the end, and
  # takes several blanks for one.
  known = (
    {'type': 'Strip', 'strip_left': False, 'strip_right': True},
    {'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': '▁'},
  )
  if any(part not in known for part in others):
    return None
  try:
    return base64.b64decode(str(first.get('precompiled_charsmap')), validate=True)
  except (binascii.Error, ValueError):
    return None


def _is_metaspace(pre_tokenizer: Any) -> bool:
  """Returns whether blanks become `▁`, of which each text gets one in front."""
  *others, last = _parts(pre_tokenizer, 'pretokenizers') or [None]
  prepends = isinstance(last, dict) and (
    last.get('prepend_scheme', 'always') == 'always'
    and last.get('add_prefix_space', True) is True
    and last.get('split', True) is True
  )
  return (
    prepends
    and (last.get('type'), last.get('replacement')) == ('Metaspace', '▁')
    and others in ([], [{'type': 'WhitespaceSplit'}])
  )
