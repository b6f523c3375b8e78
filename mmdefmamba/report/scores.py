"""The scores of a run, and the scores of the paper for the same config."""

import math
from numbers import Real
from pathlib import Path
from typing import NamedTuple

from ..paper.tables import PAPER, ROOT

# The metrics at the top of the page: name on the page, and factor to percent.
_HEADLINES = {
    'accuracy/top1': ('top-1 accuracy', 1),
    'coco/bbox_mAP': ('box mAP', 100),
    'coco/segm_mAP': ('mask mAP', 100),
    'mIoU': ('mIoU', 1),
}
# The metric behind each name in the paper's tables, and its factor to percent.
_PAPER_METRICS = {
    'Top 1 Accuracy': ('accuracy/top1', 1),
    'box AP': ('coco/bbox_mAP', 100),
    'box AP50': ('coco/bbox_mAP_50', 100),
    'box AP75': ('coco/bbox_mAP_75', 100),
    'mask AP': ('coco/segm_mAP', 100),
    'mask AP50': ('coco/segm_mAP_50', 100),
    'mask AP75': ('coco/segm_mAP_75', 100),
    'mIoU': ('mIoU', 1),
    'mIoU(ms+flip)': ('mIoU', 1),
}
_UNDER_TTA = {'mIoU(ms+flip)'}


class PaperRow(NamedTuple):
    """A row of the paper and a run; ``scores`` are (name, score of the paper, score of the run or '-')."""

    table: str
    arch: str
    scores: list


def is_score(value):
    """Return whether a metric has a value.

    COCO's evaluation gives -1 if there is nothing to evaluate, such as objects of a size, and a mean of nothing is NaN.
    """
    return isinstance(value, Real) and value != -1 and math.isfinite(value)


def headlines(metrics):
    """Return (name, text in percent) of the scores at the top of the page; '-' for a score without a value."""
    return [
        (name, f'{metrics[key] * factor:.2f} %' if is_score(metrics[key]) else '-')
        for key, (name, factor) in _HEADLINES.items()
        if key in metrics
    ]


def is_headline(key):
    """Return whether a metric is shown at the top of the page."""
    return key in _HEADLINES


def paper_rows(config, metrics, tta):
    """Return the rows of the paper that belong to a config.

    Args:
        config: path of the config file, or None.
        metrics: metrics of the test.
        tta: whether the test used test-time augmentation. Scores with and without it are not compared.

    Returns:
        A list of :class:`PaperRow`; empty if the paper has no row for the config.
    """
    if config is None:
        return []
    rows = []
    for row in PAPER:
        if (ROOT / row.config).resolve() != Path(config).resolve():
            continue
        scores = []
        for name, paper in row.scores.items():
            key, factor = _PAPER_METRICS[name]
            comparable = is_score(metrics.get(key)) and (name in _UNDER_TTA) == tta
            scores.append((name, f'{paper:.1f}', f'{metrics[key] * factor:.1f}' if comparable else '-'))
        rows.append(PaperRow(row.table, row.arch, scores))
    return rows
