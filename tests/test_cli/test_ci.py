"""The workflow for a public host and .ci/run call targets of the Makefile, on the versions that setup.py names."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TARGETS = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
WORKFLOW = yaml.load((ROOT / '.github/workflows/ci.yml').read_text(), yaml.BaseLoader)
(JOB,) = WORKFLOW['jobs'].values()


def runs():
    """Return (version of Python, target) of each run of the matrix."""
    matrix = JOB['strategy']['matrix']
    return [(python, target) for python in matrix['python'] for target in matrix['target']] + [
        (row['python'], row['target']) for row in matrix['include']
    ]


def test_every_target_exists():
    (command,) = [step['run'] for step in JOB['steps'] if 'run' in step]
    assert command == 'make ${{ matrix.target }} PYTHON=python'
    assert {target for _, target in runs()} == {'test', 'test-oldest', 'lint', 'docs', 'dist'} <= TARGETS
    local = re.findall(r'^make (\S+)', (ROOT / '.ci/run').read_text(), re.MULTILINE)
    assert set(local) <= {target for _, target in runs()}


def test_every_supported_python_is_tested():
    setup = (ROOT / 'setup.py').read_text()
    supported = re.findall(r'Programming Language :: Python :: (3\.\d+)', setup)
    assert re.search(r"python_requires='>=(.+)',", setup)[1] == supported[0]
    assert [python for python, target in runs() if target == 'test'] == supported
    assert {python for python, _ in runs()} == {*supported}


def test_workflow_has_read_permission_only():
    assert WORKFLOW['permissions'] == {'contents': 'read'}
    assert 'permissions' not in JOB
    assert int(JOB['timeout-minutes']) <= 60
    actions = [step['uses'] for step in JOB['steps'] if 'uses' in step]
    assert all(re.fullmatch(r'actions/[\w-]+@v\d+', action) for action in actions)
    assert JOB['steps'][0]['with']['persist-credentials'] == 'false'
