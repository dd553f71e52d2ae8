"""Metrics of texts, against the values of the libraries that T5 uses."""

import pytest

from hyperprompt_tasks import text_metrics

# BLEU is that of sacreBLEU 2.6.0 with tokenize='intl', ROUGE that of rouge-score 0.1.2,
# with T5's options.
CASES = {
  'punctuation': (
    [
      ['The cat sat on the mat.', 'A cat was on the mat, at 3.5 m.'],
      ['He paid $5 (10,000 ¥) — “twice”.', 'He paid 5 dollars.'],
    ],
    ['The cat sat on a mat, at 3.5 m.', 'He paid $5 (10,000 ¥) — “once”.'],
    (75.26098030180589, 86.66666666666667, 62.22222222222222, 76.66666666666666),
  ),
  'no shared four-gram': (
    ['a b c d e f'],
    ['a b c x y z'],
    (30.213753973567677, 50.0, 40.0, 50.0),
  ),
  'short predictions': (
    ['a b c d e f g h', 'k l m n o'],
    ['a b c d e', 'k l m n'],
    (64.11803884299549, 82.90598290598291, 79.2207792207792, 82.90598290598291),
  ),
  'sentences in another order': (
    ['the dog ran home . it was late\nand dark', 'one two three four five'],
    ['it was dark and late\nthe dog ran', 'five four one two three'],
    (24.98875716840308, 97.05882352941177, 45.0, 71.17647058823529),
  ),
}


@pytest.mark.parametrize('case', CASES)
def test_bleu_and_rouge_are_those_of_t5s_libraries(case):
  targets, predictions, (bleu, *rouge) = CASES[case]
  assert text_metrics.bleu(targets, predictions) == {'bleu': pytest.approx(bleu)}
  names = ('rouge1', 'rouge2', 'rougeLsum')
  expected = dict(zip(names, rouge, strict=True))
  assert text_metrics.rouge(targets, predictions) == pytest.approx(expected)


@pytest.mark.parametrize('prediction', ['', 'zebra', '…', '\n'])
def test_predictions_that_share_nothing(prediction):
  assert text_metrics.bleu(['a b c d'], [prediction]) == {'bleu': 0.0}
  assert set(text_metrics.rouge(['a b c d'], [prediction]).values()) == {0.0}


def test_a_text_counts_each_word_as_often_as_it_occurs():
  scores = text_metrics.rouge(['the cat\nthe cat'], ['the cat'])
  assert scores['rougeLsum'] == pytest.approx(100 * 2 * 2 / 6)


def test_any_reference_is_right():
  targets, predictions = [['no', 'The  Hague'], 'x y'], ['hague!', 'x z']
  assert text_metrics.accuracy(targets, ['The  Hague', 'x']) == {'accuracy': 50.0}
  assert text_metrics.exact_match(targets, predictions) == {'exact_match': 50.0}
  assert text_metrics.f1(targets, predictions) == {'f1': 75.0}
