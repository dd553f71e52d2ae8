"""`hyperprompt report`, of folders with a run's files and nothing else."""

import itertools
import json
from html.parser import HTMLParser

import pytest

from hyperprompt_jax import cli
from hyperprompt_jax.inspection import charts
from hyperprompt_jax.inspection.report_data import Prediction

# HTML leaves these elements open.
VOID = {'meta', 'input', 'circle', 'line', 'polyline'}


class Page(HTMLParser):
  """Checks that elements are closed, and keeps their texts and all that is loaded."""

  def __init__(self, text):
    super().__init__()
    self.open, self.texts, self.loaded, self.names = [], [], [], []
    self.feed(text)
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.names.append(tag)
    self.loaded += [value for name, value in attrs if name in ('src', 'href')]
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.names.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


@pytest.fixture
def make_run(tmp_path):
  """Writes the folder of a run with two evaluations of one task."""

  def make(name, scores=(20.0, 60.0), seed=0, method='HyperPromptGlobal'):
    folder = tmp_path / name
    (folder / 'inference_eval').mkdir(parents=True)
    (folder / 'config.gin').write_text(
      f'RANDOM_SEED = {seed}\nMODEL_DIR = {str(folder)!r}\n'
      f"METHOD = @methods.{method}()\nMIXTURE_OR_TASK_NAME = 'two'\n"
    )
    records = [{'step': 1, 'train/loss': 3.5}, {'step': 2, 'train/loss': float('nan')}]
    for step, score in enumerate(scores, 1):
      metrics = {'eval/t/accuracy': score, 'eval/score/t': score, 'eval/average': score}
      records.append({'step': 10 * step, **metrics})
    lines = ''.join(json.dumps(record) + '\n' for record in records)
    (folder / 'metrics.jsonl').write_text(lines)
    answers = [('one', 'yes', 'yes'), ('<script>alert(1)</script>', 'yes', 'no')]
    for step in (10, 20):
      (folder / f'inference_eval/t-{step:06}.jsonl').write_text(
        ''.join(
          json.dumps(
            {
              'input': {'inputs_pretokenized': f'{text} {step}', 'inputs': [5]},
              'target': target,
              'prediction': answer,
            }
          )
          + '\n'
          for text, target, answer in answers
        )
      )
    return str(folder)

  return make


def report(*words):
  assert cli.main(['report', *words]) == 0


def test_a_page_needs_no_other_file_and_shows_wrong_answers_first(make_run, tmp_path):
  folder = make_run('run', scores=(60.0, 20.0))
  report(folder)
  text = (tmp_path / 'run/report.html').read_text()
  page = Page(text)
  assert all(link.startswith('#') for link in page.loaded)
  assert page.names.count('script') == 1 and '<script>alert' not in text
  texts = ' | '.join(page.texts)
  # The first evaluation is the best one.
  assert '1 of 2 answers differ' in texts and 'one 20' not in texts
  assert texts.index('alert(1)</script> 10') < texts.index('one 10')
  assert 'Comparison' not in texts
  assert 'HyperPromptGlobal' in texts and "'two'" in texts


def test_runs_are_compared_over_seeds_and_their_settings_differ(make_run, tmp_path):
  folders = [
    make_run(f'{method}_{seed}', (10.0, 50.0 + seed + gain), seed, method)
    for method, gain in {'HyperPromptGlobal': 20, 'MultiTaskLearning': 0}.items()
    for seed in range(3)
  ]
  output = tmp_path / 'page.html'
  report(*folders, f'--output={output}')
  texts = Page(output.read_text()).texts
  assert '71.00 ± 1.00 *' in texts and '51.00 ± 1.00' in texts
  assert 'Settings that differ:' in texts


def test_a_task_shows_as_many_predictions_as_asked_and_counts_the_rest(make_run, tmp_path):
  report(make_run('run'), '--predictions=1')
  text = (tmp_path / 'run/report.html').read_text()
  assert '1 more are not on this page' in text and 'one 20' not in text


def test_a_last_line_that_a_kill_cut_short_is_left_out(make_run, tmp_path, capsys):
  folder = make_run('run')
  file = tmp_path / 'run/inference_eval/t-000020.jsonl'
  text = file.read_text()
  file.write_text(text + '{"input": {"inp')
  report(folder)
  assert '1 of 2 answers differ' in (tmp_path / 'run/report.html').read_text()
  file.write_text('{"input": 3}\n' + text)
  assert cli.main(['report', folder]) == 2
  assert f'{file}, line 1 is no prediction: remove it' in capsys.readouterr().err


def test_a_page_holds_the_pictures_of_peek_if_asked(make_run, tmp_path, capsys):
  folder = make_run('run')
  assert cli.main(['report', folder, '--peek']) == 2
  assert f'run hyperprompt peek --model_dir={folder} first' in capsys.readouterr().err
  for step in (9, 10):
    page = tmp_path / f'run/peek/{step}/peek.html'
    page.parent.mkdir(parents=True)
    page.write_text(f'<h1>pictures of "{step}"</h1>')
  report(folder, '--peek')
  text = (tmp_path / 'run/report.html').read_text()
  assert 'srcdoc="&lt;h1&gt;pictures of &quot;10&quot;&lt;/h1&gt;"' in text


def test_a_folder_with_a_run_for_each_task_is_one_run(make_run, tmp_path):
  make_run('single/t')
  report(str(tmp_path / 'single'))
  assert '60.00' in (tmp_path / 'single/report.html').read_text()


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    ([], 'the following arguments are required: MODEL_DIR'),
    (['nowhere'], 'nowhere is no folder of a training run'),
    (['--predictions=-1', 'run'], '--predictions must be 0 or more, not -1'),
  ],
)
def test_mistakes(words, message, capsys):
  assert cli.main(['report', *words]) == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  ('target', 'prediction', 'error'),
  [
    ('a', 'a', 0),
    ('a', 'b', 1),
    (['a', 'b'], 'b', 0),
    (['a', 'b'], 'c', 1),
    (3, 5, 1),
    (3.0, 5.5, 2.5),
    (True, 2, 1),
    (0.5, 'x', 1),
  ],
)
def test_the_error_of_an_answer(target, prediction, error):
  assert Prediction('', target, prediction).error == error


def test_a_chart_leaves_out_values_that_are_not_finite():
  points = [(1, 0.0), (2, float('nan')), (3, 1.0)]
  text = charts.line_chart({'a<b': points}, 'loss')
  assert 'nan' not in text and 'a&lt;b' in text
  (line,) = [part for part in text.split('<') if part.startswith('polyline')]
  assert len(line.split('"')[1].split()) == 2
  assert charts.line_chart({'a': []}, 'loss') == '<p>There are no values.</p>'


@pytest.mark.parametrize('values', [(0.0, 1.0), (-3.0, 250.0), (5.0, 5.0), (0.0, 0.0)])
def test_ticks_span_the_values_evenly(values):
  ticks = charts._ticks(*values)
  assert ticks[0] <= values[0] and ticks[-1] >= values[1] and 2 <= len(ticks) <= 7
  steps = {round(b - a, 9) for a, b in itertools.pairwise(ticks)}
  assert len(steps) == 1
