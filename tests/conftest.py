import pytest
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer


def pytest_addoption(parser):
    parser.addoption('--kills', type=int, default=3, help='how often test_interruption.py kills a training')


@pytest.fixture(autouse=True, scope='module')
def fresh_globals():
    """MMEngine keeps the last scope, logger and visualizer of a process: each test module starts without those."""
    for kept in (DefaultScope, MMLogger, Visualizer):
        kept._instance_dict.clear()
