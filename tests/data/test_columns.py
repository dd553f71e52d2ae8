"""Columns of a file hold any examples, and give them back by index."""

import numpy as np
import pytest

from hyperprompt_jax.data.columns import Columns, Layout, Values, Writer, digest_of


def drawn_column(rng, size):
  """A feature of a drawn kind: its values for the writer, and as Python objects."""
  kind = rng.integers(4)
  if kind == 0:
    numbers = rng.integers(-5, 5, size) * int(rng.choice([1, 10**4, 10**12]))
    return Values(numbers), numbers.tolist()
  if kind == 1:
    rows = [rng.integers(0, int(rng.choice([9, 300, 70_000])), n) for n in sizes(rng, size)]
    return Values(joined(rows, np.int64), (lengths(rows),)), [row.tolist() for row in rows]
  texts = [
    [bytes(rng.integers(0, 256, n, np.uint8)) for n in sizes(rng, k)]
    for k in (sizes(rng, size) if kind == 3 else [1] * size)
  ]
  flat = [text for row in texts for text in row]
  data = np.frombuffer(b''.join(flat), np.uint8)
  if kind == 2:
    return Values(data, (lengths(flat),), text=True), flat
  return Values(data, (lengths(flat), lengths(texts)), text=True), texts


def sizes(rng, size):
  return rng.integers(0, 6, size).tolist()


def joined(rows, dtype):
  return np.concatenate([np.empty(0, dtype), *rows]).astype(dtype)


def lengths(rows):
  return np.array([len(row) for row in rows], np.int64)


def plain(rows):
  return [row.tolist() if isinstance(row, np.ndarray | np.generic) else row for row in rows]


@pytest.mark.parametrize('seed', range(30))
def test_examples_come_back_as_they_were(seed, tmp_path):
  rng = np.random.default_rng(seed)
  writer, wanted, kinds = Writer(str(tmp_path)), {}, {}
  for _ in range(int(rng.integers(1, 4))):
    size = int(rng.integers(1, 40))
    batch = {}
    for name in 'abcd':
      column_rng = np.random.default_rng([seed, ord(name)])
      kind = kinds.setdefault(name, column_rng.integers(1 << 30))
      same_kind = np.random.default_rng(kind)
      batch[name], rows = drawn_column(same_kind, size)
      wanted.setdefault(name, []).extend(rows)
    writer.append(batch)
  layout = writer.write(str(tmp_path / 'file'))
  writer.close()
  columns = Columns(str(tmp_path / 'file'), Layout.from_json(layout.to_json()))
  assert digest_of(str(tmp_path / 'file')) == layout.digest
  assert len(columns) == layout.examples == len(wanted['a'])
  for name, rows in wanted.items():
    some = rng.integers(0, len(rows), 25)
    assert plain(columns.values(name, some).rows()) == [rows[n] for n in some]


def test_token_ids_take_two_bytes(tmp_path):
  writer = Writer(str(tmp_path))
  writer.append({'inputs': Values(np.full(1000, 32_099, np.int32), (np.full(10, 100),))})
  layout = writer.write(str(tmp_path / 'file'))
  writer.close()
  assert [place.dtype for place in layout.columns['inputs'][2]] == ['uint16', 'uint16']
  assert layout.size < 2100


def test_a_large_file_is_mapped_and_a_small_one_read(tmp_path):
  for count, is_mapped in ((10, False), (1_000_000, True)):
    path = tmp_path / str(count)
    writer = Writer(str(tmp_path))
    writer.append({'x': Values(np.arange(count, dtype=np.int32))})
    columns = Columns(str(path), writer.write(str(path)))
    writer.close()
    assert columns.values('x', np.array([count - 1])).rows() == [count - 1]
    with open('/proc/self/maps', encoding='utf-8') as maps:
      assert (str(path) in maps.read()) == is_mapped


def test_a_file_of_another_size_is_refused(tmp_path):
  writer = Writer(str(tmp_path))
  writer.append({'x': Values(np.arange(9))})
  layout = writer.write(str(tmp_path / 'file'))
  writer.close()
  (tmp_path / 'file').write_bytes(b'short')
  with pytest.raises(ValueError, match='has 5 bytes and not 9'):
    Columns(str(tmp_path / 'file'), layout)
