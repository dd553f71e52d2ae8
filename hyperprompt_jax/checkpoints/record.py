"""The record of a run in each of its checkpoints: `run/metadata`, a JSON object."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hyperprompt_jax.checkpoints.frozen import Base
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.runtime import plain_json


@dataclasses.dataclass(frozen=True)
class RunRecord:
  """The description of a run that each of its checkpoints carries.

  Attributes:
    task_list: names the conditioned tasks that task ids index.
    data: maps names to JSON values that a resumed run must share with its start.
    num_data_shards: counts the shards in which the data are read.
    initial_step: is the step of the checkpoint that the run started from, or 0.
    base: refers to the run's frozen parameters; None if it has none.
    sums: gives the sums of the arrays of `params` and `optimizer` by path (see `sums`).
    environment: describes machine and packages, on which bits depend; None if unknown.
  """

  task_list: list[str]
  data: Mapping[str, Any]
  num_data_shards: int = 1
  initial_step: int = 0
  base: Base | None = None
  sums: Mapping[str, Mapping[str, int]] | None = None
  environment: Mapping[str, str] | None = None

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
      and (self.environment is None or _are_texts(self.environment))
    )
    if not right:
      raise ValueError('a value is not of its kind')

  def to_json(self) -> dict[str, Any]:
    """The record as a JSON object, with a digest of itself."""
    values = dataclasses.asdict(self)
    return {**values, 'digest': _digest(values)}


def parse(where: str, contents: bytes) -> RunRecord:
  """Reads a record.

  Args:
    where: names the checkpoint in messages.
    contents: are the bytes of the file.

  Raises:
    UserError: if the file holds no record.
  """
  try:
    return of_json(plain_json.parse(contents))
  except ValueError as error:
    raise UserError(f'checkpoint {where} is damaged: run/metadata: {error}') from error


def of_json(value: Any) -> RunRecord:
  """Inverts `RunRecord.to_json`; unknown entries are ignored.

  Raises:
    ValueError: if the value is no record, or differs from the one that its digest was made
      of. A record without a digest is accepted.
  """
  if not isinstance(value, dict) or not {'task_list', 'data'} <= value.keys():
    raise ValueError('expected an object with task_list and data')
  signed = {name: entry for name, entry in value.items() if name != 'digest'}
  if 'digest' in value and value['digest'] != _digest(signed):
    raise ValueError('its digest is of another record')
  known = {field.name for field in dataclasses.fields(RunRecord)}
  values = {name: entry for name, entry in value.items() if name in known}
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
    and all(isinstance(sums, dict) for sums in value.values())
    and all(type(n) is int for sums in value.values() for n in sums.values())
  )


def _are_texts(value: Any) -> bool:
  return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _digest(values: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
