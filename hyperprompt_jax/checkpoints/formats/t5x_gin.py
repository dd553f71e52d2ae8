"""The gin file beside a checkpoint of T5X, read as data: network options and vocabulary.

T5X writes `config.gin` into its MODEL_DIR, and `hyperprompt convert` writes `model.gin`.
Shapes tell neither the activations nor the vocabulary.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from hyperprompt_jax.checkpoints.storage import check_file
from hyperprompt_jax.configuration import static
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.nn.config import Config

OWN_FILE, T5X_FILE = 'model.gin', 'config.gin'
_LARGEST_FILE = 2**20
# Fields by the class that they are bound to: ours, and those of T5X's that shapes do not
# tell.
_FIELDS_OF = {
  'Config': tuple(field.name for field in dataclasses.fields(Config)),
  'T5Config': ('mlp_activations', 'logits_via_embedding'),
}


@dataclasses.dataclass(frozen=True)
class Beside:
  """The contents of the file.

  Attributes:
    network: holds fields of `Config`.
    vocabulary: names the vocabulary as the macro VOCABULARY does; None without one.
  """

  network: Mapping[str, Any]
  vocabulary: str | None


def read(path: str) -> Beside | None:
  """Returns the settings of the gin file beside or in a checkpoint; None without a file.

  Args:
    path: names the checkpoint's folder. Gin files of a remote one are not read, as their
      reader is another than that of arrays and may try for minutes.
  """
  if '://' in path:
    return None
  folder = pathlib.Path(path)
  for place in (folder, folder.parent):
    for name in (OWN_FILE, T5X_FILE):
      if (place / name).is_file():
        return _parse(str(place / name))
  return None


def _parse(file: str) -> Beside | None:
  """Parses a file; None if it is not one that can be read as data."""
  composed = static.Configuration()
  try:
    check_file(file, _LARGEST_FILE)
    # Neither program writes an include, by which a file could name any other.
    if re.search(r'^\s*include\b', pathlib.Path(file).read_text('utf-8'), re.MULTILINE):
      return None
    composed.add_file(file)
  except (UserError, OSError, UnicodeError):
    return None
  network, vocabulary = {}, composed.values.get('VOCABULARY')
  sentencepiece: dict[str, Any] = {}
  for name in composed.values:
    *_, owner, field = ('', '', *name.split('.'))
    value = composed.resolved(name)
    if isinstance(value, static.Reference):
      continue
    if field in _FIELDS_OF.get(owner, ()):
      network[field] = value
    elif owner == 'SentencePieceVocabulary':
      sentencepiece[field] = value
  if not isinstance(vocabulary, str):
    vocabulary = _of_seqio(str(vocabulary), sentencepiece)
  if isinstance(network.get('mlp_activations'), list):
    network['mlp_activations'] = tuple(network['mlp_activations'])
  return Beside(network, vocabulary)


def _of_seqio(reference: str, sentencepiece: Mapping[str, Any]) -> str | None:
  """Returns the name of one of SeqIO's vocabularies, as T5X's gin files bind it."""
  if reference.endswith('ByteVocabulary()'):
    return 'bytes'
  file, extra = (sentencepiece.get(n) for n in ('sentencepiece_model_file', 'extra_ids'))
  if not isinstance(file, str):
    return None
  return f'{file}:{extra}' if isinstance(extra, int) and extra else file
