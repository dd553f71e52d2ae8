"""The HTTP interface: routes, authentication, limits and errors, as an ASGI application."""

import asyncio
import dataclasses
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.serving import description, metrics, requests
from hyperprompt_jax.serving.batcher import (
  Batcher,
  ClosedError,
  ExpiredError,
  Limits,
  QueueFullError,
)
from hyperprompt_jax.serving.requests import RequestError

# The paths that need no token: probes, the page, and the description of the interface.
OPEN_PATHS = ('/', '/docs', '/openapi.json', '/healthz', '/readyz')
# A larger body is parsed in another thread: the loop goes on answering meanwhile.
_SMALL_BYTES = 2**14
# A body that is too large is read to its end up to this size, so that its client, which
# sends all of it before it reads, sees the response.
_DISCARDED_BYTES = 2**25


@dataclasses.dataclass(frozen=True)
class Settings:
  """The settings of the HTTP interface.

  Attributes:
    limits: limit batches and queue.
    timeout: is the most seconds from a request's arrival to its response.
    body_timeout: is the most seconds in which a body arrives.
    largest_body: is the most bytes of a body.
    token: is the token that requests must bear; None for none.
    local_only: says whether the server listens on the loopback interface alone. It then
      refuses other names of the host, which a page in a browser could make lead here.
  """

  limits: Limits = dataclasses.field(default_factory=Limits)
  timeout: float = 60.0
  body_timeout: float = 20.0
  largest_body: int = 2**20
  token: str | None = None
  local_only: bool = True


class Service:
  """A model behind HTTP; another checkpoint can take its place at any time.

  Args:
    predictor: is the model.
    settings: are the settings.
  """

  def __init__(self, predictor: Predictor, settings: Settings):
    self.predictor = predictor
    self.settings = settings
    self.is_ready = False
    self.metrics = _metrics(self)
    self.batcher = Batcher(
      requests.compute, settings.limits, self._observe, requests.takes_compilation
    )
    self.app = self._application()

  def switch(self, predictor: Predictor) -> None:
    """Answers from now on with another model.

    Requests that were accepted before are answered by the model that they began with.
    """
    self.predictor = predictor
    self.metrics.add('switches_total')

  def close(self, seconds: float) -> bool:
    """Refuses questions, and waits for the answers of those that were accepted.

    Args:
      seconds: is the longest time to wait.

    Returns:
      Whether all were answered.
    """
    self.is_ready = False
    return self.batcher.close(seconds)

  def _observe(self, jobs: int, seconds: float) -> None:
    self.metrics.add('rows_total', by=jobs)
    self.metrics.observe('batch_rows', jobs)
    self.metrics.observe('batch_seconds', seconds)

  def _application(self) -> Starlette:
    async def failed(request: Request, error: Exception) -> Response:
      del request, error
      return _error(500, 'the server failed at this request; its log says why')

    async def refused(request: Request, error: Any) -> Response:
      del request
      return _error(error.status_code, error.detail, error.headers)

    routes = [Route('/', self._page), Route('/docs', self._docs)]
    routes += [Route('/openapi.json', self._openapi), Route('/metrics', self._metrics)]
    routes += [Route('/healthz', self._healthz), Route('/readyz', self._readyz)]
    routes += [Route('/v1/tasks', self._tasks)]
    for kind in requests.FIELDS:
      routes.append(Route(f'/v1/{kind}', self._endpoint(kind), methods=['POST']))
    handlers: Any = {HTTPException: refused, Exception: failed}
    application = Starlette(routes=routes, exception_handlers=handlers)
    application.add_middleware(_Guard, service=self)
    return application

  def _endpoint(self, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
      try:
        return JSONResponse(await self._answer(kind, request))
      except RequestError as error:
        headers = {'Retry-After': '1'} if error.status in (429, 503) else None
        return _error(error.status, str(error), headers)
      except ClientDisconnect:
        return _error(400, 'the client has gone')  # nobody reads it

    return endpoint

  async def _answer(self, kind: str, request: Request) -> Any:
    """Returns the response's JSON object."""
    end = time.monotonic() + self.settings.timeout
    body = await self._body(request)
    # One model answers the whole request, whatever takes its place meanwhile.
    arguments = (kind, body, self.predictor, self.settings.limits.queue_size)
    if len(body) > _SMALL_BYTES:
      parsed = await asyncio.to_thread(requests.parse, *arguments)
    else:
      parsed = requests.parse(*arguments)
    seconds = end - time.monotonic()
    try:
      futures = self.batcher.submit(parsed.jobs, seconds)
    except QueueFullError as error:
      raise RequestError(429, 'the queue is full: try again later') from error
    except ClosedError as error:
      raise RequestError(503, 'the server is ending') from error
    results = await _results(request, futures, seconds)
    for task in parsed.tasks:
      self.metrics.add('questions_total', {'kind': kind, 'task': task})
    return parsed.response(results)

  async def _body(self, request: Request) -> bytes:
    """Returns the body of a request."""
    kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
    if kind != 'application/json':
      # A page of another site can send other types without asking first.
      raise RequestError(415, 'send JSON, with the header Content-Type: application/json')
    most = self.settings.largest_body
    chunks, number = [], 0
    try:
      async with asyncio.timeout(self.settings.body_timeout):
        async for chunk in request.stream():
          number += len(chunk)
          if number <= most:
            chunks.append(chunk)
          else:
            chunks.clear()
          if number > _DISCARDED_BYTES:
            break
    except TimeoutError as error:
      message = f'the body did not arrive within {self.settings.body_timeout:g} s'
      raise RequestError(408, message) from error
    if number > most:
      raise RequestError(413, f'the body has over {most} bytes')
    return b''.join(chunks)

  async def _tasks(self, request: Request) -> Response:
    del request
    return JSONResponse(description.tasks(self.predictor))

  async def _healthz(self, request: Request) -> Response:
    del request
    return JSONResponse({'status': 'ok'})

  async def _readyz(self, request: Request) -> Response:
    del request
    if not self.is_ready:
      return _error(503, 'not ready: programs are being compiled, or the server is ending')
    return JSONResponse({'status': 'ready', 'step': self.predictor.step})

  async def _metrics(self, request: Request) -> Response:
    del request
    return Response(self.metrics.text(), headers={'content-type': metrics.CONTENT_TYPE})

  async def _openapi(self, request: Request) -> Response:
    del request
    return JSONResponse(description.openapi())

  async def _docs(self, request: Request) -> Response:
    del request
    return HTMLResponse(description.page())

  async def _page(self, request: Request) -> Response:
    del request
    return HTMLResponse(description.try_page())


class _Guard:
  """Checks host and token of each request, and counts and times the responses.

  Args:
    app: is the application behind it.
    service: has the settings and the metrics.
  """

  def __init__(self, app: Any, service: Service):
    self._app = app
    self._service = service
    self._paths = {'/metrics', '/v1/tasks', *OPEN_PATHS}
    self._paths |= {f'/v1/{kind}' for kind in requests.FIELDS}

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    started, status = time.monotonic(), 500

    async def watch(message: Any) -> None:
      nonlocal status
      if message['type'] == 'http.response.start':
        status = message['status']
        message['headers'] = [*message['headers'], *description.security_headers()]
      await send(message)

    request = Request(scope)
    refusal = self._refusal(request)
    try:
      await (refusal or self._app)(scope, receive, watch)
    finally:
      # Paths that do not exist share one series.
      path = request.url.path if request.url.path in self._paths else 'other'
      labels = {'path': path, 'status': str(status)}
      self._service.metrics.add('requests_total', labels)
      seconds = time.monotonic() - started
      self._service.metrics.observe('request_seconds', seconds, {'path': path})

  def _refusal(self, request: Request) -> Response | None:
    settings = self._service.settings
    if settings.local_only and not _is_local(request.headers.get('host', '')):
      return _error(421, 'this server answers for localhost alone')
    if settings.token is None or request.url.path in OPEN_PATHS:
      return None
    given = request.headers.get('authorization', '').encode()
    if hmac.compare_digest(given, f'Bearer {settings.token}'.encode()):
      return None
    headers = {'WWW-Authenticate': 'Bearer'}
    return _error(401, 'send the header Authorization: Bearer TOKEN', headers)


def _is_local(host: str) -> bool:
  """Whether a header `Host` names the loopback interface."""
  name = host if host.endswith(']') else host.rpartition(':')[0] or host
  if name.lower() == 'localhost':
    return True
  try:
    return ipaddress.ip_address(name.strip('[]')).is_loopback
  except ValueError:
    return False


def _error(status: int, message: str, headers: Any = None) -> JSONResponse:
  headers = dict(headers or {})
  if status in (408, 413):
    headers['Connection'] = 'close'  # a rest of the body may still come
  return JSONResponse({'error': message}, status, headers)


async def _results(request: Request, futures: Sequence[Future], seconds: float) -> Any:
  """Returns the results of jobs; cancels them if the client goes, or the time is over."""
  answered: asyncio.Future[Any] = asyncio.gather(*map(asyncio.wrap_future, futures))
  gone: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
  try:
    await asyncio.wait(
      {answered, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
    )
    if answered.done():
      return answered.result()
    if gone.done():
      raise ClientDisconnect
    raise ExpiredError
  except ExpiredError as error:
    raise RequestError(504, 'the answer took too long') from error
  finally:
    for task in (answered, gone):
      task.cancel()
    for future in futures:
      future.cancel()
    await asyncio.gather(answered, gone, return_exceptions=True)


def _metrics(service: Service) -> metrics.Metrics:
  """Declares the numbers of a service."""
  numbers = metrics.Metrics()
  numbers.describe('requests_total', 'Responses by path and status.')
  numbers.describe('questions_total', 'Answered questions by kind and task.')
  numbers.describe('rows_total', 'Rows of all batches.')
  numbers.describe('switches_total', 'Checkpoints that took the place of another.')
  numbers.describe_histogram(
    'request_seconds', 'Seconds from a request to its response.', metrics.SECONDS
  )
  numbers.describe_histogram('batch_rows', 'Rows of a batch.', metrics.ROWS)
  numbers.describe_histogram('batch_seconds', 'Seconds of a batch.', metrics.SECONDS)
  numbers.describe_gauge('queue', 'Jobs that wait.', lambda: len(service.batcher))
  numbers.describe_gauge(
    'queue_limit', 'The most jobs that wait.', lambda: service.settings.limits.queue_size
  )
  numbers.describe_gauge(
    'step', 'The training step that answers.', lambda: service.predictor.step
  )
  numbers.describe_gauge('ready', '1 if the server is ready.', lambda: service.is_ready)
  numbers.describe_gauge(
    'resident_memory_bytes', 'Memory of the process.', metrics.resident_bytes
  )
  return numbers
