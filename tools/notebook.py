"""Executes the notebook of the tutorials, without Jupyter: `python -m tools.notebook`.

Cells run in one namespace, in a temporary folder. A line that begins with `!` is a command,
whose programs come from this environment; a cell that begins with `%` is left out.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

NOTEBOOK = pathlib.Path(__file__).parents[1] / 'docs/tutorials/notebook.ipynb'


def main() -> None:
  """Executes all cells; the first one that fails ends the program."""
  cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
  sources = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']
  names: dict[str, Any] = {}
  path = os.pathsep.join((str(pathlib.Path(sys.executable).parent), os.environ['PATH']))
  with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    for source in sources:
      if source.startswith('!'):
        subprocess.run(source[1:], shell=True, check=True, env={**os.environ, 'PATH': path})
      elif not source.startswith('%'):
        exec(source, names)
    os.chdir('/')


if __name__ == '__main__':
  main()
