"""The report on data counts texts that are cut and tokens that are unknown."""

import pathlib

import pytest
import seqio

import hyperprompt_tasks
from hyperprompt_jax.data import report
from hyperprompt_jax.data.access import Access
from hyperprompt_jax.data.cache import Cache

SMALL_VOCABULARY = str(
  pathlib.Path(seqio.__file__).parent / 'test_data/sentencepiece/sentencepiece.model'
)


@pytest.mark.parametrize('is_cached', [False, True])
def test_unknown_tokens_and_cut_texts_of_both_splits(is_cached, tmp_path):
  (tmp_path / 'a.tsv').write_text('inputs\ttargets\nthis\tthat\n☃ ☃ ☃\t☃\n')
  (tmp_path / 'b.tsv').write_text('inputs\ttargets\nthis is a test of a cut\tthat\n')
  files = {'train': str(tmp_path / 'a.tsv'), 'validation': str(tmp_path / 'b.tsv')}
  name = hyperprompt_tasks.from_files(f'report_counts_{is_cached}', {'t': files})
  vocabulary = hyperprompt_tasks.use_vocabulary(SMALL_VOCABULARY)
  cache = Cache(str(tmp_path)) if is_cached else None
  source = Access({'inputs': 9, 'targets': 9}, cache=cache)
  unknown = lambda text: vocabulary.encode(text).count(vocabulary.unk_id)
  (data,) = report.look(name, source, 10).values()
  assert data.examples == 2 and data.validation.examples == 1
  texts = {'inputs': ('this', '☃ ☃ ☃'), 'targets': ('that', '☃')}
  assert data.unknown == {f: sum(map(unknown, both)) for f, both in texts.items()}
  assert data.unknown['inputs'] >= 3 and data.unknown['targets'] >= 1
  length = len(vocabulary.encode('this is a test of a cut')) + 1
  assert length > 9
  assert data.validation.cut == {'inputs': 1, 'targets': 0}
  assert data.validation.cut_tokens == {'inputs': length - 9, 'targets': 0}
  rows = [name for name, _ in report._splits({'t': data})]
  assert rows == ['t', 't, validation']


def test_validation_splits_of_tasks_that_are_not_evaluated_are_not_read(tmp_path):
  (tmp_path / 'a.tsv').write_text('inputs\ttargets\nthis\tthat\n')
  files = dict.fromkeys(('train', 'validation'), str(tmp_path / 'a.tsv'))
  name = hyperprompt_tasks.from_files('report_evaluated', {'t': files, 'u': files})
  hyperprompt_tasks.use_vocabulary('bytes')
  cache = Cache(str(tmp_path / 'cache'))
  data = report.look(name, Access({'inputs': 9, 'targets': 9}, cache=cache), 10, 'u')
  assert data['t'].validation is None and data['u'].validation.examples == 1
  kept = sorted((entry.info.task, entry.info.split) for entry in cache.entries())
  assert kept == [
    ('report_evaluated.t', 'train'),
    ('report_evaluated.u', 'train'),
    ('report_evaluated.u', 'validation'),
  ]


def test_of_many_tasks_the_sum_and_both_ends_are_shown(capsys):
  size = lambda number: {'inputs': number, 'targets': 1}
  data = {
    f't{n}': report.TaskData(
      2,
      2,
      cut=size(n % 3),
      cut_tokens=size(n),
      tokens=size(100),
      unknown=size(0),
      labels={},
    )
    for n in range(100)
  }
  rows = report._shown(data)
  assert [*rows][:3] == ['all 100 tasks', 't99', 't98']
  assert [*rows][-1] == 't0'
  total = rows['all 100 tasks']
  assert (total.examples, total.cut_tokens['inputs']) == (200, sum(range(100)))
  report.show(data, {'inputs': 9, 'targets': 9})
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) < 50
  assert any('49.5 %' in line for line in lines)
