"""A run is data and needs nothing but itself: it is trained once, moved and cut off."""

import json
import os
import shutil

import pytest
import sentencepiece

import hyperprompt_jax
from hyperprompt_jax import cli
from hyperprompt_jax.checkpoints import folders
from hyperprompt_jax.configuration import recorded
from hyperprompt_jax.errors import UserError
from hyperprompt_jax.inference.output import Output
from tests import published, tiny_run
from tests.evaluation import test_own_tasks

TEXTS = ['say a', 'say some more than twelve characters', 'is 3']


def vocabulary(path):
  """Writes a SentencePiece model of the characters of the tests' texts."""
  letters = [' '.join('abcdefghijklmnopqrstuvwxyz0123456789'), *TEXTS, 'good bad']
  with path.open('wb') as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(letters * 20),
      model_writer=file,
      model_type='char',
      vocab_size=60,
      hard_vocab_limit=False,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      minloglevel=3,
    )


def ask(run, folder, *flags):
  """The answers of `infer` to TEXTS of both tasks."""
  rows = [{'task': task, 'inputs': text} for task in ('shout', 'judge') for text in TEXTS]
  (folder / 'questions.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  arguments = [f'--model_dir={run}', f'--input={folder / "questions.jsonl"}', *flags]
  assert cli.main(['infer', *arguments, f'--output={folder / "answers.jsonl"}']) == 0
  lines = (folder / 'answers.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope='module')
def alone(tmp_path_factory, compile_once):
  """A run without the files that it was trained with; and its answers from before."""
  folder = tmp_path_factory.mktemp('own')
  vocabulary(folder / 'words.model')
  arguments = tiny_run.train_arguments(
    folder / 'run',
    files=(*tiny_run.FILES, test_own_tasks.files(folder, 'own_alone')),
    without=('MIXTURE_OR_TASK_NAME',),
    network={**tiny_run.NETWORK, **tiny_run.UNROLLED},
    TASK_FEATURE_LENGTHS={'inputs': 12, 'targets': 8},
    VOCABULARY=str(folder / 'words.model'),
  )
  assert cli.main(arguments) == 0
  before = ask(folder / 'run', folder, '--scores')
  place = tmp_path_factory.mktemp('elsewhere') / 'run'
  shutil.move(folder / 'run', place)
  shutil.rmtree(folder)
  (place / 'config.gin').unlink()
  test_own_tasks.forget('own_alone')
  return place, before


def test_a_run_that_was_moved_answers_as_before(alone, tmp_path):
  run, before = alone
  assert ask(run, tmp_path, '--scores') == before
  assert [line['truncated_inputs'] for line in before] == [False, True, False] * 2
  model = hyperprompt_jax.load(run)
  assert model.tasks == ('judge', 'shout') and model.step == 4
  assert model.labels('judge') == ('good', 'bad')
  answers = [*model.predict('shout', TEXTS), *model.predict('judge', TEXTS)]
  assert [a.text for a in answers] == [line['prediction'] for line in before]
  for answer, line in zip(answers, before, strict=True):
    assert answer.log_likelihood == pytest.approx(line['log_likelihood'], abs=1e-5)
    assert answer.finished == line['finished']
  assert {a.text for a in model.rank('judge', TEXTS)} <= {'good', 'bad'}


def test_an_interrupted_infer_goes_on_and_counts_what_was_cut(
  alone, tmp_path, monkeypatch, capsys
):
  run, before = alone
  write = Output.write

  def interrupted(self, answer):
    write(self, answer)
    if answer['inputs'] == TEXTS[2]:
      raise KeyboardInterrupt

  monkeypatch.setattr(Output, 'write', interrupted)
  flags = ['--scores', f'--model_dir={run}', f'--input={tmp_path / "questions.jsonl"}']
  rows = [{name: line[name] for name in ('task', 'inputs')} for line in before]
  (tmp_path / 'questions.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  arguments = ['infer', *flags, f'--output={tmp_path / "answers.jsonl"}']
  assert cli.main(arguments) == 130
  assert not (tmp_path / 'answers.jsonl').exists()
  monkeypatch.setattr(Output, 'write', write)
  capsys.readouterr()
  assert cli.main(arguments) == 0
  lines = (tmp_path / 'answers.jsonl').read_text().splitlines()
  # Other rows share a batch, so that sums may round in another way.
  likely = lambda row: pytest.approx(row['log_likelihood'], abs=1e-4)
  assert [json.loads(line) for line in lines] == [
    {**row, 'log_likelihood': likely(row)} for row in before
  ]
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 2, lines
  kept, closing = lines
  assert kept.startswith('3 answers of an earlier start are kept')
  assert closing.startswith(f'6 predictions in {tmp_path / "answers.jsonl"}; inputs cut at')
  assert 'inputs cut at 12 tokens: 1' in closing
  unfinished = [line['finished'] for line in before[3:]].count(False)
  assert (f'answers not finished within 8 tokens: {unfinished}' in closing) == bool(
    unfinished
  )


def test_evaluation_needs_the_data_and_says_so(alone, capsys):
  run, _ = alone
  assert cli.main(['eval', f'--model_dir={run}']) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'shout.csv' in line and line.startswith('hyperprompt: ')


def test_a_step_is_a_number_the_latest_or_the_best(alone, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(alone[0], run)
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  for line in lines:
    if 'eval/average' in line:
      line['eval/average'] = float(10 - line['step'])
  (run / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  steps = {
    choice: hyperprompt_jax.load(run, choice).step for choice in (2, 'best', 'latest')
  }
  assert steps == {2: 2, 'best': 2, 'latest': 4}
  assert hyperprompt_jax.load(run / 'checkpoints' / '2').step == 2
  with pytest.raises(UserError, match='no such checkpoint; there are 2, 4, latest'):
    hyperprompt_jax.load(run, 3)


@pytest.fixture
def evil(tmp_path, monkeypatch):
  """The file that the module `evil` writes when it is imported."""
  (tmp_path / 'modules').mkdir()
  trace = tmp_path / 'it_has_run'
  (tmp_path / 'modules' / 'evil.py').write_text(f'open({str(trace)!r}, "w").close()\n')
  monkeypatch.syspath_prepend(tmp_path / 'modules')
  return trace


def test_the_gin_of_a_run_is_run_only_if_it_is_trusted(trained, tmp_path, evil, capsys):
  run = tmp_path / 'run'
  shutil.copytree(trained, run)
  config = run / 'config.gin'
  first, rest = config.read_text().split('\n', 1)
  config.write_text(f'{first}\nimport evil\n{rest}')
  evaluate = ['eval', f'--model_dir={run}', '--json']
  assert cli.main(evaluate) == 0
  plain = json.loads(capsys.readouterr().out)
  infer = ['infer', f'--model_dir={run}', '--task=hp_builtin_first']
  assert cli.main([*infer, f'--output={tmp_path / "a"}']) == 0
  hyperprompt_jax.load(run)
  assert not evil.exists()
  assert cli.main([*evaluate, '--trust_gin']) == 0
  assert evil.exists() and json.loads(capsys.readouterr().out) == plain


def test_a_run_without_a_record_asks_for_trust(trained, tmp_path, capsys):
  run = tmp_path / 'run'
  shutil.copytree(trained, run)
  (run / 'run.json').unlink()
  assert cli.main(['eval', f'--model_dir={run}']) == 2
  assert 'has no run.json, the record of a run: --trust_gin' in capsys.readouterr().err


def changed(run, path, value):
  """Changes an entry of a run's record."""
  record = json.loads((run / 'run.json').read_text())
  *above, last = path
  part = record
  for name in above:
    part = part[name]
  part[last] = value
  (run / 'run.json').write_text(json.dumps(record))


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    (['format'], 2, 'format 2; expected 1'),
    (['task_list'], [], 'task_list is no list of names'),
    (['network', 'x=1\nimport evil'], 1, 'network names'),
    (['network', 'METHOD'], 'evil()', "METHOD is 'evil\\(\\)'"),
    (['network', 'METHOD'], 'Evil', "method 'Evil', which is none of this"),
    (['settings', 'a\nb'], 1, 'settings name'),
    (['settings', 'BATCH_SIZE'], 0, 'BATCH_SIZE must be'),
    (['vocabulary'], '../../etc/passwd', 'vocabulary is'),
    (['decoding'], {'name': 'evil'}, 'decoding is none of greedy, beam_search'),
    (['folders'], {'x.y=1': '/'}, 'folders names other'),
    (['network', 'config.Config.num_heads'], 'two', 'num_heads'),
    (['network', 'config.Config.num_encoder_layers'], 10**6, '1000000 layers'),
    (['network', 'methods.HyperPromptGlobal.evil'], 1, "has no option 'evil'"),
    (['network', 'methods.HyperPromptGlobal.prompt_length'], 'x', 'must be of type int'),
    (['tasks'], {'a': {'labels': 3}}, 'is not described by labels'),
  ],
)  # fmt: skip
def test_a_record_with_anything_else_in_it_is_refused(
  trained, tmp_path, path, value, message
):
  run = tmp_path / 'run'
  run.mkdir()
  shutil.copy(trained / 'run.json', run)
  os.symlink(trained / 'checkpoints', run / 'checkpoints')
  changed(run, path, value)
  with pytest.raises(UserError, match=message):
    hyperprompt_jax.load(run)


def test_texts_of_a_record_stay_texts_in_gin(trained):
  record = recorded.read(str(trained))
  bindings = record.bindings("/r'un\n@evil()")
  assert bindings['MODEL_DIR'] == repr("/r'un\n@evil()")
  assert bindings['METHOD'] == '@methods.HyperPromptGlobal()'
  assert all(not name.count('\n') for name in bindings)


def test_the_kind_of_a_folder_is_decided_by_its_files(trained, tmp_path):
  assert folders.decide(str(trained)).kind == folders.RUN
  step = folders.decide(str(trained / 'checkpoints' / '2'))
  assert (step.kind, step.step, step.run) == (folders.RUN, 2, str(trained))
  published_folder = published.hugging_face(tmp_path / 'both')
  (published_folder / 'checkpoints' / '1').mkdir(parents=True)
  (published_folder / 'run.json').write_text('{}')
  assert folders.decide(str(published_folder)).kind == folders.HUGGING_FACE
  (tmp_path / 'parts' / 'boolq').mkdir(parents=True)
  (tmp_path / 'parts' / 'boolq' / 'run.json').write_text('{}')
  with pytest.raises(UserError, match=r'a run for each task: name one of .*parts/boolq'):
    folders.decide(str(tmp_path / 'parts'))


def test_a_published_model_answers_by_its_vocabulary(tmp_path):
  folder = published.hugging_face(tmp_path / 'model')
  with pytest.raises(UserError, match=r'has no vocabulary: name it'):
    hyperprompt_jax.load(folder)
  model = hyperprompt_jax.load(folder, vocabulary='bytes', lengths={'targets': 3})
  assert model.tasks == ('text',) and model.lengths == {'inputs': 512, 'targets': 3}
  (answer,) = model.predict('text', ['hello'])
  assert len(answer.tokens) <= 3


def test_a_published_model_is_evaluated_on_the_tasks_that_are_named(tmp_path, capsys):
  folder = published.hugging_face(tmp_path / 'model')
  evaluate = ['eval', f'--model_dir={folder}', '--json']
  assert cli.main(evaluate) == 2
  assert 'is no run: name the tasks, --mixture' in capsys.readouterr().err
  flags = ['--mixture=hp_builtin_first', '--vocabulary=bytes', '--lengths=20,8']
  flags += ['--evaluator_num_examples=4', '--eval_steps=1', '--batch_size=4']
  assert cli.main([*evaluate, *flags]) == 0
  (checkpoint,) = json.loads(capsys.readouterr().out)['checkpoints']
  assert checkpoint['step'] == 0 and checkpoint['losses']['first'] > 0
  assert checkpoint['scores'].keys() == {'first'}
