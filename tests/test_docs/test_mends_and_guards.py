"""docs/mends_and_guards.md describes each mend and each guard of the code, and no other."""

import re
from pathlib import Path

import pytest

from mmdefmamba.compat import MENDS
from mmdefmamba.guards import GUARDS

PAGE = (Path(__file__).parents[2] / 'docs/mends_and_guards.md').read_text('utf-8')
PARTS = dict(zip(('mends', 'guards'), re.split(r'^## (?:Mends|Guards)$', PAGE, flags=re.MULTILINE)[1:], strict=True))


@pytest.mark.parametrize(('part', 'names'), [('mends', MENDS), ('guards', GUARDS)])
def test_page_has_a_table_row_and_a_section_for_each(part, names):
    assert re.findall(r'^\| \[`(\w+)`\]\(#\w+\) \|', PARTS[part], re.MULTILINE) == re.findall(
        r'^#### `(\w+)`$', PARTS[part], re.MULTILINE
    )
    assert sorted(re.findall(r'^#### `(\w+)`$', PARTS[part], re.MULTILINE)) == sorted(names)


@pytest.mark.parametrize(('part', 'points'), [('mends', 'What it changes'), ('guards', 'What it does')])
def test_each_section_says_what_without_it_and_until_when(part, points):
    for section in PARTS[part].split('\n#### ')[1:]:
        found = re.findall(r'^- \*\*(.*?)\*\*', section, re.MULTILINE)
        assert {points, 'Without it', 'It can go'} <= set(found), section.partition('\n')[0]
