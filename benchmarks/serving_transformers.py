"""Transformers' `generate` behind the same server, for `benchmarks.serving`.

  python -m benchmarks.serving_transformers BUNDLE FOLDER --batch_size=16

BUNDLE is a run of this project, and FOLDER its export (`convert --to=huggingface`), whose
prompts Transformers' T5 takes. Requests, batches and texts are handled by the code of
`hyperprompt serve`; the network runs in PyTorch. It needs torch and transformers, which are
no dependencies. Log likelihoods are left out, which spares Transformers their computation.
"""

import argparse
import dataclasses
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import transformers

from hyperprompt_jax.configuration import run_folder
from hyperprompt_jax.configuration.recorded import RecordedRun
from hyperprompt_jax.inference.answers import Answer, Generation
from hyperprompt_jax.inference.batches import Question
from hyperprompt_jax.inference.predictor import Predictor
from hyperprompt_jax.inference.tokenizer import open_tokenizer
from hyperprompt_jax.serving import app, server
from hyperprompt_jax.serving.batcher import Limits


class Everything:
  """A set of all batches: PyTorch compiles nothing."""

  def __contains__(self, batch: Any) -> bool:
    """Whether a batch is in the set."""
    return True

  def add(self, batch: Any) -> None:
    """Adds a batch."""


class Generating(Predictor):
  """A T5 of Transformers in place of our network.

  Args:
    folder: is the exported folder.
    record: is the record of the run.
    tokenizer: is its vocabulary.
    batch_size: is the most rows of a batch.
  """

  def __init__(self, folder: str, record: RecordedRun, tokenizer: Any, batch_size: int):
    programs: Any = types.SimpleNamespace(least_rows=1, compiled=Everything())
    super().__init__(programs, tokenizer, record, 0, batch_size)
    self._model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
      folder, trust_remote_code=True, dtype=torch.float32
    ).eval()

  def answers(
    self, questions: Iterable[Question], generation: Generation
  ) -> Iterator[Answer]:
    """Generates answers greedily."""
    limit = generation.max_length or self.lengths['targets']
    rows = list(questions)
    longest = max(len(row.tokens) for row in rows)
    inputs = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
      inputs[number, : len(row.tokens)] = torch.tensor(row.tokens)
    with torch.inference_mode():
      tokens = self._model.generate(
        input_ids=inputs,
        attention_mask=(inputs != 0).long(),
        task=[row.task_id for row in rows],
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
      )
    for row in tokens[:, 1:].tolist():
      finished = self.tokenizer.eos_id in row
      kept = row[: row.index(self.tokenizer.eos_id) + 1] if finished else row
      yield Answer(self.tokenizer.decode(kept), 0.0, tuple(kept), finished, False)


def main() -> None:
  """Serves until SIGTERM."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('bundle')
  parser.add_argument('folder')
  parser.add_argument('--batch_size', type=int, default=16)
  parser.add_argument('--lengths', default='64,16')
  flags = parser.parse_args()
  lengths = dict(
    zip(('inputs', 'targets'), map(int, flags.lengths.split(',')), strict=True)
  )
  record = run_folder.record_of(flags.bundle)
  record = dataclasses.replace(
    record, settings={**record.settings, 'TASK_FEATURE_LENGTHS': lengths}
  )
  tokenizer = open_tokenizer(record.vocabulary_in(flags.bundle))
  predictor = Generating(flags.folder, record, tokenizer, flags.batch_size)
  settings = app.Settings(limits=Limits(flags.batch_size), timeout=600)
  with server.listen('127.0.0.1', 0) as listener:
    server.run(app.Service(predictor, settings), listener, server.Options(compiled=()))


if __name__ == '__main__':
  main()
