"""The official TSV files give the rows that TFDS gives."""

import logging

import gin
import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

import hyperprompt_tasks
from hyperprompt_tasks import glue_files, sources

LABELLED = {'train': 'train.tsv', 'validation': 'dev.tsv'}
PAIRS = b'index\tsentence1\tsentence2\tlabel\n'
QUESTIONS = b'id\tquestion1\tquestion2\tis_duplicate\n'


class Manager:
  """A download manager that has all files already."""

  downloaded_size = 0

  def __init__(self, folder):
    self.folder = folder

  def download(self, urls):
    if isinstance(urls, str):
      return str(self.folder / 'diagnostic' / 'diagnostic.tsv')
    return {
      key: str(self.folder / 'MRPC' / name)
      for key, name in (
        ('train', 'msr_paraphrase_train.txt'),
        ('test', 'msr_paraphrase_test.txt'),
        ('dev_ids', 'dev_ids.tsv'),
      )
    }

  def download_and_extract(self, url):
    return str(self.folder)


@pytest.fixture
def builder(tmp_path):
  """Makes the builder of TFDS for a configuration."""
  return lambda config: tfds.builder(
    f'glue/{config}:2.0.0', data_dir=str(tmp_path / 'tfds')
  )


def plain(row):
  """Returns a row with values that can be compared with those of another source."""
  return {
    key: value.item() if isinstance(value, np.ndarray | np.generic) else value
    for key, value in row.items()
  }


def rows(config, split):
  """Returns the rows that our reader reads, in the types of TFDS."""
  layout = glue_files.FORMATS[config]
  result = layout.read(layout.path(hyperprompt_tasks.glue_dir(), split), split)
  if config == 'stsb':
    result = [{**row, 'label': np.float32(row['label'])} for row in result]
  return [plain(row) for row in result]


def from_dataset(source, split):
  result = source.get_dataset(split, shuffle=False).as_numpy_iterator()
  return sorted(map(plain, result), key=lambda row: row['idx'])


def encoded(builder, examples):
  """Returns the rows that TFDS would write of the examples of its own reader."""
  texts = [
    {
      key: v.encode() if isinstance(v, str) and key != 'label' else v
      for key, v in e.items()
    }
    for _, e in examples
  ]
  return [plain(builder.info.features.encode_example(text)) for text in texts]


@pytest.mark.parametrize('config', glue_files.FORMATS)
def test_official_files_are_read_as_tfds_reads_them(glue_folder, builder, config):
  theirs = builder(config)
  generators = theirs._split_generators(Manager(glue_folder))
  assert {str(g.name) for g in generators} == set(glue_files.FORMATS[config].files)
  for generator in generators:
    expected = encoded(theirs, theirs._generate_examples(**generator.gen_kwargs))
    assert rows(config, str(generator.name)) == expected != []


@pytest.mark.parametrize('config', glue_files.FORMATS)
def test_features_have_the_types_and_shapes_of_tfds(glue_folder, builder, config):
  layout, features = glue_files.FORMATS[config], builder(config).info.features
  split = next(iter(layout.files))
  dataset = sources.GlueSource(config, (split,)).get_dataset(split)
  assert dataset.element_spec == features.get_tensor_spec()
  assert list(layout.classes) == getattr(features['label'], 'names', [])


@pytest.mark.parametrize('config', ['stsb', 'mrpc'])
def test_rows_of_the_folder_are_those_that_tfds_prepares(
  glue_folder, monkeypatch, tmp_path, online, config
):
  source = sources.GlueSource(config)
  ours = {split: from_dataset(source, split) for split in source.splits}
  assert set(ours) == {'train', 'validation', 'test'}
  monkeypatch.delenv('GLUE_DIR')
  monkeypatch.setattr(
    'tensorflow_datasets.core.DatasetBuilder._make_download_manager',
    lambda *_, **__: Manager(glue_folder),
  )
  monkeypatch.setattr(seqio.utils, '_TFDS_DATA_DIR_OVERRIDE', str(tmp_path / 'tfds'))
  for split, expected in ours.items():
    assert source.list_shards(split)
    assert source.num_input_examples(split) == len(expected)
    assert from_dataset(source, split) == expected


def test_tfds_data_of_t5s_version_are_read_where_they_are_prepared(
  monkeypatch, tmp_path, online
):
  asked = []
  monkeypatch.setattr(
    seqio.TfdsDataSource,
    'get_dataset',
    lambda self, *_: asked.append(self.tfds_dataset.name),
  )
  monkeypatch.setattr(seqio.utils, '_TFDS_DATA_DIR_OVERRIDE', str(tmp_path))
  source = sources.GlueSource('rte')
  source.get_dataset('train')
  (tmp_path / 'glue' / 'rte' / '1.0.0').mkdir(parents=True)
  source.get_dataset('train')
  # TFDS can prepare only the second.
  assert asked == ['glue/rte:2.0.0', 'glue/rte:1.0.0']


@pytest.mark.parametrize(
  ('config', 'split', 'text'),
  [
    # Quotes are text, lines end as in Python's text files, and blank lines are no rows.
    ('rte', 'train', PAIRS + '0\t"A\tB"\tentailment\r\n\n1\tÉ\x85\u2028\tB \t1\n'.encode()),
    ('rte', 'train', PAIRS + b'0\tA\tB\t0\r1\tC\tD\t1'),
    # A row has more fields than there are columns, and one has an empty text.
    ('rte', 'train', PAIRS + b'0\tA\tB\tentailment\tmore\n1\t\tB\t0\n'),
    # Lines that end early or have no class come before a complete one.
    ('qqp', 'train', QUESTIONS + b'0\tA\n1\tA\tB\n2\tA\tB\t\n \n3\tA\tB\t1\n'),
    ('qqp', 'test', b'id\tquestion1\tquestion2\n0\tA\n1\tA\tB\n'),
    # The test file has labels.
    ('rte', 'test', PAIRS + b'0\tA\tB\tnot_entailment\n'),
    ('cola', 'train', b'a\t1\t\tS "\tmore\nb\t0\t*\t\n'),
    ('cola', 'train', b'a\t\t\tS\nb\t1\t\tS\n'),
    ('cola', 'test', b'index\tsentence\n0\tS\n'),
    ('stsb', 'train', b'sentence1\tsentence2\tscore\nA\tB\t 4.75\nA\tB\t1e-1\n'),
  ],
)
def test_unusual_lines_are_read_as_tfds_reads_them(
  glue_folder, builder, config, split, text
):
  path = glue_folder / glue_files.FORMATS[config].folder / f'{split}.tsv'
  path.write_bytes(text)
  theirs = builder(config)
  expected = encoded(theirs, theirs._generate_examples(str(path), split))
  assert rows(config, split) == expected != []


def test_lines_left_out_are_counted_once(glue_folder, caplog):
  path = glue_folder / 'QQP' / 'train.tsv'
  path.write_bytes(QUESTIONS + b'0\tA\n1\tA\tB\t1\n2\tA\tB\t\n3\tA\tB\t0\tmore\n')
  with caplog.at_level(logging.WARNING, logger='absl'):
    for _ in range(2):
      assert [row['idx'] for row in rows('qqp', 'train')] == [1, 3]
  message = [record.getMessage() for record in caplog.records]
  assert len(message) == 2
  assert message[0].startswith(f'{path}: 1 lines have more fields')
  assert message[1].startswith(f'{path}: left out 2 of 4 lines')


def test_whole_files_are_read_without_a_word(glue_folder, caplog):
  with caplog.at_level(logging.WARNING, logger='absl'):
    for config, layout in glue_files.FORMATS.items():
      for split in layout.files:
        rows(config, split)
  assert not caplog.records


def test_an_stsb_line_without_its_score_is_left_out(glue_folder):
  # TFDS reads it as a row with the score NaN.
  path = glue_folder / 'STS-B' / 'train.tsv'
  path.write_bytes(b'sentence1\tsentence2\tscore\nA\tB\nC\tD\t2\n')
  assert rows('stsb', 'train') == [
    {'sentence1': b'C', 'sentence2': b'D', 'label': 2.0, 'idx': 1}
  ]


@pytest.mark.parametrize(
  ('config', 'text', 'line', 'expected'),
  [
    ('rte', b'sentence1\tlabel\n', 1, "a header with 'sentence1', 'sentence2', 'label'"),
    ('rte', b'sentence1\tsentence2\nA\tB\n', 1, "found 'sentence1', 'sentence2'"),
    ('rte', PAIRS + b'0\tA\tB\tmaybe\n', 2, "not_entailment, 0, 1; found 'maybe'"),
    ('rte', PAIRS + b'\n0\tA\tB\t2\n', 3, "'label' to be one of entailment"),
    ('rte', PAIRS + b'0\tA\xff\tB\t1\n', 2, 'a line of text in UTF-8'),
    ('rte', b'\xff\xfes\x00', 1, 'in UTF-8'),
    ('qqp', QUESTIONS + b'0\tA\tB\t-1\n', 2, "'is_duplicate' to be one of"),
    ('stsb', b'sentence1\tsentence2\tscore\nA\tB\thigh\n', 2, "a number; found 'high'"),
    ('stsb', b'sentence1\tsentence2\tscore\nA\tB\t\n', 2, "'score' to be a number"),
    ('stsb', b'sentence1\tsentence2\tscore\nA\tB\tnan\n', 2, "'score' to be a number"),
    ('cola', b'a\t1\t\tS\nb\t1\n', 2, "a field 'sentence'; found a line of 2 fields"),
    ('cola', b'sentence\tlabel\tx\ty\n', 1, "found 'label'"),
  ],
)
def test_a_wrong_line_is_named_with_its_file_and_number(
  glue_folder, config, text, line, expected
):
  path = glue_folder / glue_files.FORMATS[config].folder / 'train.tsv'
  path.write_bytes(text)
  with pytest.raises(hyperprompt_tasks.DataError) as error:
    rows(config, 'train')
  message = str(error.value)
  assert message.startswith(f'{path}:{line}: expected ')
  assert expected in message
  assert '\n' not in message


@pytest.mark.parametrize('text', [b'', PAIRS, PAIRS + b'0\tA\n'])
def test_a_file_without_rows_is_refused(glue_folder, text):
  (glue_folder / 'RTE' / 'train.tsv').write_bytes(text)
  with pytest.raises(hyperprompt_tasks.DataError, match=r'RTE/train.tsv: .*no rows'):
    rows('rte', 'train')


def test_mrpc_may_be_split_already(glue_folder):
  folder = glue_folder / 'MRPC'
  header, *lines = (folder / 'msr_paraphrase_train.txt').read_text().splitlines()
  joint = {split: rows('mrpc', split) for split in LABELLED}
  assert [[row['idx'] for row in split] for split in joint.values()] == [[0, 3], [1, 2]]
  (folder / 'train.tsv').write_text('\n'.join([header, lines[0], lines[3]]))
  (folder / 'dev.tsv').write_text('\n'.join([header, lines[1], lines[2]]))
  (folder / 'test.tsv').write_text('index\t#1 String\t#2 String\n0\tE .\tF .\n')
  test = rows('mrpc', 'test')
  (folder / 'dev_ids.tsv').unlink()
  (folder / 'msr_paraphrase_test.txt').unlink()
  assert rows('mrpc', 'test') == test
  assert [row['label'] for row in test] == [-1]
  for split, expected in joint.items():
    # The row's number in the joint file is unknown here.
    assert rows('mrpc', split) == [{**row, 'idx': i} for i, row in enumerate(expected)]


@pytest.mark.parametrize(
  ('file', 'text', 'line', 'expected'),
  [
    ('dev_ids.tsv', '1\t2\n3\n', 2, "two ids; found '3'"),
    ('msr_paraphrase_train.txt', 'Quality\t#1 String\n', 1, 'a header with'),
    (
      'msr_paraphrase_train.txt',
      'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t5\t6\tA .\n',
      2,
      "a field '#2 String'; found a line of 4 fields",
    ),
    (
      'msr_paraphrase_train.txt',
      'Quality\t#1 String\t#2 String\n1\tA .\tB .\n',
      2,
      "a field '#1 ID'",
    ),
  ],
)
def test_a_wrong_line_of_mrpc_is_named(glue_folder, file, text, line, expected):
  path = glue_folder / 'MRPC' / file
  path.write_text(text)
  with pytest.raises(hyperprompt_tasks.DataError) as error:
    rows('mrpc', 'train')
  assert str(error.value).startswith(f'{path}:{line}: expected ')
  assert expected in str(error.value)


def test_absent_files_are_not_among_the_splits(glue_folder):
  for path in ('MNLI/dev_matched.tsv', 'MRPC/dev_ids.tsv', 'WNLI/train.tsv'):
    (glue_folder / path).unlink()
  splits = {
    config: list(sources.GlueSource(config, tuple(layout.files)).splits)
    for config, layout in glue_files.FORMATS.items()
  }
  assert splits['mnli_matched'] == ['test']
  assert 'validation_matched' not in splits['mnli']
  assert splits['mrpc'] == ['test']
  assert splits['wnli'] == ['validation', 'test']
  with pytest.raises(hyperprompt_tasks.DataError, match=r'WNLI/train.tsv: no such file'):
    rows('wnli', 'train')
  with pytest.raises(hyperprompt_tasks.DataError, match=r'diagnostic: has no train split'):
    rows('ax', 'train')


def test_an_absent_folder_is_named(monkeypatch, tmp_path):
  monkeypatch.setenv('GLUE_DIR', str(tmp_path / 'nowhere'))
  with pytest.raises(hyperprompt_tasks.DataError, match=r'GLUE_DIR .*nowhere is no folder'):
    _ = sources.GlueSource('rte').splits


def test_each_benchmark_has_a_folder_of_its_own(glue_folder):
  assert sources.GlueSource('rte').in_memory
  assert not sources.SuperGlueSource('rte').in_memory


def test_gin_names_the_folder_before_the_environment(glue_folder, tmp_path, monkeypatch):
  monkeypatch.setenv('GLUE_DIR', str(tmp_path / 'nowhere'))
  with gin.unlock_config():
    gin.bind_parameter('hyperprompt_tasks.glue_dir.path', str(glue_folder))
  try:
    assert hyperprompt_tasks.glue_dir() == str(glue_folder)
    assert sources.GlueSource('rte').num_input_examples('train') == 1
  finally:
    gin.clear_config()


def test_without_tfds_the_folder_is_proposed(monkeypatch, online):
  def offline(self):
    raise OSError('no network')

  monkeypatch.setattr(
    'tensorflow_datasets.core.DatasetBuilder.download_and_prepare', offline
  )
  with pytest.raises(hyperprompt_tasks.DataError, match=r'no network; set GLUE_DIR to'):
    sources.GlueSource('rte').list_shards('train')
