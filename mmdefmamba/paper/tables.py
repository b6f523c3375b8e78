"""The paper's tables of results, with what this code counts and measures in DefMamba's rows."""

from pathlib import Path
from typing import NamedTuple

import yaml
from mmengine.config import Config

from ..analysis.config_complexity import config_complexity
from ..analysis.markdown import markdown_table
from .published import published_rows

ROOT = Path(__file__).resolve().parents[2]


class Row(NamedTuple):
    """A row of a table of the paper.

    Attributes:
        table: number of the table.
        arch: size of the network; in an ablation of tiny, the parts of the network.
        config: path of the config, from the root of the repository.
        params, flops: as the paper prints them; None where it does not.
        scores: dict of metric, named as in a metafile's ``Results``, to the paper's score.
    """

    table: str
    arch: str
    config: str
    params: str | None
    flops: str
    scores: dict


_CLASSIFICATION, _DETECTION, _SEGMENTATION = (
    'configs/classification/defmamba_{}_in1k.py',
    'configs/detection/mask_rcnn_defmamba_{}_ms_1x.py',  # the paper trains at several scales
    'configs/segmentation/upernet_defmamba_{}_160k.py',
)
_ABLATION = 'configs/classification/ablation/tiny_in1k/{}.py'
_AP = ('box AP', 'box AP50', 'box AP75', 'mask AP', 'mask AP50', 'mask AP75')
_IOU = ('mIoU', 'mIoU(ms+flip)')


def _scores(names, *values):
    return dict(zip(names, values, strict=True))


def _top1(score):
    return {'Top 1 Accuracy': score}


PAPER = (
    Row('1', 'tiny', _CLASSIFICATION.format('t'), '8M', '1.2G', _top1(78.6)),
    Row('1', 'small', _CLASSIFICATION.format('s'), '32M', '4.8G', _top1(83.5)),
    Row('1', 'base', _CLASSIFICATION.format('b'), '51M', '8.5G', _top1(84.2)),
    Row('2', 'small', _DETECTION.format('s'), None, '268G', _scores(_AP, 47.5, 69.6, 51.7, 42.8, 66.3, 46.2)),
    Row('B2', 'base', _DETECTION.format('b'), None, '349G', _scores(_AP, 48.7, 70.5, 53.8, 43.7, 67.7, 47.0)),
    Row('3', 'small', _SEGMENTATION.format('s'), '65M', '946G', _scores(_IOU, 48.8, 49.6)),
    Row('C3', 'base', _SEGMENTATION.format('b'), '84M', '1024G', _scores(_IOU, 50.8, 51.7)),
    Row('4', '(1) forward, backward', _ABLATION.format('fb'), '7.3M', '1.1G', _top1(76.9)),
    Row('4', '(2) deformable', _ABLATION.format('db'), '8.1M', '1.1G', _top1(76.5)),
    Row('4', '(3) (1) + continuous', _ABLATION.format('fb_continuous'), '7.5M', '1.1G', _top1(77.3)),
    Row('4', '(4) (1) + local', _ABLATION.format('fb_local'), '7.5M', '1.1G', _top1(77.1)),
    Row('4', '(5) (1) + deformable', _CLASSIFICATION.format('t'), '8.3M', '1.2G', _top1(78.6)),
    Row('5', '(1) none', _ABLATION.format('fb_raster'), '7.5M', '1.1G', _top1(77.0)),
    Row('5', '(2) points', _ABLATION.format('fb_points'), '7.5M', '1.2G', _top1(77.4)),
    Row('5', '(3) order', _ABLATION.format('fb_order'), '7.5M', '1.2G', _top1(77.2)),
    Row('5', '(4) points, order', _ABLATION.format('fb_points_order'), '7.5M', '1.2G', _top1(77.9)),
    Row('5', '(5) (4) + offset bias', _ABLATION.format('fb_points_order_bias'), '8.2M', '1.2G', _top1(78.2)),
    Row('5', '(6) (5) + channel attention', _CLASSIFICATION.format('t'), '8.3M', '1.2G', _top1(78.6)),
)
HEADER = (
    'Table',
    'Network',
    'Params: paper',
    'here',
    'FLOPs: paper',
    'here',
    'with the scan',
    'Score',
    'paper',
    'measured',
)


def paper_tables(tables=None, root=ROOT, count=config_complexity):
    """Return the rows as a Markdown table, with one line per score.

    Args:
        tables: names of tables: '1', '2', '3', 'B2', 'C3', '4', '5'; by default all.
        root: root of the repository, with the configs and metafiles.
        count: a function like :func:`config_complexity`, which takes about half a minute for each row of detection and
            segmentation.

    Returns:
        The text. The rows of other methods are there as the paper prints them, and marked 'published'. FLOPs are
        multiply-adds at the paper's image sizes: without the selective scan, as the paper counts, and with it. Measured
        scores come from the ``Results`` of the metafiles; '-' if there is no result.

    Raises:
        ValueError: an unknown table.
    """
    known = list(dict.fromkeys(row.table for row in PAPER))
    for table in tables or ():
        if table not in known:
            raise ValueError(f'table must be one of {known}, got {table!r}')
    lines = [HEADER]
    for table in known:
        if not tables or table in tables:
            lines += _table_lines(table, Path(root), count)
    return markdown_table(lines)


def _table_lines(table, root, count):
    own = {row.arch: row for row in PAPER if row.table == table}
    published = published_rows(table)
    for row in published or [(arch,) for arch in own]:
        if len(row) == 1:
            yield from _own_lines(own[row[0]], 'DefMamba ' if published else '', root, count)
        else:
            method, params, flops, scores = row
            for i, (name, score) in enumerate(zip(next(iter(own.values())).scores, scores, strict=True)):
                first = (table, method, params, '-', flops, '-', '-') if i == 0 else ('',) * 7
                yield (*first, name, score, 'published')


def _own_lines(row, prefix, root, count):
    counts, _ = count(Config.fromfile(root / row.config))
    costs = (
        row.params or '-',
        f'{counts["params"] / 1e6:.2f}M',
        row.flops,
        f'{counts["flops_without_scan"] / 1e9:.2f}G',
        f'{counts["flops"] / 1e9:.2f}G',
    )
    measured = measured_scores(root, row.config)
    for i, (name, score) in enumerate(row.scores.items()):
        first = (row.table, prefix + row.arch, *costs) if i == 0 else ('',) * 7
        yield (*first, name, f'{score:.1f}', measured.get(name, '-'))


def measured_scores(root, config):
    """Return the metrics of a config from the metafile in its folder, ``{name: value}``; empty without a metafile."""
    metafile = (Path(root) / config).with_name('metafile.yml')
    if not metafile.is_file():
        return {}
    entries = yaml.safe_load(metafile.read_text())['Models']
    results = [result for entry in entries if entry['Config'] == config for result in entry.get('Results', ())]
    return {name: value for result in results for name, value in result['Metrics'].items()}
