import math

import pytest
from scipy import stats

from hyperprompt_tasks import metrics


def multirc(values, groups):
  return [{'value': v, 'group': g} for v, g in zip(values, groups, strict=True)]


def record(*pairs):
  return [{'value': value, 'group': group} for value, group in pairs]


def test_accuracy_counts_invalid_predictions_as_wrong():
  assert metrics.accuracy([0, 1, 1, 0], [0, 1, -1, 1]) == {'accuracy': 50.0}


@pytest.mark.parametrize(
  ('predictions', 'expected'),
  [
    ([0, 1, 0, 1], 100),
    ([1, 0, 1, 0], -100),
    ([0, 1, 0, 0], 100 / math.sqrt(3)),
    # A third class, not class 0: 67.08 and not 57.74.
    ([0, 1, 0, -1], 100 * 3 / math.sqrt(20)),
    ([1, 1, 1, 1], 0),
    ([-1, -1, -1, -1], 0),
  ],
)
def test_matthews_corrcoef_is_over_all_values_that_occur(predictions, expected):
  result = metrics.matthews_corrcoef([0, 1, 0, 1], predictions)
  assert result['matthews_corrcoef'] == pytest.approx(expected)


def test_f1_takes_invalid_predictions_for_the_wrong_class():
  # One hit, one false alarm (0 -> -1 -> 1), one miss (1 -> -1 -> 0).
  assert metrics.f1([1, 0, 1, 0], [1, -1, -1, 0])['f1'] == pytest.approx(50.0)


def test_f1_without_positives_is_zero():
  assert metrics.f1([0, 0], [0, 0]) == {'f1': 0.0}


def test_correlations_are_of_values_and_of_ranks():
  targets, predictions = [0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 4.0, 9.0]
  # The covariance is 3.75, the variances are 1.25 and 12.25.
  expected = 100 * 3.75 / math.sqrt(1.25 * 12.25)
  pearson = metrics.pearson_corrcoef(targets, predictions)
  assert pearson == pytest.approx({'pearson_corrcoef': expected})
  spearman = metrics.spearman_corrcoef(targets, predictions)
  assert spearman == pytest.approx({'spearman_corrcoef': 100})


@pytest.mark.parametrize('metric', ['pearson_corrcoef', 'spearman_corrcoef'])
def test_equal_predictions_have_no_correlation(metric):
  with pytest.warns(stats.ConstantInputWarning):
    result = getattr(metrics, metric)([0.0, 1.0, 2.0], [3.0, 3.0, 3.0])
  assert math.isnan(result[metric])


def test_mean_3class_f1_counts_an_absent_class_as_zero():
  # F1 is 2/3 for classes 0 and 1, and 0 for class 2, which never occurs.
  result = metrics.mean_3class_f1([0, 0, 1], [0, 1, 1])
  assert result['mean_3class_f1'] == pytest.approx(100 * 4 / 9)


def test_mean_3class_f1_puts_invalid_predictions_in_no_class():
  result = metrics.mean_3class_f1([0, 1, 2, 2], [0, 1, 2, -1])
  assert result['mean_3class_f1'] == pytest.approx(100 * (1 + 1 + 2 / 3) / 3)


def test_multirc_f1_takes_invalid_predictions_for_the_wrong_class():
  targets = multirc([1, 0, 1, 0], [1, 1, 2, 2])
  predictions = multirc([1, -1, -1, 0], [1, 1, 2, 2])
  # One hit, one false alarm (0 -> -1 -> 1), one miss (1 -> -1 -> 0).
  assert metrics.multirc_f1(targets, predictions)['f1'] == pytest.approx(50.0)


def test_multirc_f1_without_positives_is_zero():
  none = multirc([0, 0], [1, 1])
  assert metrics.multirc_f1(none, none) == {'f1': 0.0}


def test_multirc_exact_match_is_a_mean_over_questions():
  targets = multirc([1, 0, 1, 0, 0], [1, 1, 1, 2, 3])
  predictions = multirc([1, 0, 0, 0, 0], [1, 1, 1, 2, 3])
  result = metrics.multirc_exact_match(targets, predictions)
  assert result['exact_match'] == pytest.approx(200 / 3)


def test_record_takes_the_best_answer_of_the_first_example_of_a_query():
  targets = record(
    (['Eva Holm', 'Holm'], (5, 8)), (['Eva Holm', 'Holm'], (5, 8)), (['Rossi'], (5, 9))
  )
  predictions = record(('the HOLM!', (5, 8)), ('Rossi', (5, 8)), ('Mr Rossi', (5, 9)))
  result = metrics.record_em_and_f1(targets, predictions)
  assert result['em'] == pytest.approx(50.0)
  assert result['f1'] == pytest.approx(100 * (1 + 2 / 3) / 2)


@pytest.mark.parametrize(
  ('answer', 'predicted', 'em', 'f1'),
  [
    ('Al-Qaeda', 'alqaeda', 100, 100),
    ('A Theban', 'theban', 100, 100),
    ('the', 'a', 100, 0),
    ('new new york', 'new york york', 0, 100 * 2 / 3),
    ('Oslo', 'Bergen', 0, 0),
  ],
)
def test_record_normalizes_both_sides(answer, predicted, em, f1):
  result = metrics.record_em_and_f1(record(([answer], 1)), record((predicted, 1)))
  assert result == pytest.approx({'em': em, 'f1': f1})


def test_record_without_answers_cannot_be_scored():
  with pytest.raises(ValueError, match='test split'):
    metrics.record_em_and_f1(record(([], 1)), record(('Oslo', 1)))


def test_one_example_has_no_correlation():
  for metric in (metrics.pearson_corrcoef, metrics.spearman_corrcoef):
    (value,) = metric([1.0], [1.0]).values()
    assert math.isnan(value)
