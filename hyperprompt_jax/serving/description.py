"""The HTTP interface as OpenAPI, and as a page that needs no other file and no network."""

import base64
import functools
import hashlib
import html
import importlib.resources
import json
import re
from typing import Any

import hyperprompt_jax
from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.serving import requests

_TEXTS = {'oneOf': [{'type': 'string'}, {'type': 'array', 'items': {'type': 'string'}}]}
_FIELDS: dict[str, dict[str, Any]] = {
  'task': {'type': 'string', 'description': 'The task of all inputs.'},
  'inputs': {**_TEXTS, 'description': 'A text, or a list of texts.'},
  'targets': {**_TEXTS, 'description': 'The targets of the inputs, as many.'},
  'questions': {
    'type': 'array',
    'items': {'type': 'object'},
    'description': 'Objects with task and inputs (and targets), of any tasks, in place of '
    'these fields.',
  },
  'labels': {
    'type': 'array',
    'items': {'type': 'string'},
    'maxItems': requests.MOST_LABELS,
    'description': "The texts to choose from; the task's own labels by default.",
  },
  'attention': {
    'type': 'boolean',
    'description': 'Measure the attention mass on prompts in each encoder layer, too.',
  },
  'num_decodes': {
    'type': 'integer',
    'minimum': 1,
    'maximum': requests.MOST_DECODES,
    'description': 'Candidates of a beam search or, with a temperature, samples.',
  },
  'temperature': {
    'type': 'number',
    'minimum': 0,
    'description': 'Above 0, tokens are drawn.',
  },
  'top_k': {'type': 'integer', 'description': 'Draw from the K likeliest tokens alone.'},
  'top_p': {'type': 'number', 'description': 'Draw from the likeliest of this mass.'},
  'seed': {'type': 'integer', 'description': 'Seeds the draws.'},
  'max_length': {
    'type': 'integer',
    'minimum': 1,
    'description': "The most tokens of an answer, at most the model's own.",
  },
}
_PURPOSES = {
  requests.PREDICT: 'Generates an answer to each question.',
  requests.RANK: 'Chooses the likeliest label for each question.',
  requests.SCORE: 'Returns the log likelihood of a target for each question.',
}
_EXAMPLES: dict[str, dict[str, Any]] = {
  requests.PREDICT: {'task': 'boolq', 'inputs': 'boolq passage: … question: …'},
  requests.RANK: {'task': 'boolq', 'inputs': ['boolq passage: … question: …']},
  requests.SCORE: {'task': 'boolq', 'inputs': 'boolq …', 'targets': 'True'},
}
_ERRORS = {
  400: 'The body is no JSON.',
  401: 'The token is missing or wrong.',
  408: 'The body did not arrive in time.',
  413: 'The body or the number of questions is too large.',
  415: 'The body is not declared to be JSON.',
  421: 'The request was sent to another name of this host.',
  422: 'The request is JSON, but no question that this model can answer.',
  429: 'The queue is full: try again later.',
  503: 'The server is not ready, or ending.',
  504: 'The answer took too long.',
}
_GETS = {
  '/v1/tasks': 'The tasks, their labels, and the most tokens of inputs and answers.',
  '/healthz': '200 while the process answers.',
  '/readyz': '200 once all programs are compiled; 503 before, and while the server ends.',
  '/metrics': 'Numbers in the text format of Prometheus.',
}
_SECURED = ('/v1/tasks', '/metrics')
_STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:52em;
margin:0 auto;padding:0 1em 3em}pre{overflow-x:auto;background:#8882;padding:.6em}
table{border-collapse:collapse}td,th{text-align:left;vertical-align:top;
padding:.2em .8em .2em 0;border-bottom:1px solid #8884}
"""


def tasks(predictor: Predictor) -> dict[str, Any]:
  """Returns the response of `/v1/tasks`."""
  return {
    'step': predictor.step,
    'method': predictor.record.network['METHOD'],
    'lengths': dict(predictor.lengths),
    'tasks': [{'name': name, 'labels': predictor.labels(name)} for name in predictor.tasks],
  }


@functools.cache
def openapi() -> dict[str, Any]:
  """Returns the description of the interface in OpenAPI 3.1."""
  error = {
    'type': 'object',
    'properties': {'error': {'type': 'string', 'description': 'One line.'}},
  }
  content = lambda schema, **more: {'application/json': {'schema': schema, **more}}
  secured: list[dict[str, list[str]]] = [{'token': []}, {}]
  paths: dict[str, Any] = {}
  for kind, purpose in _PURPOSES.items():
    properties = {name: _FIELDS[name] for name in requests.FIELDS[kind]}
    body = content(
      {'type': 'object', 'additionalProperties': False, 'properties': properties},
      example=_EXAMPLES[kind],
    )
    responses = {
      str(s): {'description': d, 'content': content(error)} for s, d in _ERRORS.items()
    }
    responses['200'] = {
      'description': 'An answer for each question, in their order.',
      'content': content({'type': 'object'}),
    }
    post = {
      'summary': purpose,
      'security': secured,
      'requestBody': {'required': True, 'content': body},
      'responses': dict(sorted(responses.items())),
    }
    paths[f'/v1/{kind}'] = {'post': post}
  for path, purpose in _GETS.items():
    get: dict[str, Any] = {'summary': purpose, 'responses': {'200': {'description': 'OK'}}}
    paths[path] = {'get': get | ({'security': secured} if path in _SECURED else {})}
  return {
    'openapi': '3.1.0',
    'info': {'title': 'hyperprompt serve', 'version': hyperprompt_jax.__version__},
    'paths': paths,
    'components': {'securitySchemes': {'token': {'type': 'http', 'scheme': 'bearer'}}},
  }


@functools.cache
def page() -> str:
  """Returns the page `/docs`."""
  described = openapi()
  parts = [
    '<!doctype html><html lang="en"><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width">',
    f'<title>hyperprompt serve</title><style>{_STYLE}</style>',
    '<h1>hyperprompt serve</h1><p><a href="/">Try it</a> · ',
    '<a href="/openapi.json">OpenAPI</a></p>',
  ]
  for path, methods in described['paths'].items():
    for method, operation in methods.items():
      parts.append(f'<h2>{method.upper()} {html.escape(path)}</h2>')
      parts.append(f'<p>{html.escape(operation["summary"])}</p>')
      if 'requestBody' in operation:
        body = operation['requestBody']['content']['application/json']
        rows = ((k, v['description']) for k, v in body['schema']['properties'].items())
        parts.append(_table('field', rows))
        example = json.dumps(body['example'], ensure_ascii=False)
        parts.append(f'<pre>{html.escape(example)}</pre>')
  parts.append('<h2>Errors</h2><p>An error is <code>{"error": "one line"}</code>.</p>')
  parts.append(_table('status', _ERRORS.items()))
  return ''.join(parts)


def _table(name: str, rows: Any) -> str:
  cells = (
    f'<tr><td><code>{html.escape(str(a))}</code><td>{html.escape(b)}' for a, b in rows
  )
  return f'<table><tr><th>{name}<th>meaning{"".join(cells)}</table>'


@functools.cache
def try_page() -> str:
  """Returns the page `/`, on which questions are asked."""
  folder = importlib.resources.files('hyperprompt_jax.serving')
  return (folder / 'page.html').read_text(encoding='utf-8')


@functools.cache
def security_headers() -> tuple[tuple[bytes, bytes], ...]:
  """Returns the headers of every response; scripts run by their digest alone."""
  digests = [
    f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
    for code in re.findall(r'<script>(.*?)</script>', try_page(), re.DOTALL)
  ]
  policy = (
    f"default-src 'none'; connect-src 'self'; script-src {' '.join(digests)}; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
  )
  return (
    (b'content-security-policy', policy.encode()),
    (b'x-content-type-options', b'nosniff'),
    (b'cache-control', b'no-store'),
  )
