"""Asks whether servers answer, before libraries retry for minutes."""

import concurrent.futures
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable

_STORAGE_SERVER = 'https://storage.googleapis.com'
_TIMEOUT_SECONDS = 10


def unreachable(path: str) -> str | None:
  """Returns why the server of a `gs://` path does not answer.

  It does not check that the file exists and may be read; the reader of the file does.

  Args:
    path: is local, or `gs://BUCKET/…`.

  Returns:
    The reason, or None if the server answers or the path is local.
  """
  if not path.startswith('gs://'):
    return None
  # TensorStore reads this variable, which names a server other than Google's.
  return _silence(os.environ.get('TENSORSTORE_GCS_HTTP_URL', _STORAGE_SERVER))


def all_unreachable(urls: Iterable[str]) -> str | None:
  """Returns why none of the servers of some URLs answers.

  Args:
    urls: each server among these is asked once, all at the same time.

  Returns:
    The reason of one server, or None if any server answers or there are no URLs.
  """
  parts = (urllib.parse.urlsplit(url) for url in urls)
  servers = sorted({f'{p.scheme}://{p.netloc}' for p in parts if p.scheme and p.netloc})
  if not servers:
    return None
  with concurrent.futures.ThreadPoolExecutor(len(servers)) as pool:
    reasons = list(pool.map(_silence, servers))
  return None if None in reasons else reasons[0]


def _silence(server: str) -> str | None:
  """Returns why a server does not answer, or None if it answers anything."""
  try:
    urllib.request.urlopen(server, timeout=_TIMEOUT_SECONDS).close()
  except urllib.error.HTTPError:
    return None  # an error code is an answer
  except (OSError, ValueError) as error:
    reason = getattr(error, 'reason', error)
    if isinstance(reason, ssl.SSLError):
      return None  # it answers, and other libraries bring certificates of their own
    return f'{server} does not answer: {reason}'
  return None
