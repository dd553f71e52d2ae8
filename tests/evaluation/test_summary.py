"""The table that closes a run."""

from hyperprompt_jax.evaluation import summary


def test_of_many_tasks_the_best_and_the_worst_are_shown(capsys):
  scores = {f'eval/score/t{n}': float(n) for n in range(100)}
  groups = {f't{n}': [(f'seqio_t{n}', 'accuracy')] for n in range(100)}
  summary.print_summary([{'step': 4, **scores, 'eval/average': 49.5}], groups, {})
  out = capsys.readouterr().out
  assert 'the best and the worst 20 of 100 tasks' in out
  names = [line.split()[0] for line in out.splitlines() if line.strip().startswith('t')]
  tasks = [name for name in names if name != 'task']
  assert tasks == [f't{n}' for n in (*range(99, 79, -1), *range(19, -1, -1))]
  assert '49.50' in out
