"""Own tasks from a gin file alone: a run trains, evaluates and later finds them."""

import json

import pytest
import seqio

import hyperprompt_tasks
from hyperprompt_jax import cli
from hyperprompt_tasks import own_tasks, task_lists
from tests import tiny_run

GIN = """
from __gin__ import dynamic_registration
import hyperprompt_tasks

MIXTURE_OR_TASK_NAME = '{name}'
hyperprompt_tasks.from_files:
  name = '{name}'
  files = {{
    'shout': {{'train': '{folder}/shout.csv', 'validation': '{folder}/shout.csv'}},
    'judge': {{'train': '{folder}/judge.jsonl', 'validation': '{folder}/judge.jsonl'}},
  }}
  rates = {{'judge': 2.0}}
  labels = {{'judge': ['good', 'bad']}}
"""


def files(folder, name):
  rows = ['inputs,targets', *(f'"say {word}",{word}' for word in 'abcdef')]
  (folder / 'shout.csv').write_text('\n'.join(rows))
  rows = [{'inputs': f'is {n}', 'targets': ('good', 'bad')[n % 2]} for n in range(6)]
  (folder / 'judge.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  (folder / 'own.gin').write_text(GIN.format(folder=folder, name=name))
  return folder / 'own.gin'


def forget(name):
  """Removes a mixture and its tasks from SeqIO's registries."""
  for task in seqio.MixtureRegistry.get(name).tasks:
    seqio.TaskRegistry.remove(task.name)
    del task_lists._declared[task.name], task_lists._conditioned[task.name]
  for mixture in [m for m in seqio.MixtureRegistry.names() if m.split(':')[0] == name]:
    seqio.MixtureRegistry.remove(mixture)
  del own_tasks._made[name]


@pytest.mark.slow(
  held_by='test_five_tasks_of_a_student_from_a_hugging_face_folder_to_a_report'
)
def test_a_gin_file_is_all_that_own_files_need(tmp_path, compile_once, capsys):
  run = tmp_path / 'run'
  arguments = tiny_run.train_arguments(
    run,
    files=(*tiny_run.FILES, files(tmp_path, 'own_gin')),
    without=('MIXTURE_OR_TASK_NAME',),
    TRAIN_STEPS=2,
    TASK_FEATURE_LENGTHS={'inputs': 5, 'targets': 8},
    DATA_REPORT_EXAMPLES=5,
  )
  assert cli.main(arguments) == 0
  out, err = capsys.readouterr()
  # The data report comes first. With EOS, `say a` is too long, and `is 0` is not.
  words = ' '.join(err.split())
  assert 'Data, the first examples' in words and 'good 60.0 % bad 40.0 %' in words
  data = json.loads((run / 'data.json').read_text())
  assert data['shout']['cut'] == {'inputs': 5, 'targets': 0}
  assert data['shout']['cut_tokens'] == {'inputs': 5, 'targets': 0}
  assert data['judge']['cut'] == {'inputs': 0, 'targets': 0}
  assert data['judge']['labels'] == {'good': 3, 'bad': 2}
  assert data['judge']['source_rows'] is None  # the source has more rows
  # The files of the two splits are the same, and bytes know every text.
  validation = data['judge'].pop('validation')
  assert validation == {**data['judge'], 'validation': None}
  assert data['shout']['unknown'] == {'inputs': 0, 'targets': 0}
  assert 'shout' in out and 'judge' in out and 'accuracy' in out
  metadata = json.loads((run / 'checkpoints/2/run/metadata').read_text())
  assert metadata['task_list'] == ['judge', 'shout']  # gin sorts a dict's keys
  # The tasks are removed, as in a process that knows only the run.
  forget('own_gin')
  assert cli.main(['eval', f'--model_dir={run}', '--json']) == 0
  (result,) = json.loads(capsys.readouterr().out)['checkpoints']
  assert set(result['scores']) == {'shout', 'judge'}
  assert set(result['metrics']) == {'shout', 'judge'}


@pytest.mark.slow(held_by='test_ranks_are_the_scores_of_every_label')
def test_ranking_and_generating_agree_on_what_is_learned(tmp_path, compile_once, capsys):
  run = tmp_path / 'run'
  arguments = tiny_run.train_arguments(
    run,
    files=(*tiny_run.FILES, files(tmp_path, 'own_gin_ranked')),
    network={**tiny_run.NETWORK, 'config.Config.dropout_rate': 0.0},
    MIXTURE_OR_TASK_NAME='own_gin_ranked.judge',
    TRAIN_STEPS=80,
    LEARNING_RATE=0.02,
    BATCH_SIZE=6,
    EVAL_PERIOD=80,
    LOG_PERIOD=40,
    EVALUATOR_NUM_EXAMPLES=None,
  )
  assert cli.main(arguments) == 0
  capsys.readouterr()
  result = []
  for rank in (False, True):
    assert (
      cli.main(['eval', f'--model_dir={run}', '--json', f'--gin.RANK_LABELS={rank}']) == 0
    )
    (checkpoint,) = json.loads(capsys.readouterr().out)['checkpoints']
    result.append(checkpoint['metrics']['judge'])
  assert result == [{'accuracy': 100.0}] * 2
  tables = ['--split=train', '--confusion', '--wrongest=2']
  assert cli.main(['eval', f'--model_dir={run}', '--json', *tables]) == 0
  report = json.loads(capsys.readouterr().out)
  (checkpoint,) = report['checkpoints']
  assert checkpoint['metrics']['judge'] == {'accuracy': 100.0}
  assert report['mistakes']['judge'] == {
    'labels': ['good', 'bad'],
    'confusion': [[3, 0, 0], [0, 3, 0]],
    'wrongest': [],
    'examples': 6,
  }


def test_mistakes_in_own_files_are_one_line(tmp_path, capsys):
  gin = files(tmp_path, 'own_gin_bad')
  (tmp_path / 'judge.jsonl').write_text('{"inputs": "a", "targets": "good"}\n{"inputs"')
  run = tmp_path / 'run'
  arguments = tiny_run.train_arguments(
    run, files=(*tiny_run.FILES, gin), without=('MIXTURE_OR_TASK_NAME',)
  )
  assert cli.main(arguments) == 2
  out, err = capsys.readouterr()
  assert out == '' and len(tiny_run.without_header(err)) == 1
  assert f'{tmp_path}/judge.jsonl:2: expected one JSON object' in err
  assert not run.exists() and 'own_gin_bad' not in seqio.MixtureRegistry.names()


def test_somebody_elses_tasks_by_gin(tmp_path, capsys, monkeypatch):
  (tmp_path / 'own_their_module.py').write_text(
    'import seqio\n'
    'from tests.tasks.test_own_tasks import theirs\n'
    "theirs('own_gin_a'), theirs('own_gin_b')\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'theirs.gin').write_text(
    'from __gin__ import dynamic_registration\n'
    'import own_their_module\n'
    'import hyperprompt_tasks\n'
    "MIXTURE_OR_TASK_NAME = 'own_gin_theirs'\n"
    'hyperprompt_tasks.condition:\n'
    "  name = 'own_gin_theirs'\n"
    "  tasks = {'own_gin_a': 1, 'own_gin_c': 2}\n"
  )
  arguments = tiny_run.train_arguments(
    tmp_path / 'run',
    files=(*tiny_run.FILES, tmp_path / 'theirs.gin'),
    without=('MIXTURE_OR_TASK_NAME',),
  )
  assert cli.main(arguments) == 2
  err = capsys.readouterr().err
  assert 'own_gin_c is no registered SeqIO task; nearest: own_gin_' in err
  tasks = "--gin.hyperprompt_tasks.condition.tasks={'own_gin_a': 1, 'own_gin_b': 2}"
  # Two tasks are registered, and only the last binding is wrong.
  mesh = '--gin.partitioning.Partitioner.num_partitions=7'
  assert cli.main([*arguments, tasks, mesh]) == 2
  assert 'NUM_PARTITIONS=7' in capsys.readouterr().err
  assert hyperprompt_tasks.task_list('own_gin_theirs') == ('own_gin_a', 'own_gin_b')
