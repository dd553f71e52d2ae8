"""The HTTP interface, called as an ASGI application, over a tiny model."""

import asyncio
import contextlib
import json
import threading

import pytest

from hyperprompt_jax.serving import requests
from hyperprompt_jax.serving.app import Service, Settings
from hyperprompt_jax.serving.batcher import Limits
from tests.inference import made

JSON = {'content-type': 'application/json'}


@pytest.fixture(scope='module')
def predictor():
  return made.predictor()


@pytest.fixture
def serve(predictor):
  """Makes services, which are closed at the end."""
  services = []

  def serve(**settings):
    services.append(Service(predictor, Settings(**settings)))
    return services[-1]

  yield serve
  assert all(service.close(20) for service in services)


class Held:
  """A model whose answers are held back until they are let go."""

  def __init__(self, predictor):
    self.predictor = predictor
    self.started = threading.Event()
    self.go = threading.Event()

  def __getattr__(self, name):
    return getattr(self.predictor, name)

  def answers(self, questions, generation):
    self.started.set()
    assert self.go.wait(20)
    return self.predictor.answers(questions, generation)


async def call(service, path, body=None, headers=None, *, chunks=None, hangs=False):
  """Sends one request; returns status, headers and body of the response.

  Args:
    service: is the service.
    path: is the path.
    body: is the value that is sent as JSON, or bytes; None for a GET.
    headers: are further headers.
    chunks: are the parts of the body, in place of `body`.
    hangs: says whether the rest of the body never comes.
  """
  if chunks is None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    chunks = [] if body is None else [raw]
  is_get = not chunks and not hangs
  given = {'host': 'localhost:8000', **({} if is_get else JSON), **(headers or {})}
  scope = {
    'type': 'http',
    'method': 'GET' if is_get else 'POST',
    'path': path,
    'raw_path': path.encode(),
    'query_string': b'',
    'root_path': '',
    'scheme': 'http',
    'http_version': '1.1',
    'server': ('localhost', 8000),
    'headers': [(k.encode(), v.encode()) for k, v in given.items()],
  }
  parts = [*chunks] if chunks else [b'']
  sent = []

  async def receive():
    if parts:
      part = parts.pop(0)
      return {'type': 'http.request', 'body': part, 'more_body': bool(parts) or hangs}
    await asyncio.Event().wait()  # the client waits

  async def send(message):
    sent.append(message)

  await service.app(scope, receive, send)
  head = {k.decode(): v.decode() for k, v in sent[0]['headers']}
  return sent[0]['status'], head, b''.join(m.get('body', b'') for m in sent[1:])


def ask(service, path, body=None, headers=None, **more):
  """The status and the JSON value of a response."""
  status, _, content = asyncio.run(call(service, path, body, headers, **more))
  return status, json.loads(content)


def test_answers_are_those_of_the_model(serve, predictor):
  service = serve()
  questions = [{'task': task, 'inputs': f'abc {task}'} for task in predictor.tasks]
  status, value = ask(service, '/v1/predict', {'questions': questions, 'attention': True})
  assert status == 200 and value['step'] == 7
  expected = predictor.predict([(one['task'], one['inputs']) for one in questions])
  masses = [predictor.attention([predictor.question(t, f'abc {t}')]) for t in 'abcd']
  for answer, own, (mass,) in zip(value['answers'], expected, masses, strict=True):
    assert (answer['text'], answer['finished']) == (own.text, own.finished)
    assert answer['log_likelihood'] == pytest.approx(own.log_likelihood, abs=1e-5)
    assert answer['prompt_mass'] == pytest.approx(mass.tolist(), abs=1e-5)
    assert 0 < answer['prompt_mass'][0] < 1
  assert [answer['task'] for answer in value['answers']] == list(predictor.tasks)
  # The four questions were one batch, and their attention another.
  assert service.metrics.total('rows_total') == 8
  text = service.metrics.text()
  assert 'hyperprompt_batch_rows_count 2\n' in text
  assert 'hyperprompt_questions_total{kind="predict",task="c"} 1\n' in text


def test_ranks_and_scores_are_those_of_the_model(serve, predictor):
  service = serve()
  status, value = ask(service, '/v1/rank', {'task': 'a', 'inputs': 'abc'})
  (own,) = predictor.rank('a', ['abc'])
  assert status == 200 and value['answers'][0]['text'] == own.text
  others = [one['text'] for one in value['answers'][0]['alternatives']]
  assert others == [one.text for one in own.alternatives]
  body = {'task': 'b', 'inputs': ['abc', 'x' * 40], 'targets': ['yes', 'no']}
  status, value = ask(service, '/v1/score', body)
  scores = predictor.score('b', body['inputs'], body['targets'])
  assert status == 200
  for answer, score in zip(value['answers'], scores, strict=True):
    assert answer['log_likelihood'] == pytest.approx(score.log_likelihood, abs=1e-5)
    assert answer['truncated_inputs'] == score.truncated_inputs
  _, tasks = ask(service, '/v1/tasks')
  assert tasks['tasks'][:2] == [
    {'name': 'a', 'labels': made.LABELS},
    {'name': 'b', 'labels': None},
  ]


def test_label_sets_of_similar_sizes_share_a_batch(predictor):
  labels = ['left', 'right', 'up', 'down']
  bodies = [
    {'task': 'a', 'inputs': 'abc'},
    {'task': 'b', 'inputs': 'abd', 'labels': labels},
  ]
  jobs = [
    requests.parse('rank', json.dumps(body).encode(), predictor, 9).jobs[0]
    for body in bodies
  ]
  group, values = jobs[0].group, [job.value for job in jobs]
  assert jobs[1].group == group
  ranked = requests.compute(group, values)
  own, given = predictor.rank('a', ['abc']), predictor.rank('b', ['abd'], labels)
  for answer, alone in zip(ranked, [*own, *given], strict=True):
    several, one = ([x, *x.alternatives] for x in (answer, alone))
    assert [x.text for x in several] == [x.text for x in one]
    likelihoods = [x.log_likelihood for x in one]
    assert [x.log_likelihood for x in several] == pytest.approx(likelihoods, abs=1e-5)
  assert not requests.takes_compilation(group, values)


def test_options_that_need_another_program_take_a_compilation(predictor):
  group = lambda **options: requests.Group(
    predictor, requests.PREDICT, predictor.generation(options)
  )
  values = [predictor.question('a', 'abc')]
  requests.compute(group(), values)
  assert not requests.takes_compilation(group(max_length=5), values)
  assert requests.takes_compilation(group(num_decodes=7), values)
  assert requests.takes_compilation(group(), [predictor.question('a', 'x' * 20)] * 5)


@pytest.mark.parametrize(
  ('path', 'body', 'status', 'words'),
  [
    ('/v1/predict', b'{"task": ', 400, 'the body is no JSON: '),
    ('/v1/predict', b'\xff', 400, 'no UTF-8'),
    ('/v1/predict', [1], 422, 'must be an object with task, inputs'),
    ('/v1/predict', {'task': 'a'}, 422, 'give task, inputs, or questions'),
    ('/v1/predict', {'task': 'aa', 'inputs': 'x'}, 422, "task 'aa' is not one of this"),
    ('/v1/predict', {'task': ['a'], 'inputs': 'x'}, 422, "task ['a'] is not one of this"),
    ('/v1/predict', {'task': 'a', 'inputs': 3}, 422, 'inputs must be a text or a list'),
    ('/v1/predict', {'task': 'a', 'inputs': [3]}, 422, 'inputs must be texts, not 3'),
    ('/v1/predict', {'task': 'a', 'inputs': []}, 422, 'has no question'),
    ('/v1/predict', {'task': 'a', 'inputs': '\ud800'}, 422, 'half of a surrogate pair'),
    ('/v1/predict', {'task': 'a', 'inputs': ['x'] * 300}, 413, 'send at most 256'),
    ('/v1/predict', {'questions': [{'task': 'a'}]}, 422, 'must have task, inputs'),
    ('/v1/predict', {'questions': [], 'task': 'a'}, 422, 'give either questions, or'),
    (
      '/v1/predict',
      {'task': 'a', 'inputs': 'x', 'temprature': 1},
      422,
      "no field 'temprature' (did you mean temperature?)",
    ),
    ('/v1/predict', {'task': 'a', 'inputs': 'x', 'num_decodes': 99}, 422, 'from 1 to 16'),
    ('/v1/predict', {'task': 'a', 'inputs': 'x', 'max_length': 99}, 422, 'from 1 to 6'),
    ('/v1/predict', {'task': 'a', 'inputs': 'x', 'top_k': 3}, 422, 'give a temperature'),
    ('/v1/predict', {'task': 'a', 'inputs': 'x', 'attention': 1}, 422, 'true or false'),
    ('/v1/rank', {'task': 'b', 'inputs': 'x'}, 422, 'task b needs labels'),
    ('/v1/rank', {'task': 'b', 'inputs': 'x', 'labels': 'y'}, 422, 'labels must be a list'),
    (
      '/v1/rank',
      {'task': 'b', 'inputs': 'x', 'labels': ['much too long']},
      422,
      "label 'much too long' has more than 6 tokens",
    ),
    ('/v1/score', {'task': 'a', 'inputs': 'x'}, 422, 'give task, inputs, targets'),
    (
      '/v1/score',
      {'task': 'a', 'inputs': ['x'], 'targets': ['y', 'z']},
      422,
      'there are 1 inputs and 2 targets',
    ),
    (
      '/v1/score',
      {'task': 'a', 'inputs': 'x', 'targets': 'much too long'},
      422,
      'a target has 14 tokens: send at most 6',
    ),
    ('/v1/tasks/b', None, 404, 'Not Found'),
    ('/v1/predict', None, 405, 'Method Not Allowed'),
  ],
)
def test_mistakes_are_one_line(serve, path, body, status, words):
  given, value = ask(serve(), path, body)
  assert given == status
  assert value.keys() == {'error'} and words in value['error']
  assert '\n' not in value['error']


def test_a_body_must_be_declared_small_and_quick(serve):
  service = serve(largest_body=1000, body_timeout=0.05)
  body = {'task': 'a', 'inputs': 'x'}
  status, value = ask(service, '/v1/predict', body, {'content-type': 'text/plain'})
  assert status == 415 and 'Content-Type: application/json' in value['error']
  chunks = [b'{"task": "a", "inputs": "', *[b'x' * 500] * 3, b'"}']
  status, value = ask(service, '/v1/predict', chunks=chunks)
  assert (status, value['error']) == (413, 'the body has over 1000 bytes')
  status, value = ask(service, '/v1/predict', chunks=[b'{"task"'], hangs=True)
  assert (status, value['error']) == (408, 'the body did not arrive within 0.05 s')
  assert ask(service, '/v1/predict', body)[0] == 200


def test_a_token_is_asked_for_where_it_is_set(serve):
  service = serve(token='secret')
  body = {'task': 'a', 'inputs': 'x'}
  for headers in ({}, {'authorization': 'Bearer wrong'}, {'authorization': 'secret'}):
    for path, value in (('/v1/predict', body), ('/v1/tasks', None), ('/metrics', None)):
      status, head, _ = asyncio.run(call(service, path, value, headers))
      assert status == 401 and head['www-authenticate'] == 'Bearer'
  right = {'authorization': 'Bearer secret'}
  assert ask(service, '/v1/predict', body, right)[0] == 200
  assert asyncio.run(call(service, '/metrics', None, right))[0] == 200
  for path in ('/', '/docs', '/openapi.json', '/healthz'):
    assert asyncio.run(call(service, path))[0] == 200


@pytest.mark.parametrize(
  ('host', 'status'),
  [('localhost', 200), ('127.0.0.1:80', 200), ('[::1]:80', 200), ('evil.example', 421)],
)
def test_a_local_server_answers_to_local_names(serve, host, status):
  assert ask(serve(), '/v1/tasks', None, {'host': host})[0] == status
  assert ask(serve(local_only=False), '/v1/tasks', None, {'host': host})[0] == 200


def test_the_pages_are_whole_and_run_no_other_script(serve):
  service = serve()
  for path in ('/', '/docs'):
    status, head, content = asyncio.run(call(service, path))
    assert status == 200 and b'</title>' in content
    assert b'src=' not in content and b'http://' not in content
    assert "default-src 'none'" in head['content-security-policy']
  status, described = ask(service, '/openapi.json')
  assert {'/v1/predict', '/v1/rank', '/v1/score', '/metrics'} <= described['paths'].keys()


async def while_held(service, held, body):
  """Starts a request, and returns it once its batch is being computed."""
  request = asyncio.ensure_future(call(service, '/v1/predict', body))
  assert await asyncio.to_thread(held.started.wait, 20)
  return request


def test_a_full_queue_and_late_answers_are_told(serve, predictor):
  held = Held(predictor)
  service = serve(limits=Limits(queue_size=2, wait_seconds=0), timeout=0.3)
  service.predictor = held
  body = {'task': 'a', 'inputs': 'x'}

  async def run():
    first = await while_held(service, held, body)
    waiting = asyncio.ensure_future(
      call(service, '/v1/predict', {'task': 'a', 'inputs': ['x', 'y']})
    )
    while len(service.batcher) < 2:
      await asyncio.sleep(0.001)
    status, head, content = await call(service, '/v1/predict', body)
    assert (status, head['retry-after']) == (429, '1')
    assert json.loads(content)['error'] == 'the queue is full: try again later'
    for request in (first, waiting):
      status, _, content = await request
      assert (status, json.loads(content)['error']) == (504, 'the answer took too long')
    held.go.set()
    while len(service.batcher):
      await asyncio.sleep(0.001)
    assert (await call(service, '/v1/predict', body))[0] == 200

  asyncio.run(run())
  assert service.metrics.total('questions_total') == 1


def test_a_client_that_goes_is_forgotten(serve, predictor):
  held = Held(predictor)
  service = serve(limits=Limits(wait_seconds=0))
  service.predictor = held
  body = {'task': 'a', 'inputs': 'x'}

  async def run():
    await while_held(service, held, body)
    gone = asyncio.ensure_future(call(service, '/v1/predict', body))
    while not len(service.batcher):
      await asyncio.sleep(0.001)
    gone.cancel()
    with contextlib.suppress(asyncio.CancelledError):
      await gone
    held.go.set()
    assert (await call(service, '/v1/predict', body))[0] == 200

  asyncio.run(run())
  # The first one and the last one were computed.
  assert service.metrics.total('rows_total') == 2


def test_a_new_checkpoint_answers_without_a_lost_request(serve, predictor):
  held, new = Held(predictor), made.predictor()
  new.step = 8
  # The programs of the first one are used again: only their parameters differ.
  assert new.engine.adopt(predictor.engine)
  compiled = predictor.engine._generate._cache_size()
  service = serve(limits=Limits(wait_seconds=0))
  service.predictor = held
  body = {'task': 'a', 'inputs': 'x'}

  async def run():
    before = [await while_held(service, held, body)]
    before += [asyncio.ensure_future(call(service, '/v1/predict', body)) for _ in range(3)]
    while len(service.batcher) < 3:
      await asyncio.sleep(0.001)
    service.switch(new)
    after = asyncio.ensure_future(call(service, '/v1/predict', body))
    held.go.set()
    return [json.loads((await request)[2])['step'] for request in [*before, after]]

  assert asyncio.run(run()) == [7, 7, 7, 7, 8]
  assert new.engine._generate._cache_size() <= compiled + 1


def test_closing_answers_what_was_accepted_and_refuses_the_rest(serve, predictor):
  held = Held(predictor)
  service = serve()
  service.predictor, service.is_ready = held, True
  assert ask(service, '/readyz') == (200, {'status': 'ready', 'step': 7})
  body = {'task': 'a', 'inputs': 'x'}

  async def run():
    accepted = await while_held(service, held, body)
    assert not service.close(0)
    assert (await call(service, '/v1/predict', body))[0] == 503
    assert (await call(service, '/readyz'))[0] == 503
    held.go.set()
    return (await accepted)[0]

  assert asyncio.run(run()) == 200


def test_a_failure_is_told_and_does_not_end_the_server(serve, predictor):
  held = Held(predictor)
  held.answers = lambda questions, generation: 1 / 0
  service = serve()
  service.predictor = held
  with pytest.raises(ZeroDivisionError):  # for the log
    ask(service, '/v1/predict', {'task': 'a', 'inputs': 'x'})
  service.predictor = predictor
  assert ask(service, '/v1/predict', {'task': 'a', 'inputs': 'x'})[0] == 200
  assert 'path="/v1/predict",status="500"} 1\n' in service.metrics.text()
