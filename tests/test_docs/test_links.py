"""Links between files of the repository lead to files and to headings that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md'), *(ROOT / 'configs').rglob('*.md')]


def without_code(text):
    """Return Markdown without blocks of code, whose comments look like headings."""
    return re.sub(r'^```.*?^```|^(?: {4}|\t).*?$', '', text, flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """Return the anchors that a code host and the site give to the headings of a page."""
    headings = re.findall(r'^#+ +(.*)$', without_code(page.read_text('utf-8')), re.MULTILINE)
    texts = [re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading) for heading in headings]
    return {re.sub(r'[^\w -]', '', text.lower()).strip().replace(' ', '-') for text in texts}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page):
    for target in re.findall(r'\]\((?!https?:|mailto:)([^)\s]+)\)', without_code(page.read_text('utf-8'))):
        name, _, anchor = target.partition('#')
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor and file.suffix == '.md':
            assert anchor in anchors(file), target


def test_pictures_have_alternative_texts_and_a_size_that_loads_fast():
    shown = 0
    for page in PAGES:
        for text, target in re.findall(r'!\[([^\]]*)\]\(([^)\s]+)\)', without_code(page.read_text('utf-8'))):
            assert len(text) > 5, f'{page.name} shows {target} without an alternative text'
            assert (page.parent / target).stat().st_size <= 120_000, f'{page.name} shows {target}'
            shown += 1
    assert shown > 15


def test_headings_have_the_anchors_of_a_code_host(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('# A, b: *c*\n\n    # no heading\n\n## See [the `code`](x.md) & more\n```\n# no heading\n```\n')
    assert anchors(page) == {'a-b-c', 'see-the-code--more'}
