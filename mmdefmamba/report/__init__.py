"""Reports: one HTML page per run, for ``--report`` of tools/test.py and tools/train.py."""

from .logs import read_scalars
from .testing import watch_test, write_test_report
from .training import write_train_report

__all__ = ['read_scalars', 'watch_test', 'write_test_report', 'write_train_report']
