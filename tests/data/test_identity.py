"""A run that goes on with other data names the difference."""

import pytest

from hyperprompt_jax.data import identity

DIGESTS = {'rows': 'r1', 'definition': 'd1', 'vocabulary': 'v1', 'packages': 'p1'}


def described(rate=2.0, examples=9, digest='e1', **digests):
  return identity.described({**DIGESTS, **digests}, rate, examples, digest)


def differences(saved, now):
  return [*identity.differences({'cb': saved, 'copa': described()}, {**now})]


@pytest.mark.parametrize(
  ('now', 'reason'),
  [
    (described(rate=3.5), 'cb: its rate was 2 and is 3.5'),
    (described(digest='e2', rows='r2'), 'cb: the rows of its source have changed'),
    (
      described(digest='e2', rows='r2', vocabulary='v2', examples=8),
      'cb: the rows of its source have changed (it had 9 examples and has 8)',
    ),
    (
      described(digest='e2', definition='d2'),
      'cb: its preprocessors or features have changed',
    ),
    (described(digest='e2', vocabulary='v2'), 'cb: VOCABULARY has other contents'),
    (
      described(digest='e2', packages='p2'),
      'cb: SeqIO, TensorFlow or Python has another version',
    ),
    (described(digest='e2'), 'cb: its examples have changed'),
  ],
)
def test_a_difference_is_named_with_its_cause(now, reason):
  assert differences(described(), {'cb': now, 'copa': described()}) == [reason]


def test_equal_examples_are_the_same_data_whatever_they_were_made_with():
  now = described(rows='r2', definition='d2', vocabulary='v2', packages='p2')
  assert differences(described(), {'cb': now, 'copa': described()}) == []


def test_a_stream_is_known_by_what_it_is_made_of():
  stream = {'examples': None, 'digest': None}
  both = described(**stream), described(**stream, definition='d2')
  now = {'cb': both[1], 'copa': described()}
  assert differences(both[0], {**now, 'cb': both[0]}) == []
  assert differences(both[0], now) == ['cb: its preprocessors or features have changed']


def test_tasks_that_come_and_go_are_named():
  assert differences(described(), {'cb': described(), 'rte': described()}) == [
    'copa was trained on and is not in the mixture, or has no training data',
    'rte is new in the mixture',
  ]


@pytest.mark.parametrize('saved', [None, [], {'cb': 3}, {'cb': ['x', 1, 'a', 'b']}])
def test_a_record_that_is_none_is_told(saved):
  (text,) = identity.differences(saved, {'cb': described()})
  assert text == 'the checkpoint does not say what its data were'


def test_two_thousand_tasks_take_little_room():
  digests = dict.fromkeys(DIGESTS, '0123456789abcdef')
  of_task = identity.described(digests, 123.456, 10**6, '0123456789abcdef')
  assert len(str({f'super_natural_instructions_{n}': of_task for n in range(2000)})) < 300e3
