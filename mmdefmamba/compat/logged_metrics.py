"""Metrics of a distributed test, which one process should write.

Defect: after a test MMEngine's LoggerHook writes the metrics from all processes into the same file at the same time.
The file can then hold parts of two processes: their texts differ in length, because they hold measured times, and the
end of the longer text stays behind the end of the shorter one.
Seen in: mmengine 0.11.0rc3, once, on a busy machine: the file that two processes had written could not be parsed.
Can go: when ``LoggerHook.after_test_epoch`` writes on rank 0 only.
"""

from mmengine.dist import master_only

from .marks import replace


def apply(logger_hook):
    """Let the first process alone write the metrics of a test; returns whether that changed ``logger_hook``."""
    return replace(logger_hook, 'dump', master_only, 'logged_metrics')
