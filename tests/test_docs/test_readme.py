"""What the README says about others, and its badges, are true of the installed packages and of our own pages."""

import importlib.util
import re
from pathlib import Path

import pytest

from mmdefmamba.scans import SCANS

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text('utf-8')


def row(name):
    """Return the cells of a row of the table of facts: ours, VMamba's, mmpretrain's and timm's."""
    (found,) = re.findall(rf'^\| {re.escape(name)} \| (.*) \|$', README, re.MULTILINE)
    return found.split(' | ')


def test_mmpretrain_and_timm_have_no_selective_scan():
    assert row('networks with a selective scan')[2:] == ['none', 'none']
    for library, files in (('mmpretrain', 'models/backbones/*.py'), ('timm', 'models/*.py')):
        spec = importlib.util.find_spec(library)
        if spec is None:
            pytest.skip(f'{library} is not installed')
        networks = list(Path(spec.origin).parent.glob(files))
        assert len(networks) > 40
        assert [file.name for file in networks if 'selective_scan' in file.read_text('utf-8')] == []


def test_there_are_nine_kinds_of_scan_beside_the_deformable_one():
    assert 'nine other kinds' in row('order of the scan')[0]
    kinds = {name.removesuffix('_reverse') for name in SCANS.module_dict} - {'deformable', 'deformable_fixed'}
    ours = {name for name in kinds if SCANS.get(name).__module__.startswith('mmdefmamba.')}
    assert len(ours) == 9


def test_speed_beside_swin_is_that_of_the_benchmarks():
    table = (ROOT / 'docs/benchmarks.md').read_text('utf-8').partition('| | threads | DefMamba-S |')[2]
    ratios = [float(line.split('|')[3]) for line in table.split('\n\n')[0].splitlines()[2:]]
    assert len(ratios) == 8
    assert (
        f'DefMamba-S has {min(ratios):.1f} to {max(ratios):.1f} times the speed of Swin-T'
        in row('the scan on a CPU')[0]
    )


@pytest.mark.parametrize(
    ('badge', 'where', 'pattern'),
    [
        ('licence', 'setup.py', "license_expression='(.*)'"),
        ('python', 'setup.py', r"'Programming Language :: Python :: (3\.\d+)'"),
        ('paper', 'README.md', r'\((CVPR \d{4})\)'),
    ],
)
def test_badges_say_what_the_files_say(badge, where, pattern):
    picture = (ROOT / f'docs/images/badge_{badge}.svg').read_text('utf-8')
    label, value = re.findall('<text .*>(.*)</text>', picture)
    assert re.search(rf'!\[{label}:? {re.escape(value)}\]\(docs/images/badge_{badge}.svg\)', README)
    found = re.findall(pattern, (ROOT / where).read_text('utf-8'))
    assert value == (found[0] if badge != 'python' else f'{found[0]} to {found[-1]}')
