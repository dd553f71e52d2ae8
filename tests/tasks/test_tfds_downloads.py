"""TFDS without a network fails in seconds, and prepared data are still read."""

import socket
import time
import types

import pytest

import hyperprompt_tasks
from hyperprompt_tasks import sources, storage, tfds_downloads


@pytest.fixture
def closed():
  """The address of a server that does not answer."""
  with socket.create_server(('127.0.0.1', 0)) as server:
    port = server.getsockname()[1]
  return f'http://127.0.0.1:{port}'


def builder(folder, urls, config=None):
  """A stand-in for a TFDS builder, with the attributes that our code reads."""
  info = types.SimpleNamespace(checksum='0' * 64, filename='data.zip')
  return types.SimpleNamespace(
    name='made',
    data_dir=str(folder / 'made' / '1.0.0'),
    data_dir_root=folder,
    url_infos=dict.fromkeys(urls, info),
    builder_config=config,
    download_and_prepare=lambda: pytest.fail('TFDS would try for minutes'),
  )


def test_servers_that_do_not_answer_are_named_in_seconds(closed, tmp_path, monkeypatch):
  source = sources.SuperGlueSource('cb')
  made = builder(tmp_path, [f'{closed}/a.zip', f'{closed}/b.zip'])
  monkeypatch.setattr(type(source._tfds().tfds_dataset), 'builder', made)
  start = time.monotonic()
  for ask in (source.list_shards, source.get_dataset):
    with pytest.raises(hyperprompt_tasks.DataError) as error:
      ask('train')
    message = str(error.value)
    assert f'{closed} does not answer: ' in message and '\n' not in message
    assert 'set SUPER_GLUE_DIR to the folder of the official files' in message
  assert time.monotonic() - start < 15


def test_data_that_are_prepared_need_no_server(closed, tmp_path):
  made = builder(tmp_path, [f'{closed}/a.zip'])
  assert tfds_downloads.obstacle(made)
  (tmp_path / 'made' / '1.0.0').mkdir(parents=True)
  assert tfds_downloads.obstacle(made) is None


@pytest.mark.parametrize('place', ['', 'made', 'manual'])
def test_files_that_were_downloaded_need_no_server(closed, tmp_path, place):
  url = f'{closed}/a.zip'
  made = builder(tmp_path, [url])
  folder = tmp_path / 'downloads' / place
  folder.mkdir(parents=True)
  name = tfds_downloads.resource.get_dl_fname(url, '0' * 64)
  (folder / ('data.zip' if place == 'manual' else name)).touch()
  assert tfds_downloads.obstacle(made) is None


def test_the_server_of_the_configuration_is_asked(closed, tmp_path):
  with socket.create_server(('127.0.0.1', 0)) as server:
    answering = f'http://127.0.0.1:{server.getsockname()[1]}'
    urls = [f'{closed}/a.zip', f'{answering}/b.zip']
    config = types.SimpleNamespace(data_url=urls[0])
    assert closed in tfds_downloads.obstacle(builder(tmp_path, urls, config))


def test_one_server_of_several_is_enough(monkeypatch, tmp_path):
  monkeypatch.setattr(
    storage, '_silence', lambda server: None if 'there' in server else 'silent'
  )
  assert (
    tfds_downloads.obstacle(builder(tmp_path, ['http://there/a', 'http://b/a'])) is None
  )
  assert tfds_downloads.obstacle(builder(tmp_path, ['http://a/a', 'ftp://b/a'])) == 'silent'
  assert tfds_downloads.obstacle(builder(tmp_path, [])) is None
