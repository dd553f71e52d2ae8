"""Measures peak memory and time of `hyperprompt convert` at a published size.

    python -m benchmarks.convert_memory --size=xxl --folder=/tmp/convert

Makes a Hugging Face folder of the size, in float32, from sparse files: they read as zeros
and take no room on disk, but as much memory as any others. Converts it to T5X and back,
each way in a new process, and prints time and memory. The way back writes the real size to
disk, 45 GB at XXL; `--one_way` leaves it out. Pages of mapped files count as memory of the
process, although the kernel reclaims them when memory is short.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

from hyperprompt_jax.checkpoints.differences import by_path
from hyperprompt_jax.checkpoints.formats import huggingface, huggingface_config
from hyperprompt_jax.checkpoints.formats.huggingface_names import their_name
from hyperprompt_jax.configuration import gin_files
from hyperprompt_jax.methods import MultiTaskLearning
from hyperprompt_jax.model import Model
from hyperprompt_jax.nn.config import Config

# The public files have shards of this size.
SHARD_BYTES = 9_900_000_000


def make_folder(folder: pathlib.Path, config: Config) -> None:
  """Writes `config.json` and sharded safetensors as sparse files."""
  folder.mkdir(parents=True)
  shapes = by_path(Model(config, MultiTaskLearning(), ('task',)).param_shapes())
  shards: list[dict[str, tuple[int, ...]]] = [{}]
  size = 0
  for path, leaf in shapes.items():
    name, transpose = their_name(path)
    nbytes = int(np.prod(leaf.shape)) * 4
    if size + nbytes > SHARD_BYTES:
      shards.append({})
      size = 0
    size += nbytes
    shards[-1][name] = leaf.shape[::-1] if transpose else leaf.shape
  places = {}
  for number, shard in enumerate(shards, 1):
    file = f'model-{number:05d}-of-{len(shards):05d}.safetensors'
    header, start = {}, 0
    for name, shape in shard.items():
      stop = start + int(np.prod(shape)) * 4
      header[name] = {
        'dtype': 'F32', 'shape': list(shape), 'data_offsets': [start, stop]
      }  # fmt: skip
      start, places[name] = stop, file
    text = json.dumps(header).encode()
    with (folder / file).open('wb') as out:
      out.write(len(text).to_bytes(8, 'little') + text)
      out.truncate(8 + len(text) + start)
  index = {'metadata': {}, 'weight_map': places}
  (folder / huggingface.INDEX_FILE).write_text(json.dumps(index))
  described = huggingface_config.described(config, 'float32')
  (folder / huggingface_config.CONFIG_FILE).write_text(json.dumps(described))


def measure(path: pathlib.Path, output: pathlib.Path, to: str) -> str:
  """Converts in a process of its own; returns the checkpoint's path."""
  start = time.monotonic()
  command = [
    *(sys.executable, '-m', 'hyperprompt_jax', 'convert'),
    *(f'--input={path}', f'--output={output}', f'--to={to}', '--json'),
  ]
  peaks = {'RssAnon': 0, 'VmRSS': 0}
  with tempfile.TemporaryFile('w+') as out:
    process = subprocess.Popen(command, stdout=out)
    while process.poll() is None:
      status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
      for name in peaks:
        if match := re.search(rf'^{name}:\s+(\d+) kB', status, re.MULTILINE):
          peaks[name] = max(peaks[name], int(match[1]))
      time.sleep(0.05)
    out.seek(0)
    report = json.loads(out.read())
  print(
    f'to {to}: {report["parameters"]:,} parameters, {report["bytes"] / 1e9:.1f} GB, peak '
    f'{peaks["RssAnon"] * 1024 / 1e9:.2f} GB of its own and '
    f'{peaks["VmRSS"] * 1024 / 1e9:.2f} GB with pages of files, '
    f'{time.monotonic() - start:.0f} s',
    flush=True,
  )
  return report['checkpoint']


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--size', default='xxl')
  parser.add_argument('--folder', type=pathlib.Path, required=True)
  parser.add_argument('--one_way', action='store_true')
  flags = parser.parse_args()
  method = 'methods/mtl.gin'
  gin_files.parse([f'models/{flags.size}.gin', method, 'runs/params.gin'], [])
  config = dataclasses.replace(gin_files.call(Config), scan_layers=False)
  shutil.rmtree(flags.folder, ignore_errors=True)
  make_folder(flags.folder / 'huggingface', config)
  t5x = measure(flags.folder / 'huggingface', flags.folder / 't5x', 't5x')
  if not flags.one_way:
    measure(pathlib.Path(t5x), flags.folder / 'back', 'huggingface')
  shutil.rmtree(flags.folder)


if __name__ == '__main__':
  main()
