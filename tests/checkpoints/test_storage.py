"""Checkpoints on Google Cloud Storage, for which a server on this machine stands in."""

import functools
import http.server
import pathlib
import re
import socket
import threading
import time
import urllib.parse

import pytest

from hyperprompt_jax.checkpoints.source import open_source
from hyperprompt_jax.errors import UserError
from tests import published

BUCKET = 'bucket-of-tests'


class Server(http.server.BaseHTTPRequestHandler):
  """Serves a folder as a bucket: reads of objects and of their parts."""

  def __init__(self, folder: pathlib.Path, *args):
    self._folder = folder
    super().__init__(*args)

  def do_GET(self):
    path = urllib.parse.urlparse(self.path).path
    _, separator, name = path.partition(f'/storage/v1/b/{BUCKET}/o/')
    file = self._folder / urllib.parse.unquote(name)
    if not separator or not file.is_file():
      self.send_error(404)
      return
    content = file.read_bytes()
    if span := re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', '')):
      whole = len(content)
      content = content[int(span[1]) : int(span[2]) + 1 if span[2] else whole]
      self.send_response(206)
      last = int(span[1]) + len(content) - 1
      self.send_header('Content-Range', f'bytes {span[1]}-{last}/{whole}')
    else:
      self.send_response(200)
    self.send_header('Content-Length', str(len(content)))
    self.send_header('x-goog-generation', '1')
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *args):
    """Writes no log."""


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """A folder that is the bucket `gs://bucket-of-tests`."""
  handler = functools.partial(Server, tmp_path)
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', f'http://127.0.0.1:{server.server_port}')
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  yield tmp_path
  server.shutdown()
  thread.join()
  server.server_close()


@pytest.mark.parametrize('kind', ['T5X', 'T5X Orbax'])
def test_a_checkpoint_in_a_bucket_is_that_on_disk(bucket, kind):
  write = published.t5x if kind == 'T5X' else published.t5x_orbax
  path = write(bucket / 'models')
  source = open_source(f'gs://{BUCKET}/models/{path.name}')
  assert (source.kind, source.step) == (kind, published.STEP)
  published.assert_same(
    published.values(source.arrays), published.values(published.arrays())
  )


def test_what_a_bucket_lacks(bucket):
  with pytest.raises(UserError, match='is no checkpoint: name a T5X checkpoint'):
    open_source(f'gs://{BUCKET}/nothing')
  path = published.t5x(bucket)
  (path / 'target.token_embedder.embedding/0.0').unlink()
  embedding = open_source(f'gs://{BUCKET}/{path.name}').arrays['token_embedder/embedding']
  with pytest.raises(UserError, match='token_embedder/embedding is incomplete or damaged'):
    embedding.read()


def test_storage_that_does_not_answer_is_found_out_at_once(monkeypatch):
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
  monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', f'http://127.0.0.1:{port}')
  start = time.monotonic()
  with pytest.raises(UserError) as error:
    open_source('gs://t5-data/checkpoint_1000000')
  assert time.monotonic() - start < 15
  assert 'cannot be reached' in str(error.value) and '\n' not in str(error.value)
