"""Asks whether TFDS can download data, because it retries for minutes."""

from typing import Any

import tensorflow as tf
from etils import epath
from tensorflow_datasets.core.download import resource

from hyperprompt_tasks import storage


def obstacle(builder: Any) -> str | None:
  """Returns why TFDS cannot prepare a data set, as far as can be known in seconds.

  Args:
    builder: is the TFDS builder with its configuration and version.

  Returns:
    The reason, or None if the data are prepared, were downloaded before, or a server that
    holds them answers.
  """
  # The builder's own `is_prepared` warns where there is nothing.
  if tf.io.gfile.isdir(builder.data_dir):
    return None
  infos = builder.url_infos or {}
  url = getattr(builder.builder_config, 'data_url', None)  # of this configuration alone
  if url in infos:
    infos = {url: infos[url]}
  folder = epath.Path(builder.data_dir_root) / 'downloads'
  if any(_is_downloaded(folder, builder.name, url, info) for url, info in infos.items()):
    return None
  return storage.all_unreachable(infos)


def _is_downloaded(folder: epath.Path, dataset: str, url: str, info: Any) -> bool:
  """Returns whether a file is in one of the places where TFDS looks before it downloads."""
  name = resource.get_dl_fname(url, info.checksum)
  return any(
    path.exists()
    for path in (folder / name, folder / dataset / name, folder / 'manual' / info.filename)
  )
