"""Whether Google Cloud Storage answers, asked before libraries try for minutes."""

import os
import urllib.error
import urllib.request

_SERVER = 'https://storage.googleapis.com'
_TIMEOUT_SECONDS = 10


def unreachable(path: str) -> str | None:
  """Says why a `gs://` path's server does not answer; None if it does, or path is local.

  Whether the file is there, and may be read, is for who reads it to find out.

  Args:
    path: local, or `gs://BUCKET/…`.
  """
  if not path.startswith('gs://'):
    return None
  # TensorStore's variable: a server other than Google's.
  server = os.environ.get('TENSORSTORE_GCS_HTTP_URL', _SERVER)
  try:
    urllib.request.urlopen(server, timeout=_TIMEOUT_SECONDS).close()
  except urllib.error.HTTPError:
    return None  # it answers
  except (OSError, ValueError) as error:
    reason = getattr(error, 'reason', error)
    return f'{server} does not answer: {reason}'
  return None
