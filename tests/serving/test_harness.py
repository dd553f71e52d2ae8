"""The adapter for lm-evaluation-harness, with requests as the harness makes them."""

import sys
import types

import pytest

from hyperprompt_jax.errors import UserError
from hyperprompt_jax.inference import loading
from hyperprompt_jax.inference.answers import Answer
from hyperprompt_jax.serving import harness
from tests.inference import made


def request(context, second, task_name='theirs'):
  return types.SimpleNamespace(args=(context, second), task_name=task_name)


class Recorder:
  """A predictor that answers with the options that it was given."""

  tasks = ('a', 'b')
  lengths = made.LENGTHS

  def predict(self, questions, **options):
    self.asked = [*questions]
    text = f'{sorted(options.items())}\nnext'
    return [Answer(text, 0.0, (1,), True, False) for _ in self.asked]


def test_likelihoods_and_the_greedy_continuation():
  predictor = made.predictor()
  (greedy,) = predictor.predict('c', ['abc'], max_length=3)
  requests = [request('abc', ' yes', 'c'), request('abc', ' no', 'c')]
  requests.append(request('abc', ' yes', 'a'))
  answering = harness.Answering(predictor)
  results = answering.log_likelihoods(requests)
  scores = [
    predictor.score(r.task_name, ['abc'], [r.args[1].strip()])[0].log_likelihood
    for r in requests
  ]
  assert [likelihood for likelihood, _ in results] == pytest.approx(scores, abs=1e-5)
  assert results[0][0] != pytest.approx(results[2][0], abs=1e-3)  # other prompts
  assert [is_greedy for _, is_greedy in results] == [False] * 3
  # A tokenizer for which a text is the greedy answer.
  predictor.tokenizer = types.SimpleNamespace(
    encode=lambda text: [*greedy.tokens[:2]] if text == 'yes' else [5, 6],
    eos_id=greedy.tokens[2],
    count_unknown=lambda tokens: 0,
    decode=str,
  )
  predictor.question = lambda task, text, place=0: predictor.question_of(
    predictor.tasks.index(task), [100, 101, 102, 1], place
  )
  assert [g for _, g in answering.log_likelihoods(requests[:2])] == [True, False]


def test_texts_end_at_the_stop_texts_and_settings_become_options():
  answering = harness.Answering(Recorder(), 'b')
  sampled = {'until': ['\n'], 'max_gen_toks': 9, 'do_sample': True, 'temperature': 0.7}
  requests = [
    request('x', sampled),
    request('y', {'until': 'next', 'do_sample': False, 'temperature': 0.7}),
    request('z', {'num_beams': 4, 'max_gen_toks': 9}),
  ]
  assert [*answering.texts(requests)] == [
    "[('max_length', 9), ('temperature', 0.7)]",
    "[('max_length', 6)]\n",
    "[('max_length', 9), ('num_decodes', 4)]\nnext",
  ]
  assert answering.predictor.asked == [('b', 'z')]


def test_the_task_is_chosen_or_has_the_harness_name():
  assert harness.Answering(Recorder(), 'b').task_of(request('x', 'y')) == 'b'
  assert harness.Answering(Recorder()).task_of(request('x', 'y', 'a')) == 'a'
  with pytest.raises(UserError, match="asks for 'theirs', which is no task of this model"):
    harness.Answering(Recorder()).task_of(request('x', 'y'))
  with pytest.raises(UserError, match='task=c is not one of this model'):
    harness.Answering(Recorder(), 'c')


def test_the_model_is_registered_and_loads_what_its_arguments_name(monkeypatch):
  added, registry, loads = [], {}, []

  class LM:
    def __init__(self):
      self.cache_hook = types.SimpleNamespace(
        add_partial=lambda *words: added.append(words)
      )

  def register_model(name):
    return lambda kind: registry.setdefault(name, kind)

  for name, content in {
    'lm_eval': {},
    'lm_eval.api': {},
    'lm_eval.api.model': {'LM': LM},
    'lm_eval.api.registry': {'register_model': register_model},
  }.items():
    module = types.ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)

  def load(*words, **options):
    loads.append((words, options))
    return Recorder()

  monkeypatch.setattr(loading, 'load', load)
  assert harness.main(lambda: None) == 0
  model = registry['hyperprompt'](pretrained='run', task='a', batch_size='auto', device='x')
  assert loads == [(('run', 'latest'), {'vocabulary': None, 'batch_size': 32})]
  asked = request('x', {'until': [','], 'max_gen_toks': 2})
  assert model.generate_until([asked]) == ["[('max_length'"]
  assert added == [('generate_until', asked.args, "[('max_length'")]
  with pytest.raises(NotImplementedError, match='no likelihood of a text alone'):
    model.loglikelihood_rolling([])


def test_without_the_harness_one_line_says_what_to_install(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'lm_eval.api.model', None)
  assert harness.main() == 2
  assert "pip install 'hyperprompt-jax[lm_eval]'" in capsys.readouterr().err
