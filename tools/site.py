"""Hooks of the site of the documents, which `make docs` builds (mkdocs.yml)."""

import pathlib
import re
from typing import Any

DOCS = pathlib.Path(__file__).parents[1] / 'docs'


def on_files(files: Any, *, config: Any) -> Any:
  """Adds the page of settings, which is made of their descriptions in the code."""
  from mkdocs.structure.files import File  # the tests do without it

  page = File.generated(config, 'reference/settings.md', content=settings_page())
  files.append(page)
  return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
  """Turns links to files outside of docs/, which are not on the site, into plain text."""
  folder = (DOCS / page.file.src_uri).parent

  def replaced(match: re.Match[str]) -> str:
    path = match[2].partition('#')[0]
    is_local = path and not re.match(r'\w+:', path)
    is_here = not is_local or (folder / path).resolve().is_relative_to(DOCS)
    return match[0] if is_here else match[1]

  return re.sub(r'\[([^\]]+)\]\(([^)\s]+)\)', replaced, markdown)


def settings_page() -> str:
  """Returns the page of all settings, in Markdown."""
  from hyperprompt_jax.configuration import macros

  parts = [
    '# Settings\n\nEvery setting of a run, as `hyperprompt config` prints them: the flag, '
    'the macro that gin files use, its type, default and range.\n'
  ]
  for group in macros.GROUPS:
    first = (group.__doc__ or '').splitlines()[0]
    parts.append(f'\n## {group.__name__}\n\n{first}\n\n')
    parts.append('| flag | macro | type | default | meaning |\n')
    parts.append('| --- | --- | --- | --- | --- |\n')
    for setting in group.described().values():
      default = 'required' if setting.is_required else f'`{setting.default}`'
      limits = f' ({setting.range})' if setting.range else ''
      cells = (
        f'`{setting.flag}`',
        f'`{setting.macro}`',
        setting.type,
        default,
        f'{setting.meaning}{limits}',
      )
      # A bar would end the cell.
      parts.append(f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |\n')
  return ''.join(parts)
