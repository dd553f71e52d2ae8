"""What a checkpoint says of its run, besides arrays: `run/metadata`, a JSON object."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hyperprompt_jax.checkpoints.frozen import Base
from hyperprompt_jax.errors import UserError
from hyperprompt_tasks import plain_json


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """What a checkpoint says of its run.

  Attributes:
    task_list: the conditioned tasks that its task ids index.
    data: what a run that goes on must share with its start, JSON by name.
    num_data_shards: how many shards the data are read in.
    initial_step: steps of what the run started from.
    base: where its frozen parameters are; None if it has none.
    sums: of the arrays of `params` and of `optimizer`, by path (`sums`); None of old ones.
  """

  task_list: list[str]
  data: Mapping[str, Any]
  num_data_shards: int = 1
  initial_step: int = 0
  base: Base | None = None
  sums: Mapping[str, Mapping[str, int]] | None = None

  def __post_init__(self):
    right = (
      _is_list_of_strings(self.task_list)
      and isinstance(self.data, dict)
      and type(self.num_data_shards) is int
      and self.num_data_shards > 0
      and type(self.initial_step) is int
      and self.initial_step >= 0
      and (
        self.base is None or _is_list_of_strings([self.base.path, self.base.fingerprint])
      )
      and (self.sums is None or _are_sums(self.sums))
    )
    if not right:
      raise ValueError('a value is not of its kind')

  def to_json(self) -> dict[str, Any]:
    """The record as a JSON object, with a digest of itself."""
    found = dataclasses.asdict(self)
    return {**found, 'digest': _digest(found)}


def parse(where: str, contents: bytes) -> RunRecord:
  """Reads a record.

  Args:
    where: of the checkpoint, for the message.
    contents: of the file.

  Raises:
    UserError: if it is none.
  """
  try:
    return of_json(plain_json.parse(contents))
  except ValueError as error:
    raise UserError(f'checkpoint {where} is damaged: run/metadata: {error}') from error


def of_json(found: Any) -> RunRecord:
  """The inverse of `RunRecord.to_json`; what it has besides is passed over.

  Raises:
    ValueError: if it is no record, or not the one that its digest is of. An old one has no
      digest, and is taken as it is.
  """
  if not isinstance(found, dict) or not {'task_list', 'data'} <= found.keys():
    raise ValueError('expected an object with task_list and data')
  said = {name: value for name, value in found.items() if name != 'digest'}
  if 'digest' in found and found['digest'] != _digest(said):
    raise ValueError('it is not what its digest is of')
  known = {field.name for field in dataclasses.fields(RunRecord)}
  values = {name: value for name, value in found.items() if name in known}
  if (base := values.get('base')) is not None:
    if not isinstance(base, dict) or base.keys() != {'path', 'fingerprint'}:
      raise ValueError('expected base to be an object with path and fingerprint')
    values['base'] = Base(**base)
  return RunRecord(**values)


def _is_list_of_strings(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(x, str) and x for x in value)


def _are_sums(value: Any) -> bool:
  return (
    isinstance(value, dict)
    and value.keys() == {'params', 'optimizer'}
    and all(isinstance(of, dict) for of in value.values())
    and all(type(n) is int for of in value.values() for n in of.values())
  )


def _digest(found: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
