"""`hyperprompt infer`: predictions for a file, a SeqIO task, or a benchmark's server."""

import contextlib
import dataclasses
import functools
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import jax
import numpy as np
import rich.progress
import seqio

import hyperprompt_tasks
from hyperprompt_jax.data import datasets, features, splits
from hyperprompt_jax.data.access import Access
from hyperprompt_jax.errors import UserError, nearest
from hyperprompt_jax.evaluation import runs
from hyperprompt_jax.runtime import distributed, files, terminal
from hyperprompt_jax.training.settings import DataSettings
from hyperprompt_tasks import plain_json, submissions

# An example to predict for: what is written besides the prediction, the conditioned
# task's id, and the tokens, EOS included.
Example = tuple[dict[str, Any], int, Sequence[int]]


def infer(
  run: runs.Run,
  data: DataSettings,
  output: str,
  step: str = 'latest',
  input_file: str | None = None,
  task_name: str | None = None,
  split: str = 'validation',
) -> int:
  """Writes a prediction for every example, in the order that they come in.

  The output is JSONL: `task`, `inputs` and `prediction` of each example, and `targets`
  where they are known. It appears whole, when the last example is done.

  Args:
    run: is the run that has the checkpoint.
    data: gives the batches' size, and the lengths, which cut longer inputs and limit the
      generated answers.
    output: is the file to write.
    step: is a step, 'latest' or 'best'.
    input_file: is JSONL with a conditioned `task` and its text, `inputs`, on each line.
    task_name: is a SeqIO task, in place of `input_file`.
    split: is the split of `task_name`.

  Returns:
    The number of predictions.

  Raises:
    UserError: if there is no such checkpoint, task or file, or a line cannot be used.
  """
  run.partitioner.check(batch_size=data.batch_size)
  vocabulary = hyperprompt_tasks.use_vocabulary(run.vocabulary)
  if input_file is not None:
    examples = _read_jsonl(input_file, run.model.task_list, vocabulary)
  elif task_name is not None:
    mixture = data.mixture_or_task_name
    task_name = hyperprompt_tasks.seqio_name(mixture, task_name, split)
    run.check_task_list(task_name)
    examples = list(_read_task(task_name, split, run.model.task_list, data))
  else:
    raise UserError('nothing to predict for: give --input or --task')
  chosen = run.step(step)
  with _output_file(output, 'w') as file, run.partitioner.activate():
    predict = _predictor(run, chosen, data)
    inputs = [(task_id, ids) for _, task_id, ids in examples]
    texts = predict(inputs, f'predicting with step {chosen}')
    for (record, _, _), text in zip(examples, texts, strict=True):
      record['prediction'] = text
      file.write(json.dumps(record, ensure_ascii=False) + '\n')
  return len(examples)


def submit(
  run: runs.Run,
  data: DataSettings,
  output: str,
  step: str = 'latest',
) -> dict[str, int]:
  """Writes the zip that the server of SuperGLUE or GLUE takes.

  Args:
    run: is the run that has the checkpoint.
    data: describes the benchmark's mixture, its lengths and batches.
    output: is the zip to write; it appears whole, when all is done.
    step: is a step, 'latest' or 'best'.

  Returns:
    By file, how many answers were none of its labels, and were written as its first.

  Raises:
    UserError: if there is no such checkpoint.
    DataError: if a test split is absent, or has not as many rows as the server expects.
    TaskError: if the mixture is no benchmark's.
  """
  run.partitioner.check(batch_size=data.batch_size)
  run.check_task_list(data.mixture_or_task_name)
  answer_files = submissions.files(data.mixture_or_task_name)
  chosen = run.step(step)
  examples = {}
  for file in answer_files:
    examples[file] = list(_examples(file.task, 'test', run.model.task_list, data))
    # All of them before the first is answered, which may take an hour.
    submissions.check_rows(file, len(examples[file]))
  strange = {}
  with _output_file(output, 'wb') as whole, run.partitioner.activate():
    predict = _predictor(run, chosen, data)
    with zipfile.ZipFile(whole, 'w', zipfile.ZIP_DEFLATED) as zipped:
      for file in answer_files:
        inputs = [
          (int(example[features.TASK_IDS][0]), example['inputs'].tolist())
          for example in examples[file]
        ]
        answers = zip(examples[file], predict(inputs, file.name), strict=True)
        contents, strange[file.name] = submissions.contents(file, list(answers))
        zipped.writestr(file.name, contents)
  return strange


def _predictor(
  run: runs.Run, step: int, data: DataSettings
) -> Callable[[Sequence[tuple[int, Sequence[int]]], str], list[str]]:
  """What decodes task ids and tokens, EOS included, to texts, and shows how far it is."""
  vocabulary = hyperprompt_tasks.use_vocabulary(run.vocabulary)
  lengths, batch_size = data.task_feature_lengths, data.batch_size
  length = lengths['inputs']
  params = run.restore(step)
  conditioning = jax.jit(run.model.condition)(params)
  decode = jax.jit(
    functools.partial(run.model.predict, max_decode_length=lengths['targets']),
    out_shardings=run.partitioner.replicated,
  )

  def predict(inputs: Sequence[tuple[int, Sequence[int]]], description: str) -> list[str]:
    batches = [*datasets.rows_by_length([len(ids) for _, ids in inputs], batch_size)]
    texts = [''] * len(inputs)
    for rows in rich.progress.track(
      batches, description=description, console=terminal.stderr_console()
    ):
      tokens = np.zeros((batch_size, length), np.int32)
      task_ids = np.zeros((batch_size, 1), np.int32)
      for place, row in enumerate(rows):
        task_id, ids = inputs[row]
        # A cut input still ends in EOS, as in training.
        kept = ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]
        tokens[place, : len(kept)] = kept
        task_ids[place] = task_id
      batch = features.cut_padding(
        {'encoder_input_tokens': tokens, features.TASK_IDS: task_ids}
      )
      predicted = np.asarray(decode(params, conditioning, run.partitioner.put(batch)))
      for row, ids in zip(rows, predicted.tolist(), strict=False):
        texts[row] = vocabulary.decode(ids)
    return texts

  return predict


@contextlib.contextmanager
def _output_file(output: str, mode: str) -> Iterator[IO[Any]]:
  """Opens the output, which appears whole; on hosts but the first, a buffer."""
  if not distributed.is_first():
    yield io.BytesIO() if 'b' in mode else io.StringIO()
    return
  with files.writing_output(f'--output {output}'), files.whole_file(output, mode) as file:
    yield file


def _read_jsonl(
  path: str, task_list: Sequence[str], vocabulary: seqio.Vocabulary
) -> list[Example]:
  """Reads and checks every line before anything is computed."""
  examples: list[Example] = []
  try:
    lines = pathlib.Path(path).read_bytes().split(b'\n')
  except OSError as error:
    raise UserError(f'--input {path} cannot be read: {error}') from error
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    record = _parse_line(f'{path}:{number}', line)
    if record['task'] not in task_list:
      raise UserError(
        f'{path}:{number}: task {record["task"][:80]!r} is not one of this model'
        f'{nearest(record["task"][:80], task_list)}; it knows {", ".join(task_list)}'
      )
    tokens = [*vocabulary.encode(record['inputs']), vocabulary.eos_id]
    examples.append((record, task_list.index(record['task']), tokens))
  if not examples:
    raise UserError(f'--input {path} is empty: expected a JSON object on each line')
  return examples


def _parse_line(where: str, line: bytes) -> dict[str, Any]:
  try:
    record = plain_json.parse(line.decode('utf-8-sig'))  # some editors write a BOM
    # It will be written again. An escaped half of a surrogate pair is JSON, but no text;
    # NaN is Python's own.
    json.dumps(record, ensure_ascii=False, allow_nan=False).encode('utf-8')
  except UnicodeError as error:
    raise UserError(f'{where}: no JSON in UTF-8: {error}') from error
  except (ValueError, RecursionError) as error:
    raise UserError(f'{where}: no JSON: {error}') from error
  if not isinstance(record, dict) or not all(
    isinstance(record.get(key), str) for key in ('task', 'inputs')
  ):
    raise UserError(
      f'{where}: expected an object with strings "task" and "inputs", got '
      f'{line[:80].decode("utf-8", "replace")!r}'
    )
  return record


def _read_task(
  name: str, split: str, task_list: Sequence[str], data: DataSettings
) -> Iterator[Example]:
  """The examples of a SeqIO task's split, in its order."""
  text = lambda example, key: example[f'{key}_pretokenized'].decode('utf-8')
  for example in _examples(name, split, task_list, data):
    task_id = int(example[features.TASK_IDS][0])
    record = {'task': task_list[task_id], 'inputs': text(example, 'inputs')}
    if 'targets_pretokenized' in example:
      record['targets'] = text(example, 'targets')
    yield record, task_id, example['inputs'].tolist()


def _examples(
  name: str, split: str, task_list: Sequence[str], data: DataSettings
) -> Iterator[Mapping[str, Any]]:
  """A SeqIO task's split, in its order, as SeqIO gives it."""
  datasets.check_mixture(name, split)
  if name not in seqio.TaskRegistry.names():
    members = seqio.get_subtasks(seqio.get_mixture_or_task(name))
    raise UserError(
      f'--task {name} is a mixture: choose one task of it, '
      f'{", ".join(task.name for task in members)}'
    )
  access = dataclasses.replace(Access.from_settings(data), use_cached=False)
  task = seqio.TaskRegistry.get(name)
  dataset = splits.datasets([task], split, access, None)[name]
  for example in dataset.as_numpy_iterator():
    features.check_task_ids(example, task_list)
    yield example
