"""Writes the tables of docs/reference/family.md from the gin files and the results.

    python -m tools.family.page

It needs neither torch nor transformers.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from hyperprompt_jax.configuration import static
from hyperprompt_jax.methods import MultiTaskLearning
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / 'docs/reference/family.md'
RESULTS = ROOT / 'tools/results/family.json'
# Published models: their gin file, the number of parameters that is stated for them, and
# the class whose parity stands for them.
MODELS = (
  ('T5 1.0 Small', 'small_1_0', '60,506,624', 'T5 1.0'),
  ('T5 1.0 Base', 'base_1_0', '222,903,552', 'T5 1.0'),
  ('T5 1.0 Large', 'large_1_0', '737,668,096', 'T5 1.0'),
  ('T5 1.0 3B', '3b_1_0', '2,851,598,336', 'T5 1.0'),
  ('T5 1.0 11B', '11b_1_0', '11,307,321,344', 'T5 1.0'),
  ('T5 1.1, LM-adapted, Flan-T5 Small', 'small', '76,961,152', 'T5 1.1'),
  ('T5 1.1, LM-adapted, Flan-T5 Base', 'base', '247,577,856', 'T5 1.1'),
  ('T5 1.1, LM-adapted, Flan-T5 Large', 'large', '783,150,080', 'T5 1.1'),
  ('T5 1.1, LM-adapted, Flan-T5 XL', 'xl', '2,849,757,184', 'T5 1.1'),
  ('T5 1.1, LM-adapted, Flan-T5 XXL', 'xxl', '11,135,332,352', 'T5 1.1'),
  ('mT5 Small', 'mt5_small', '300,176,768', 'mT5'),
  ('mT5 Base', 'mt5_base', '582,401,280', 'mT5'),
  ('mT5 Large', 'mt5_large', '1,229,581,312', 'mT5'),
  ('mT5 XL', 'mt5_xl', '3,742,619,648', 'mT5'),
  ('mT5 XXL', 'mt5_xxl', '12,921,057,280', 'mT5'),
  ('ByT5 Small', 'byt5_small', '299,637,760', 'ByT5'),
  ('ByT5 Base', 'byt5_base', '581,653,248', 'ByT5'),
  ('ByT5 Large', 'byt5_large', '1.23 G', 'ByT5'),
  ('ByT5 XL', 'byt5_xl', '3.74 G', 'ByT5'),
  ('ByT5 XXL', 'byt5_xxl', '12.9 G', 'ByT5'),
  ('umT5 Small', 'umt5_small', '0.3 G', 'umT5'),
  ('umT5 Base', 'umt5_base', '0.6 G', 'umT5'),
  ('umT5 XL', 'umt5_xl', '3.8 G', 'umT5'),
  ('umT5 XXL', 'umt5_xxl', '13 G', 'umT5'),
  ('UL2, Flan-UL2', 'ul2', '20 G', 'UL2'),
  ('MADLAD-400 3B', 'madlad400_3b', '2.9 G', 'MADLAD-400'),
  ('MADLAD-400 7B', 'madlad400_7b', '8.3 G', 'MADLAD-400'),
  ('MADLAD-400 10B', 'madlad400_10b', '10.7 G', 'MADLAD-400'),
)
# Classes that tests compare with outputs of Transformers that are kept in tests/golden.
_IN_TESTS = dict.fromkeys(('ByT5', 'mT5', 'umT5', 'MADLAD-400'), 'in tests, one way')


def main() -> None:
  """Replaces both tables of the page."""
  results = json.loads(RESULTS.read_text())
  text = PAGE.read_text()
  tables = {'models': _models(results['classes']), 'classes': _classes(results['classes'])}
  for name, lines in tables.items():
    begin, end = f'<!-- {name} -->\n', f'<!-- end of {name} -->\n'
    before, rest = text.split(begin)
    _, after = rest.split(end)
    text = before + begin + '\n' + '\n'.join(lines) + '\n\n' + end + after
  PAGE.write_text(text)


def _models(rows: dict[str, Any]) -> Iterator[str]:
  """A row for each published model."""
  yield (
    '| model | gin file | layers | d | h x k | F | activations | output layer | vocabulary '
    '| parameters | published | parity and generation |'
  )
  yield '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |'
  for title, file, published, name in MODELS:
    composed = static.Configuration()
    composed.add_file(f'models/{file}.gin')
    values = {key: composed.resolved(key) for key in composed.values}
    config = Config(
      **{
        key.rpartition('.')[2]: value
        for key, value in values.items()
        if key.startswith('config.Config.')
      }
    )
    shapes = Model(config, MultiTaskLearning(), ('task',)).param_shapes()
    number = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    holds = f'as {name}' if name in rows else _IN_TESTS.get(name, 'not run')
    if name in rows and not rows[name]['holds']:
      holds = f'differs: {name}'
    cells = (
      title,
      f'`{file}.gin`',
      f'{config.num_encoder_layers} + {config.num_decoder_layers}',
      config.emb_dim,
      f'{config.num_heads} x {config.head_dim}',
      f'{config.mlp_dim:,}',
      ' x '.join(config.mlp_activations),
      'tied, scaled' if config.logits_via_embedding else 'its own',
      f'{config.vocab_size:,} rows',
      f'{number:,}',
      published,
      holds,
    )
    yield f'| {" | ".join(map(str, cells))} |'


def _classes(rows: dict[str, Any]) -> Iterator[str]:
  """A row for each class that was compared with Transformers."""
  yield '| class | logits here | through T5X | back in Transformers | greedy | lengths |'
  yield '| --- | --- | --- | --- | --- | --- |'
  for name, row in rows.items():
    both = row['generation'] and row['generation_back']
    yield (
      f'| {name} | {row["here"]:.1e} | {row["t5x"]:.1e} | {row["back"]:.1e} | '
      f'{"equal" if both else "differs"} | {", ".join(map(str, row["lengths"]))} |'
    )


if __name__ == '__main__':
  main()
