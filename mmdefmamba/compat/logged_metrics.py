"""Metrics of a distributed test, written by one process.

Defect: after a test MMEngine's LoggerHook writes the metrics from every process into the same file at the same time.
What is left can be of two processes: the digits of their times differ in number, and the longer one's last ones stay
behind the other's end.
Seen in: mmengine 0.11.0rc3, once, on a busy machine: what two processes left could not be read.
Can go: when ``LoggerHook.after_test_epoch`` asks for the rank first.
"""

from mmengine.dist import master_only
from mmengine.hooks import logger_hook


def apply():
    """Let the first process alone write the metrics of a test.

    Returns:
        What was done and why, one line; None where it was done already.
    """
    if hasattr(logger_hook.dump, '__wrapped__'):
        return None
    logger_hook.dump = master_only(logger_hook.dump)
    return 'the first process writes the metrics of a test: MMEngine has all of them write one file at once'
