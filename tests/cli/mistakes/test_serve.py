"""Mistakes in the command line of the server."""

import socket
import sys

import pytest

from hyperprompt_jax.cli import serve


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--port=99999', '--port must be from 0 to 65535, not 99999'),
    ('--queue=0', '--queue must be from 1 to'),
    ('--timeout=nan', '--timeout must be from 1 to 86400, not nan'),
    ('--compile=predcit', '--compile=predcit (did you mean predict?)'),
    ('--lengths=64', "--lengths must be like 512,64, not '64'"),
    ('--host=0.0.0.0', '--host=0.0.0.0 is open to others: set HYPERPROMPT_TOKEN'),
  ],
)
def test_values_that_cannot_be(mistake, monkeypatch, flag, message):
  monkeypatch.delenv(serve.TOKEN, raising=False)
  assert message in mistake(['serve', '--model_dir=x', flag])


def test_a_numbered_step_is_not_followed(mistake):
  line = mistake(['serve', '--model_dir=x', '--step=4', '--follow=60'])
  assert '--follow needs --step=latest or --step=best, not 4' in line


@pytest.mark.parametrize('token', ['', 'grün', 'two\nlines'])
def test_a_token_that_no_header_can_bear(mistake, monkeypatch, token):
  monkeypatch.setenv(serve.TOKEN, token)
  line = mistake(['serve', '--model_dir=x'])
  assert 'HYPERPROMPT_TOKEN must be printable ASCII' in line


def test_a_missing_package_is_told_with_its_remedy(mistake, monkeypatch):
  monkeypatch.setitem(sys.modules, 'uvicorn', None)
  line = mistake(['serve', '--model_dir=x'])
  assert line.endswith("serving needs uvicorn: pip install 'hyperprompt-jax[serve]'")


def test_a_port_that_is_taken(mistake):
  with socket.create_server(('127.0.0.1', 0)) as other:
    port = other.getsockname()[1]
    line = mistake(['serve', '--model_dir=x', f'--port={port}'])
  assert f'--host=127.0.0.1 --port={port} cannot be opened: Address already in use' in line


def test_a_folder_that_is_none(mistake):
  assert '/nowhere is no folder' in mistake(
    ['serve', '--model_dir=/nowhere', '--port=0'], progress=0
  )
