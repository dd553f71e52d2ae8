"""The page of settings, and links that leave the documents."""

import types

import pytest

from hyperprompt_jax.configuration import macros
from tools import site


def test_the_page_of_settings_has_a_row_for_each_setting():
  rows = [line for line in site.settings_page().splitlines() if line.startswith('| `--')]
  assert len(rows) == len(macros.described())
  for macro, setting in macros.described().items():
    (row,) = (row for row in rows if f' `{macro}` ' in row)
    cells = row.strip('| ').split(' | ')
    assert cells[0] == f'`{setting.flag}`' and len(cells) == 5


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('see [the log](../../CHANGELOG.md)', 'see the log'),
    ('see [tasks](tasks.md#names)', 'see [tasks](tasks.md#names)'),
    ('see [speed](../reference/speed.md)', 'see [speed](../reference/speed.md)'),
    ('see [here](#below)', 'see [here](#below)'),
    ('see [SemVer](https://semver.org)', 'see [SemVer](https://semver.org)'),
  ],
)
def test_links_to_files_that_are_not_on_the_site_become_text(text, expected):
  page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri='how_to/change.md'))
  assert site.on_page_markdown(text, page=page) == expected
