"""Turns rows in the form of TFDS into text, with TensorFlow operations alone.

No Python runs per example, so that a pipeline can be saved and restored in the middle.
Values go into a template byte for byte. The sections named below are those of
docs/reference/task_specification.md.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from hyperprompt_tasks import vocabulary

Row = Mapping[str, Any]

# Elements that each step of a pipeline works on at once. With this many, a step seldom
# waits for another thread to wake; `tf.data.AUTOTUNE` goes no higher than the number of
# cores. These elements are part of every checkpoint of an iterator.
PARALLEL_CALLS = 16

_on_batches: dict[Callable[..., Any], Callable[..., Row]] = {}


def on_batches(preprocessor: Callable[..., Any]) -> Callable[..., Row] | None:
  """Returns the function of a batch of rows that a preprocessor is, None if it is none.

  The function takes the features of all rows, with a first axis of rows, and returns those
  of all examples.
  """
  return _on_batches.get(preprocessor)


def _of_any_shape(function: Callable[..., Row]) -> Callable[..., Any]:
  """Makes a preprocessor of operations that treat rows and batches of rows alike."""
  preprocessor = seqio.map_over_dataset(num_parallel_calls=PARALLEL_CALLS)(function)
  _on_batches[preprocessor] = function
  return preprocessor


def _of_batches(function: Callable[..., Row]) -> Callable[..., Any]:
  """Makes a preprocessor of a function of a batch, which gives each row any examples."""

  @functools.wraps(function)
  def preprocessor(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def of_row(row: Row) -> Row:
      batch = tf.nest.map_structure(
        lambda value: (
          tf.RaggedTensor.from_tensor(value[tf.newaxis])
          if value.shape.rank
          else value[tf.newaxis]
        ),
        row,
      )
      # The examples of one row have vectors of equal lengths.
      return {
        name: value.to_tensor() if isinstance(value, tf.RaggedTensor) else value
        for name, value in function(batch).items()
      }

    return dataset.map(of_row, num_parallel_calls=PARALLEL_CALLS).unbatch()

  _on_batches[preprocessor] = function
  return preprocessor


_map_over_dataset = seqio.map_over_dataset(num_parallel_calls=PARALLEL_CALLS)


@_of_any_shape
def classification(
  row: Row, *, name: str, keys: Sequence[str], classes: Sequence[str]
) -> Row:
  """Makes `NAME KEY1: VALUE1 KEY2: VALUE2 …` and the label's name (section 1).

  Args:
    row: has string scalars `keys`, `label` int64 and `idx` int32.
    name: the input begins with this word.
    keys: these features are named, in this order.
    classes: are the names of the labels, in order. The label -1 has the target
      `<unk>`.

  Returns:
    Strings `inputs` and `targets`, and `idx`.
  """
  return {
    'inputs': _template(name, row, keys),
    'targets': _class_name(row['label'], classes),
    'idx': row['idx'],
  }


@_of_any_shape
def stsb(row: Row) -> Row:
  """Makes STS-B's text and its score, rounded to a multiple of 0.2 (section 5.5).

  Args:
    row: has strings `sentence1 sentence2`, `label` float32 and `idx` int32.

  Returns:
    Strings `inputs` and `targets`, one of `0.0` to `5.0`, or `-1.0` without a label; and
    `idx`.
  """
  # Ties go to the even multiple, as they do in NumPy and so in T5.
  score = tf.round(row['label'] * 5) / 5
  return {
    'inputs': _template('stsb', row, ('sentence1', 'sentence2')),
    'targets': tf.strings.as_string(score, precision=1),
    'idx': row['idx'],
  }


@_of_any_shape
def multirc(row: Row, *, classes: Sequence[str]) -> Row:
  """Makes MultiRC's text, without its line-break and bold tags (section 2.4).

  Args:
    row: has strings `paragraph question answer`, `label` int64, and `idx`, a dict of
      int32 `paragraph question answer`.
    classes: are the names of the labels, in order.

  Returns:
    Strings `inputs` and `targets`, and flat `idx/paragraph idx/question idx/answer`,
    because SeqIO passes no nested features on to the evaluation.
  """
  text = _template('multirc', row, ('question', 'answer', 'paragraph'))
  text = tf.strings.regex_replace(text, '<br>', ' ')
  text = tf.strings.regex_replace(text, '</?b>', '')
  return {
    'inputs': text,
    'targets': _class_name(row['label'], classes),
    **_flat_idx(row['idx']),
  }


@_of_batches
def record(rows: Row) -> Row:
  """Makes ReCoRD's text, one example per answer (section 2.5).

  Args:
    rows: is a batch of rows. A row has strings `passage query`, string vectors `entities
      answers`, and `idx`, a dict of int32 `passage query`.

  Returns:
    Examples of strings `inputs` and `targets`, `answers` (all of them), `idx/passage`
    and `idx/query`. Without answers there is one example with the target `<unk>`.
  """
  # A sentence that ends before a highlight keeps its mark; any other gets a period.
  passage = tf.strings.regex_replace(rows['passage'], r'([.?!"\'])\n@highlight\n', r'\1 ')
  passage = tf.strings.regex_replace(passage, r'\n@highlight\n', '. ')
  entities = tf.strings.reduce_join(rows['entities'], axis=-1, separator=', ')
  values = {'query': rows['query'], 'entities': entities, 'passage': passage}
  answers = rows['answers']
  unanswered = tf.cast(answers.row_lengths() == 0, tf.int64)
  unknown = tf.RaggedTensor.from_row_lengths(
    tf.fill([tf.reduce_sum(unanswered)], '<unk>'), unanswered
  )
  targets = tf.concat([answers, unknown], axis=1)
  row = targets.value_rowids()
  shared = {
    'inputs': _template('record', values, tuple(values)),
    'answers': answers,
    **_flat_idx(rows['idx']),
  }
  return {
    'targets': targets.flat_values,
    **{name: tf.gather(value, row) for name, value in shared.items()},
  }


@_map_over_dataset
def wsc(row: Row) -> Row:
  """Makes WSC's text, the pronoun in stars, and the proposed referent (section 3.1).

  Args:
    row: has strings `text span1_text span2_text`, int32 `span2_index idx` and
      `label` int64.

  Returns:
    Strings `inputs` and `targets`, `label`, `idx`. The pipeline fails with
    InvalidArgumentError where the word at `span2_index` is not `span2_text`.
  """
  pronoun = row['span2_text']
  marked = tf.strings.join(['*', pronoun, '*'])
  words, index = _wsc_words(row)
  with tf.control_dependencies(
    [
      tf.debugging.assert_greater(index, 0),
      tf.debugging.assert_less(index, tf.size(words)),
      tf.debugging.assert_equal(words[index], pronoun),
    ]
  ):
    words = tf.concat([words[:index], [marked], words[index + 1 :]], axis=0)
  text = tf.strings.reduce_join(words, separator=' ')
  # T5 holds the pronoun's place with an X and then fills in every free-standing X.
  text = tf.strings.regex_replace(text, ' X ', tf.strings.join([' ', marked, ' ']))
  return {
    'inputs': tf.strings.join(['wsc: ', text]),
    'targets': row['span1_text'],
    'label': row['label'],
    'idx': row['idx'],
  }


def wsc_proposed_referents(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Keeps rows whose label is not 0: elsewhere span1 is the wrong answer (section 3)."""
  return dataset.filter(lambda row: row['label'] != 0)


@_map_over_dataset
def dpr(row: Row) -> Row:
  """Makes the text of definite pronoun resolution in the form of WSC (section 3.2).

  Args:
    row: has strings `sentence pronoun`, a string vector `candidates` and `label`
      int64.

  Returns:
    Strings `inputs`, with the first free-standing pronoun in stars, and `targets`.
  """
  pronoun = row['pronoun']
  text = tf.strings.regex_replace(
    row['sentence'],
    tf.strings.join([r' \Q', pronoun, r'\E([ .,])']),
    tf.strings.join([' *', pronoun, r'*\1']),
    replace_global=False,
  )
  return {
    'inputs': tf.strings.join(['wsc: ', text]),
    'targets': row['candidates'][row['label']],
  }


def check_labels(
  dataset: tf.data.Dataset,
  output_features: Mapping[str, seqio.Feature],
  *,
  task: str,
  labels: Sequence[str],
) -> tf.data.Dataset:
  """Returns the dataset after checking that the vocabulary can write the labels.

  Args:
    dataset: is not read.
    output_features: the feature `targets` has the vocabulary.
    task: is the task that the error names.
    labels: is the closed set of targets of the task.

  Raises:
    VocabularyError: if the vocabulary cannot write a label, or writes two in the same way.
  """
  vocabulary.check_labels(task, labels, output_features['targets'].vocabulary)
  return dataset


def add_task_ids(dataset: tf.data.Dataset, *, task_id: int) -> tf.data.Dataset:
  """Adds `task_ids`, an int32 vector of length 1, to every example."""
  return dataset.map(
    lambda example: {**example, 'task_ids': tf.constant([task_id], tf.int32)},
    num_parallel_calls=PARALLEL_CALLS,
  )


def _template(name: str, values: Row, keys: Sequence[str]) -> tf.Tensor:
  parts = [tf.constant(name)]
  for key in keys:
    parts += [f' {key}: ', values[key]]
  return tf.strings.join(parts)


def _class_name(label: tf.Tensor, classes: Sequence[str]) -> tf.Tensor:
  # The public test splits have label -1.
  name = tf.gather(tf.constant(classes), tf.maximum(label, 0))
  return tf.where(label < 0, '<unk>', name)


def _flat_idx(idx: Row) -> Row:
  return {f'idx/{key}': value for key, value in idx.items()}


def _wsc_words(row: Row) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the words and the pronoun's index, with four rows of SuperGLUE repaired.

  In train rows 137, 453 and 533 the pronoun is not a word of its own; in validation
  row 42 the index is that of the word before it (section 3.1).
  """
  text = tf.strings.regex_replace(
    row['text'], r'"Good for him," he said\. $', '"Good for him ," he said.'
  )
  words, index = tf.strings.split(text, ' '), row['span2_index']
  # Slices, as an index outside the text has its own message.
  one_too_low = tf.reduce_any(words[index : index + 1] == 'use') & tf.reduce_any(
    words[index + 1 : index + 2] == row['span2_text']
  )
  return words, index + tf.cast(one_too_low, index.dtype)
