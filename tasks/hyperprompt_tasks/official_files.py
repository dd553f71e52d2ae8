"""The base of the readers of official files: rows, paths of files, and their lines.

A row is a dict of bytes, numbers and lists of bytes in the form of TFDS; `idx` may be a
dict itself. Rows keep the order of the file, whereas TFDS shuffles them.
"""

import abc
import dataclasses
import functools
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from hyperprompt_tasks import errors

ENTAILMENT = ('entailment', 'not_entailment')

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Format(abc.ABC):
  """The layout of the files of one TFDS configuration.

  Attributes:
    folder: the files are in this folder inside the benchmark's folder.
    classes: are the names of the labels in id order; numbers as labels have none.
    files: is the name of the file of each split.
  """

  folder: str
  classes: tuple[str, ...]
  files: Mapping[str, str]

  def path(self, directory: str, split: str) -> str:
    """Returns the path of the file of a split, whether or not it exists.

    Raises:
      DataError: if the task has no such split.
    """
    folder = os.path.join(directory, self.folder)
    if split not in self.files:
      raise errors.DataError(f'{folder}: has no {split} split')
    return os.path.join(folder, self.files[split])

  @abc.abstractmethod
  def read(self, path: str, split: str) -> list[Row]:
    """Returns the rows of a split from the file that the method `path` names.

    Args:
      path: is on any file system that TensorFlow reads.
      split: is the split that the file holds; only test splits may lack labels.

    Raises:
      DataError: if the file is absent, empty or not UTF-8, or a line does not hold a row.
        The error names file and line.
    """

  def lines(self, path: str, split: str, expected: str) -> Iterator[tuple[str, str]]:
    r"""Yields `FILE:NUMBER` and the text of every line, blank ones included.

    Lines end with `\n`, `\r\n` or `\r`, as in Python's text files and so in TFDS.

    Args:
      path: is on any file system that TensorFlow reads.
      split: is the split that errors name.
      expected: this description of a line is used in errors.

    Raises:
      DataError: if the file is absent, or a line is not UTF-8.
    """
    try:
      with tf.io.gfile.GFile(path, 'rb') as file:
        content = file.read()
    except tf.errors.OpError as error:
      absent = isinstance(error, tf.errors.NotFoundError)
      raise errors.DataError(
        f'{path}: {"no such file" if absent else "cannot be read"}; expected the {split} '
        f'split of {self.folder}'
      ) from error
    # The file is read whole, because lines that TensorFlow reads lack carriage returns.
    for number, line in enumerate(content.splitlines(), start=1):
      where = f'{path}:{number}'
      try:
        text = line.decode('utf-8')
      except UnicodeDecodeError as error:
        raise errors.DataError(f'{where}: expected {expected} in UTF-8; {error}') from error
      yield where, text


@functools.cache  # a file is read anew for every evaluation
def warn_once(message: str) -> None:
  """Logs a warning about a file once in this process."""
  logging.getLogger(__name__).warning('%s', message)
