"""The scores of a run as the page shows them, beside the paper's."""

from pathlib import Path
from typing import NamedTuple

from ..paper.tables import PAPER, ROOT

# What the libraries' metrics are called here, and the factor to percent; those of the first rank head the page.
_HEADLINES = {
    'accuracy/top1': ('top-1 accuracy', 1),
    'coco/bbox_mAP': ('box mAP', 100),
    'coco/segm_mAP': ('mask mAP', 100),
    'mIoU': ('mIoU', 1),
}
# The metric that a name in the paper's tables stands for, and the factor to the paper's percent.
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
    """A row of the paper beside a run; ``scores`` are (name, the paper's, the run's or '-')."""

    table: str
    arch: str
    scores: list


def headlines(metrics):
    """(name, text in percent) of the scores that head the page."""
    return [(name, f'{metrics[key] * factor:.2f} %') for key, (name, factor) in _HEADLINES.items() if key in metrics]


def is_headline(key):
    """Whether a metric is one of those that head the page."""
    return key in _HEADLINES


def paper_rows(config, metrics, tta):
    """The paper's rows that a config is for.

    Args:
        config: path of the config file, None if it has none.
        metrics: of its test.
        tta: whether the test was with test-time augmentation: what the paper has with it is compared with nothing else.

    Returns:
        list of :class:`PaperRow`; empty for any other config.
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
            comparable = key in metrics and (name in _UNDER_TTA) == tta
            scores.append((name, f'{paper:.1f}', f'{metrics[key] * factor:.1f}' if comparable else '-'))
        rows.append(PaperRow(row.table, row.arch, scores))
    return rows
