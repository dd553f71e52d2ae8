"""Mistakes in the input of `infer`."""

import pytest

GOOD = '{"task": "copy", "inputs": "copy: abc"}'


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('hello', 'no JSON: Expecting value at character 1'),
    (GOOD[:-1], 'no JSON'),
    ('[' * 100_000, 'no JSON: nested too deeply'),
    ('9' * 5_000, 'no JSON: a number has too many digits'),
    (GOOD[:-1] + ', "more": NaN}', 'no JSON: Out of range float values'),
    ('["\x1b[2J\u2028"]', 'no JSON: Invalid control character'),
    ('"\u2028"', 'expected an object with strings "task" and "inputs"'),
    (GOOD.replace('copy"', f'{"x" * 10**6}"'), "xxx' is not one of this model; it knows"),
    ('[]', 'expected an object with strings "task" and "inputs"'),
    ('{"task": "copy"}', 'expected an object'),
    ('{"task": "copy", "inputs": 3}', 'expected an object'),
    ('{"task": 3, "inputs": "a"}', 'expected an object'),
    ('{"task": "cpy", "inputs": "a"}', "'cpy' is not one of this model (did you mean copy"),
    ('{"task": "boolq", "inputs": "a"}', 'it knows first, last, max, copy,'),
    (r'{"task": "copy", "inputs": "\ud800"}', 'surrogates not allowed'),
    (b'{"task": "copy", "inputs": "\xe9"}', 'no JSON in UTF-8'),
  ],
)  # fmt: skip
def test_a_line_that_is_no_question(mistake, trained, tmp_path, line, message):
  questions, answers = tmp_path / 'questions.jsonl', tmp_path / 'answers.jsonl'
  bad = line if isinstance(line, bytes) else line.encode()
  questions.write_bytes(GOOD.encode() + b'\n\n' + bad + b'\n' + GOOD.encode())
  text = mistake(
    [
      'infer',
      f'--model_dir={trained}',
      f'--input={questions}',
      f'--output={answers}',
    ]
  )
  assert text.startswith(f'hyperprompt: {questions}:3: ')
  assert message in text
  assert [p.name for p in tmp_path.iterdir()] == ['questions.jsonl']


@pytest.mark.parametrize('content', [None, '', '\n \n'])
def test_a_file_without_a_question(mistake, trained, tmp_path, content):
  questions, answers = tmp_path / 'questions.jsonl', tmp_path / 'answers.jsonl'
  if content is not None:
    questions.write_text(content)
  line = mistake(
    ['infer', f'--model_dir={trained}', f'--input={questions}', f'--output={answers}']
  )
  assert f'--input {questions}' in line
  assert not answers.exists()


@pytest.mark.parametrize('output', ['', 'absent/answers.jsonl'])
def test_an_output_that_cannot_be_written(mistake, trained, tmp_path, output):
  path = tmp_path / output
  task = '--task=hp_builtin_first'
  line = mistake(['infer', f'--model_dir={trained}', task, f'--output={path}'])
  assert f'--output {path} cannot be written' in line
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--task=hp_bultin_copy'], 'nearest: hp_builtin_copy'),
    (['--task=hp_super_glue_cb_v102'], 'hp_super_glue_cb_v102 is of the task list boolq,'),
    (['--task=hp_builtin'], 'is a mixture: choose one task of it, hp_builtin_copy,'),
    (['--task=hp_builtin_copy', '--split=test'], 'no split test; it has train, valid'),
    (['--task=hp_builtin_copy', '--step=3'], '--step=3: there is no such checkpoint'),
    (['--task=hp_builtin_copy', '--gin.BATCH_SIZE=0'], 'BATCH_SIZE must be an integer'),
  ],
)  # fmt: skip
def test_a_task_that_infer_cannot_take(mistake, trained, tmp_path, flags, message):
  answers = tmp_path / 'answers.jsonl'
  assert message in mistake(
    ['infer', f'--model_dir={trained}', f'--output={answers}', *flags]
  )
  assert not answers.exists()


def test_eval_checks_what_it_is_given(mistake, trained):
  common = ['eval', f'--model_dir={trained}']
  assert 'BATCH_SIZE must be' in mistake([*common, '--gin.BATCH_SIZE=0'])
  assert 'EVAL_STEPS must be' in mistake([*common, '--gin.EVAL_STEPS=-1'])
  assert 'must be like' in mistake([*common, '--gin.TASK_FEATURE_LENGTHS={}'])
