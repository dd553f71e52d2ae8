"""Builds the distributions and checks that they install where the documents promise it.

    python -m tools.packaging                            (make packages)
    python -m tools.packaging --install 3.11 3.12 3.13

Builds the source distribution and the wheel into dist/, checks both with twine, and
resolves every extra of the wheel for each platform and Python from wheels alone. With
--install it also installs the wheel into an empty environment of each named Python, and
runs commands of it in another folder. Writes the table of docs/how_to/install.md.

uv resolves, and not `pip install --dry-run --platform`, because pip evaluates the markers
of requirements for the machine that it runs on. The status is 1 unless all checks passed.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence

from tools.reliability import matrix

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs/how_to/install.md'
PLATFORMS = {
  # libtpu needs glibc 2.31.
  'Linux x86-64': 'x86_64-manylinux_2_31',
  'Linux Arm': 'aarch64-manylinux_2_31',
  'macOS Arm': 'aarch64-apple-darwin',
}
PYTHONS = ('3.11', '3.12', '3.13')
EXTRAS = ('', 'cuda', 'tpu', 'plan', 'serve', 'lm_eval', 'test', 'docs', 'release')
# The row of the versions that `make demo` installs.
TESTED = 'test, constraints.txt'
# Pure Python, published as source alone; TFDS requires the first, lm-eval the others.
SOURCES = ('promise', 'sqlitedict', 'word2number')
# Packages that are compiled where they are installed, as they have no wheel for a Python.
COMPILED = {'3.13': ('editdistance',)}
BIN = pathlib.Path(sys.executable).parent
COMPOSED = (
  '--gin_file=models/tiny.gin',
  '--gin_file=methods/hyperprompt_global.gin',
  '--gin_file=runs/finetune.gin',
  '--mixture=hp_builtin',
  '--lengths=18,8',
  '--batch_size=4',
  '--train_steps=2',
  '--eval_steps=1',
)


def _build(folder: pathlib.Path) -> pathlib.Path:
  """Builds and checks both distributions of the tracked files; returns the wheel."""
  source = folder / 'source'
  source.mkdir()
  archive = subprocess.run(
    ['git', 'archive', 'HEAD'], cwd=ROOT, check=True, capture_output=True
  )
  subprocess.run(['tar', '--extract'], cwd=source, check=True, input=archive.stdout)
  output = ROOT / 'dist'
  build = [str(BIN / 'python'), '-m', 'build', '--outdir', str(output), str(source)]
  subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
  (version,) = re.findall(
    r"__version__ = '(.+)'", (source / 'hyperprompt_jax/__init__.py').read_text()
  )
  files = sorted(output.glob(f'hyperprompt_jax-{version}[-.]*'))
  subprocess.run([BIN / 'twine', 'check', '--strict', *files], check=True)
  (wheel,) = (file for file in files if file.suffix == '.whl')
  packed = {
    name.removeprefix('hyperprompt_jax/')
    for name in zipfile.ZipFile(wheel).namelist()
    if name.endswith('.gin')
  }
  tracked = {str(path.relative_to(source)) for path in source.glob('gin/**/*.gin')}
  if packed != tracked:
    sys.exit(f'the wheel lacks {sorted(tracked - packed)}, or has more than git')
  return wheel


def _built(folder: pathlib.Path) -> pathlib.Path:
  """Builds wheels of the packages that have none; returns their folder."""
  wheels = folder / 'wheels'
  pip = [str(BIN / 'python'), '-m', 'pip', 'wheel', '--quiet', '--no-deps']
  subprocess.run([*pip, '--wheel-dir', str(wheels), *SOURCES], check=True)
  return wheels


def _resolve(
  wheel: pathlib.Path, built: pathlib.Path, extra: str, platform: str, python: str
) -> str:
  """Returns the number of packages that an extra needs, or the reason of a failure."""
  name, _, constraints = extra.partition(', ')
  requirement = f'hyperprompt-jax{f"[{name}]" if name else ""} @ {wheel.as_uri()}'
  done = subprocess.run(
    [
      *(BIN / 'uv', 'pip', 'compile', '-', '--quiet', '--no-annotate', '--no-header'),
      *('--python-platform', PLATFORMS[platform], '--python-version', python),
      *('--only-binary=:all:', '--prerelease=disallow', '--find-links', built),
      *(f'--no-binary={package}' for package in COMPILED.get(python, ())),
      *(('--constraint', ROOT / constraints) if constraints else ()),
    ],
    input=requirement,
    capture_output=True,
    text=True,
  )
  if done.returncode:
    print(f'{extra or "-"}, {platform}, {python}: {done.stderr}', file=sys.stderr)
    return 'FAILS'
  return str(len(done.stdout.splitlines()))


def _table(wheel: pathlib.Path, built: pathlib.Path) -> str:
  """Returns the table of all resolutions, in Markdown."""
  lines = [
    f'| extra | platform | {" | ".join(f"Python {python}" for python in PYTHONS)} |',
    f'| --- | --- |{" --- |" * len(PYTHONS)}',
  ]
  for extra in (*EXTRAS, TESTED):
    for platform in PLATFORMS:
      cells = [_resolve(wheel, built, extra, platform, python) for python in PYTHONS]
      name = f'`{extra}`'.replace(', ', '`, `') if extra else 'none'
      lines.append(f'| {name} | {platform} | {" | ".join(cells)} |')
      print(lines[-1], flush=True)
  return '\n'.join(lines)


def _install(wheel: pathlib.Path, python: str, folder: pathlib.Path) -> None:
  """Installs the wheel into an empty environment and runs commands in another folder."""
  environment = folder / python
  uv = str(BIN / 'uv')
  base = matrix.interpreter(python)
  if base is None:
    sys.exit(f'this machine has no python{python}')
  subprocess.run([uv, 'venv', '--quiet', '--python', base, environment], check=True)
  interpreter = environment / 'bin/python'
  subprocess.run(
    [uv, 'pip', 'install', '--quiet', '--python', interpreter, wheel], check=True
  )
  command = environment / 'bin/hyperprompt'
  # Neither the checkout nor another environment may serve.
  env = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
  model_dir = f'--model_dir={folder / python}-run'
  for words in (
    ['--version'],
    ['config', *COMPOSED, model_dir],
    ['params', '--gin_file=models/xxl.gin', '--gin_file=methods/mtl.gin', '--json'],
    ['train', *COMPOSED, model_dir],
    ['eval', model_dir],
  ):
    print(f'Python {python}: hyperprompt {words[0]}', flush=True)
    subprocess.run(
      [command, *words], cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL
    )


def _write(table: str) -> None:
  """Replaces the table of the page."""
  text = PAGE.read_text(encoding='utf-8')
  begun, rest = text.split('<!-- resolutions -->\n')
  _, ended = rest.split('\n<!-- end -->')
  PAGE.write_text(
    f'{begun}<!-- resolutions -->\n{table}\n<!-- end -->{ended}', encoding='utf-8'
  )


def main(words: Sequence[str] | None = None) -> None:
  """Runs the checks and writes the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--install', nargs='+', metavar='PYTHON', default=[])
  parser.add_argument(
    '--resolve',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='resolve the extras, and write the table (default: yes)',
  )
  flags = parser.parse_args(words)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    wheel = _build(folder)
    table = _table(wheel, _built(folder)) if flags.resolve else ''
    if table:
      _write(table)
    for python in flags.install:
      _install(wheel, python, folder)
  sys.exit('FAILS' in table)


if __name__ == '__main__':
  main()
