"""The documentation builds without a warning, and its pages load nothing from other hosts."""

import re
import runpy
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / 'docs'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """Build the site and return its folder."""
    for name in ('mkdocs', 'material'):
        pytest.importorskip(name, reason=f'{name} is not installed: pip install -e .[docs]')
    pytest.importorskip('mkdocstrings_handlers.python', reason='mkdocstrings is not installed: pip install -e .[docs]')
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp('site')
    build(load_config(str(ROOT / 'mkdocs.yml'), site_dir=str(folder), strict=True))
    return folder


class Assets(HTMLParser):
    """Parser that collects what a page makes a browser load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        names = {'link': ('href',), 'a': (), 'use': ('href', 'xlink:href')}.get(
            tag, ('src', 'srcset', 'poster', 'data')
        )
        if tag == 'link' and attrs.get('rel') in ('canonical', 'author'):
            return
        self.found += [attrs[name] for name in names if attrs.get(name)]


def test_site_loads_nothing_from_other_hosts(site):
    pages = [page for page in site.rglob('*.html') if page.name != '404.html']  # a server shows it at any address
    assert len(pages) > 25
    for page in pages:
        assets = Assets()
        assets.feed(page.read_text('utf-8'))
        assert assets.found
        for asset in assets.found:
            assert not re.match(r'\s*(?:[a-z]+:)?//', asset), f'{page.name} fetches {asset}'
            if not asset.startswith('data:'):
                assert (page.parent / re.split('[?#]', asset)[0]).exists(), f'{page.name} lacks {asset}'
    for sheet in site.rglob('*.css'):
        fetched = re.findall(r'(?:@import\s+|url\()\s*[\'"]?((?:https?:)?//[^\'")]*)', sheet.read_text('utf-8'))
        assert fetched == [], f'{sheet.name} fetches {fetched}'


class Links(HTMLParser):
    """Parser that collects the links and the anchors of a page."""

    def __init__(self):
        super().__init__()
        self.links, self.anchors = [], set()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get('id'))
        if tag == 'a' and not re.match('https?:|mailto:', attrs.get('href') or ''):
            self.links.append(attrs.get('href') or '')


def test_links_of_the_site_lead_to_pages_and_headings_that_exist(site):
    parsed = {}
    for page in site.rglob('*.html'):
        parsed[page.resolve()] = Links()
        parsed[page.resolve()].feed(page.read_text('utf-8'))
    checked = 0
    for page, found in parsed.items():
        for link in found.links if page.name != '404.html' else ():
            name, _, anchor = link.partition('#')
            target = (page.parent / name).resolve() if name else page
            target = target / 'index.html' if target.is_dir() else target
            assert target.is_file(), f'{page.name} links to {link}'
            # Material's own links to the top have anchors that its script makes
            if anchor and target in parsed and not anchor.startswith('__'):
                assert anchor in parsed[target].anchors, f'{page.name} links to {link}'
                checked += 1
    assert checked > 500


def test_pages_have_search_copy_buttons_coloured_code_and_two_palettes(site):
    text = (site / 'index.html').read_text('utf-8')
    assert 'data-md-component="search"' in text
    assert '"content.code.copy"' in text
    assert {'default', 'slate'} == set(re.findall('data-md-color-scheme="([a-z]+)" data-md-color-primary', text))
    assert re.search('<pre[^>]*>.*<span class="[a-z]+">', text, re.S)


def test_short_numbers_and_options_are_not_broken_and_long_cells_have_some_width():
    mark = runpy.run_path(str(DOCS / 'hooks/narrow.py'))['on_page_content']
    assert mark('<td>5.6e-04</td>') == '<td class="short">5.6e-04</td>'
    assert mark('<td><a href="a-long-address-of-a-page.html">yes</a></td>').startswith('<td class="short">')
    assert mark('<td>&lt;&lt;&lt;&lt; 8 &gt; 7 &gt; 6</td>').startswith('<td class="short">')
    assert mark('<td>some words, neither few nor</td>') == '<td>some words, neither few nor</td>'
    assert mark('<td>71.9 ± 7.2 (79.7, 77.5, 63.5, 73.2)</td>').startswith('<td class="long">')
    assert mark('<p><code>--inline</code></p>') == '<p><code class="short">--inline</code></p>'
    path = '<p><code>configs/classification/defmamba_s_in1k.py</code></p>'
    assert mark(path) == path
    assert mark('<td class="other">5</td>') == '<td class="other">5</td>'


def test_pages_mark_what_a_narrow_screen_must_not_break(site):
    assert '<td class="short">2.3e-09</td>' in (site / 'fidelity.html').read_text('utf-8')
    sheet = (site / 'css/site.css').read_text('utf-8')
    assert re.search(r'td\.short, \S+ code\.short { white-space: nowrap; }', sheet)


def test_links_to_repository_files_lead_to_copies(site):
    text = (site / 'concepts.html').read_text('utf-8')
    assert 'href="source/mmdefmamba/scans/deformable.py.txt"' in text
    copy = site / 'source/mmdefmamba/scans/deformable.py.txt'
    assert copy.read_text('utf-8') == (ROOT / 'mmdefmamba/scans/deformable.py').read_text('utf-8')
    assert '](../' not in ''.join(page.read_text('utf-8') for page in site.glob('*.html'))


@pytest.mark.parametrize(
    ('page', 'names'),
    [
        ('models', ['DefMamba', 'DMBlock', 'DSSM']),
        ('scans', ['DeformableScan', 'StaticScan', 'build_scan']),
        ('ops', ['selective_scan', 'sample_points', 'multi_scan', 'sequence_scan.use_backend', 'map_scan.multi_scan']),
        ('checkpoints', ['SafeCheckpointHook', 'load_pretrained', 'Fit']),
        ('converters', ['convert_released', 'export_released']),
        ('guards', ['GuardsHook', 'ClassCountHook']),
        ('compat', ['status', 'apply']),
        ('paper', ['ablation_runs', 'order_gradients', 'tables']),
        ('cli', ['train', 'run_options.train_parser', 'infer.main']),
        ('report', ['read_scalars', 'write_test_report']),
    ],
)
def test_reference_contains_exported_names(site, page, names):
    text = (site / f'reference/{page}.html').read_text('utf-8')
    for name in names:
        assert f'id="mmdefmamba.{page}.{name}"' in text
    without_code = re.sub(r'<pre.*?</pre>', '', text, flags=re.S)
    assert len(without_code) < len(text)
    assert not re.search(r':(?:class|func|mod|meth):<code|::</p>', without_code)


def test_every_page_is_in_the_navigation():
    text = (ROOT / 'mkdocs.yml').read_text()
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob('*.md')}
    listed = set(re.findall(r'[\w/]+\.md', text.partition('\nnav:')[2]))
    assert pages - listed == set()
    # made from files outside of docs/
    cards = {f'models/{task}.md' for task in ('classification', 'detection', 'segmentation')}
    assert listed - pages == {'changes.md', 'contributing.md', *cards}


def test_links_between_files_work_on_a_code_host():
    for page in DOCS.rglob('*.md'):
        for target in re.findall(r'\]\(([^)#\s:]+)(?:#[^)]*)?\)', page.read_text('utf-8')):
            assert (page.parent / target).exists(), f'{page.name} links to {target}'
