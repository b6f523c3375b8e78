"""Every algorithm folder of mmdet, mmseg and mmpretrain on our backbone, as families.yml says.

Takes some minutes: `python -m pytest tests/test_families/test_sweep.py -m sweep -n 2`.
"""

import re
from pathlib import Path

import pytest
import yaml

EXPECTED = yaml.safe_load((Path(__file__).parent / 'families.yml').read_text())
WORKING = [(library, name) for library, lists in EXPECTED.items() for name in lists['work']]
FAILING = [(library, entry) for library, lists in EXPECTED.items() for entry in lists['fail']]


@pytest.mark.sweep
@pytest.mark.parametrize(('library', 'name'), WORKING, ids=str)
def test_config_works(families, library, name):
    families.run(library, name)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ('library', 'entry'), FAILING, ids=lambda value: value if isinstance(value, str) else value['config']
)
def test_config_fails_for_the_listed_reason(families, library, entry):
    """A config that works now, or that fails in another way, belongs elsewhere in families.yml and in docs/heads.md."""
    with pytest.raises(Exception) as caught:
        families.run(library, entry['config'])
    found = f'{caught.type.__name__}: {" ".join(str(caught.value).split())}'
    assert re.search(entry['error'], found), found


@pytest.mark.parametrize('library', EXPECTED)
def test_every_algorithm_folder_is_listed_once(families, library):
    lists = EXPECTED[library]
    names = [*lists['work'], *(entry['config'] for entry in lists['fail'])]
    assert len(set(names)) == len(names)
    assert {entry['config'] for entry in lists.get('remarks', ())} <= set(lists['work'])
    folder = families.config_folder(library)
    assert [name for name in names if not (folder / name).is_file()] == []
    listed = {name.split('/')[0] for name in names} | set(lists['same_model']) | set(lists['no_model'])
    shipped = {path.name for path in folder.iterdir() if path.is_dir()} - {'_base_'}
    assert listed == shipped


def test_the_docs_page_says_what_the_list_says():
    page = (Path(__file__).parents[2] / 'docs/heads.md').read_text()
    for library, lists in EXPECTED.items():
        total = len(lists['work']) + len(lists['fail'])
        assert f'| {library} | {len(lists["work"])} of {total} |' in page
        for name in lists['work']:
            assert f'`{name.split("/")[0]}`' in page, name
        for entry in lists.get('remarks', ()):
            assert f'| {library} | `{entry["config"].split("/")[0]}` | {entry["remark"]} |' in page, entry
        for entry in lists['fail']:
            assert f'| {library} | `{entry["config"].split("/")[0]}` | {entry["why"]} |' in page, entry
