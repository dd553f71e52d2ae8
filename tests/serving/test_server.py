"""The process that serves: its sockets, signals and newer checkpoints."""

import json
import os
import signal
import socket
import threading
import time
import urllib.request

import pytest

from hyperprompt_jax.serving import server
from hyperprompt_jax.serving.app import Service, Settings
from hyperprompt_jax.serving.batcher import Limits
from tests.inference import made


def get(address, path, body=None):
  data = None if body is None else json.dumps(body).encode()
  headers = {'Content-Type': 'application/json'}
  request = urllib.request.Request(f'http://{address}{path}', data, headers)
  with urllib.request.urlopen(request, timeout=30) as response:
    return json.load(response)


def wait_for(condition):
  end = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.005)


def test_a_server_follows_its_run_and_answers_what_it_accepted(monkeypatch, capfd):
  monkeypatch.setattr(server, '_HEADER_SECONDS', 0.05)
  predictor, newer = made.predictor(), made.predictor()
  newer.step = 8
  offered = []
  # A batch of two waits for a second question, so that the last one is open at the end.
  service = Service(predictor, Settings(Limits(batch_size=2, wait_seconds=0.2)))
  listener = server.listen('127.0.0.1', 0)
  address = f'127.0.0.1:{listener.getsockname()[1]}'
  body = {'task': 'a', 'inputs': 'abc'}
  answers = []

  def use():
    try:
      wait_for(lambda: service.is_ready)
      answers.append(get(address, '/v1/predict', body))
      # A client that sends half of a header is cut off.
      with socket.create_connection(listener_address(address)) as half:
        half.sendall(b'POST /v1/predict HTTP/1.1\r\nHost: local')
        assert half.recv(100) == b''
      offered.append(newer)
      os.kill(os.getpid(), signal.SIGHUP)
      wait_for(lambda: service.predictor is newer)
      last = threading.Thread(
        target=lambda: answers.append(get(address, '/v1/predict', body))
      )
      last.start()
      wait_for(lambda: len(service.batcher))
    finally:
      os.kill(os.getpid(), signal.SIGTERM)
    last.join()

  thread = threading.Thread(target=use)
  thread.start()
  options = server.Options(compiled=())
  server.run(service, listener, options, lambda old: offered.pop() if offered else None)
  thread.join()
  assert [answer['step'] for answer in answers] == [7, 8]
  assert answers[0]['answers'] == answers[1]['answers']
  assert newer.engine._generate is predictor.engine._generate
  assert not service.is_ready
  assert 'step 8 answers from now on' in capfd.readouterr().err


def listener_address(address):
  host, port = address.split(':')
  return host, int(port)


def test_a_checkpoint_that_cannot_be_read_changes_nothing(capfd):
  service = Service(made.predictor(), Settings())
  old = service.predictor

  def broken(served):
    raise OSError('the disk is gone')

  keeper = server._Keeper(service, server.Options(compiled=(), follow=0.01), broken, None)
  keeper._update(broken)
  assert service.predictor is old and service.close(20)
  assert 'step 7 is kept: the disk is gone' in capfd.readouterr().err


@pytest.mark.parametrize(
  ('batch_size', 'rows'), [(1, {1}), (8, {1, 2, 4, 8}), (6, {1, 2, 4, 6})]
)
def test_programs_are_compiled_for_all_sizes(batch_size, rows):
  sizes = list(server.compiled_sizes(made.predictor(batch_size=batch_size)))
  assert {length for _, length in sizes} == {16, 24}
  assert {number for number, _ in sizes} == rows
  assert len(sizes) == 2 * len(rows)
