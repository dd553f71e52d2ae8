"""Metrics of texts with one or several references, all x 100.

SeqIO takes functions of exactly `(targets, predictions)`. A target is a text, or a list of
texts of which any is right; a prediction is a text. Each function returns
`{metric: value}`.
"""

import collections
import math
import re
import string
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

Target = str | Sequence[str]

_PUNCTUATION = str.maketrans('', '', string.punctuation)
_ARTICLES = re.compile(r'\b(a|an|the)\b')
_NO_ROUGE_WORD = re.compile('[^a-z0-9]+')
_LONGEST_NGRAM = 4


def normalized(text: str) -> str:
  """Returns a text as SQuAD compares it.

  It is in lower case, without ASCII punctuation and English articles, with single blanks.
  """
  # Punctuation goes before articles, which makes `a.` an article.
  text = text.lower().translate(_PUNCTUATION)
  return ' '.join(_ARTICLES.sub(' ', text).split())


def normalized_match(reference: str, prediction: str) -> float:
  """Returns 1 if the texts are equal once normalized, else 0."""
  return float(normalized(reference) == normalized(prediction))


def normalized_overlap(reference: str, prediction: str) -> float:
  """Returns F1 of the words that two normalized texts share, from 0 to 1."""
  words, others = normalized(reference).split(), normalized(prediction).split()
  shared = (collections.Counter(words) & collections.Counter(others)).total()
  return 2 * shared / (len(words) + len(others)) if shared else 0.0


def accuracy(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
  """Returns `accuracy`: the share of predictions that equal a reference exactly."""
  return {'accuracy': _mean_best(lambda r, p: float(r == p), targets, predictions)}


def exact_match(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
  """Returns `exact_match`: the share of predictions that match a reference as in SQuAD."""
  return {'exact_match': _mean_best(normalized_match, targets, predictions)}


def f1(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
  """Returns `f1`: the overlap of words with the best reference, as in SQuAD."""
  return {'f1': _mean_best(normalized_overlap, targets, predictions)}


def rouge(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
  """Returns `rouge1`, `rouge2` and `rougeLsum`: F1 with the best reference, as T5 counts.

  Words are runs of ASCII letters and digits in lower case, without stemming. The values
  are means over the examples, where T5 reports the median of means of random resamples.
  """
  return {
    'rouge1': _mean_best(lambda r, p: _ngram_f1(r, p, 1), targets, predictions),
    'rouge2': _mean_best(lambda r, p: _ngram_f1(r, p, 2), targets, predictions),
    'rougeLsum': _mean_best(_summary_f1, targets, predictions),
  }


def bleu(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
  """Returns `bleu`: corpus BLEU of four-grams, as T5 computes it with sacreBLEU.

  Tokens are those of mteval-v14's international tokenization. Orders of n-grams without a
  match are smoothed exponentially. Every example may have its own number of references.
  """
  references = [[t] if isinstance(t, str) else list(t) for t in targets]
  tokenized = iter(
    _bleu_tokens([*predictions, *(one for ones in references for one in ones)])
  )
  candidates = [next(tokenized) for _ in predictions]
  matches, totals = [0] * _LONGEST_NGRAM, [0] * _LONGEST_NGRAM
  length = reference_length = 0
  for candidate, ones in zip(candidates, references, strict=True):
    tokens = [next(tokenized) for _ in ones]
    length += len(candidate)
    # The nearest length, and the shorter of two.
    _, nearest = min((abs(len(one) - len(candidate)), len(one)) for one in tokens)
    reference_length += nearest
    for order in range(1, _LONGEST_NGRAM + 1):
      counts = _ngrams(candidate, order)
      most: collections.Counter[tuple[str, ...]] = collections.Counter()
      for one in tokens:
        most |= _ngrams(one, order)
      matches[order - 1] += (counts & most).total()
      totals[order - 1] += counts.total()
  return {'bleu': 100 * _bleu_score(matches, totals, length, reference_length)}


def _mean_best(
  score: Callable[[str, str], float],
  targets: Sequence[Target],
  predictions: Sequence[str],
) -> float:
  """Returns the mean, x 100, of each prediction's score with its best reference."""
  best = [
    max(score(one, prediction) for one in ([target] if isinstance(target, str) else target))
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return 100 * float(np.mean(best))


def _ngrams(tokens: Sequence[str], order: int) -> collections.Counter[tuple[str, ...]]:
  return collections.Counter(
    tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1)
  )


def _f1(shared: float, size: int, other_size: int) -> float:
  return 2 * shared / (size + other_size) if shared else 0.0


def _rouge_words(text: str) -> list[str]:
  return _NO_ROUGE_WORD.sub(' ', text.lower()).split()


def _ngram_f1(reference: str, prediction: str, order: int) -> float:
  counts = _ngrams(_rouge_words(reference), order)
  others = _ngrams(_rouge_words(prediction), order)
  return _f1((counts & others).total(), counts.total(), others.total())


def _summary_f1(reference: str, prediction: str) -> float:
  """Returns ROUGE-L of a summary whose sentences stand on lines of their own.

  A sentence of the reference is matched with the union of its longest common subsequences
  with all sentences of the prediction. No word counts more often than it occurs.
  """
  sentences, others = _sentences(reference), _sentences(prediction)
  left = collections.Counter(word for sentence in sentences for word in sentence)
  others_left = collections.Counter(word for sentence in others for word in sentence)
  size, other_size = left.total(), others_left.total()
  hits = 0
  for sentence in sentences:
    places = set[int]().union(*(_common_places(sentence, other) for other in others))
    for word in (sentence[place] for place in sorted(places)):
      if left[word] and others_left[word]:
        hits += 1
        left[word] -= 1
        others_left[word] -= 1
  return _f1(hits, size, other_size)


def _sentences(summary: str) -> list[list[str]]:
  # T5 begins a line after every free-standing period.
  lines = summary.replace(' . ', ' .\n').split('\n')
  return [_rouge_words(line) for line in lines if line]


def _common_places(words: Sequence[str], others: Sequence[str]) -> set[int]:
  """Returns the places in `words` of one longest common subsequence with `others`."""
  lengths = [[0] * (len(others) + 1)]
  for word in words:
    above, row = lengths[-1], [0]
    for j, other in enumerate(others):
      row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
    lengths.append(row)
  places, i, j = set(), len(words), len(others)
  while i and j:
    if words[i - 1] == others[j - 1]:
      i, j = i - 1, j - 1
      places.add(i)
    elif lengths[i][j - 1] > lengths[i - 1][j]:
      j -= 1
    else:
      i -= 1
  return places


def _bleu_tokens(texts: Sequence[str]) -> list[list[str]]:
  """Returns the tokens of each text: symbols apart, and punctuation that no digit touches.

  TensorFlow's regular expressions know Unicode's categories, which Python's do not.
  """
  x = tf.constant(list(texts), tf.string)
  for pattern, replacement in (
    (r'(\PN)(\pP)', r'\1 \2 '),
    (r'(\pP)(\PN)', r' \1 \2'),
    (r'(\pS)', r' \1 '),
  ):
    x = tf.strings.regex_replace(x, pattern, replacement)
  return [text.decode('utf-8').split() for text in x.numpy()]


def _bleu_score(
  matches: Sequence[int], totals: Sequence[int], length: int, reference_length: int
) -> float:
  """Returns BLEU, from 0 to 1, of the numbers of a corpus.

  Args:
    matches: is the number of n-grams of each order that a reference has too.
    totals: is the number of n-grams of each order in the predictions.
    length: is the number of tokens in the predictions.
    reference_length: is the number of tokens in the references of the nearest length.
  """
  if not any(matches) or not all(totals):
    return 0.0
  logarithms, smoothing = 0.0, 1.0
  for match, total in zip(matches, totals, strict=True):
    if not match:
      smoothing *= 2
    logarithms += math.log(match / total if match else 1 / (smoothing * total))
  brevity = min(0.0, 1 - reference_length / length)
  return math.exp(brevity + logarithms / len(matches))
