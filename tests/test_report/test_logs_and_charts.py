"""Logs are joined to one curve, and charts place the points correctly."""

import json
import math

import pytest

from mmdefmamba.paper.tables import PAPER, ROOT
from mmdefmamba.report import read_scalars
from mmdefmamba.report.chart import HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart, ticks
from mmdefmamba.report.scores import headlines, paper_rows
from mmdefmamba.report.testing import _text as shown
from mmdefmamba.report.training import curves, score_rows


@pytest.fixture
def write_log(tmp_path):
    def write(start, lines):
        path = tmp_path / start / 'vis_data/scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text('\n'.join(map(json.dumps, lines)))
        return path

    return write


def train(step, epoch=None, **values):
    line = {'lr': 0.1, 'loss': 1 / step, 'iter': step, 'step': step, **values}
    return line if epoch is None else dict(line, epoch=epoch)


def val(step, score=0.5):
    return {'accuracy/top1': score, 'time': 1.0, 'data_time': 0.1, 'step': step}


def test_a_resumed_run_replaces_what_it_trained_again(write_log, tmp_path):
    write_log('20260101_000000', [train(2, 1), train(4, 1), val(1), train(6, 2), train(8, 2), val(2), train(10, 3)])
    write_log('20260101_000001', [train(6, 2, loss=7.0), train(8, 2), val(2, 0.9), train(10, 3), val(3, 0.8)])
    training, validation = read_scalars(tmp_path)
    assert [line['step'] for line in training] == [2, 4, 6, 8, 10]
    assert [line['loss'] for line in training] == [1 / 2, 1 / 4, 7.0, 1 / 8, 1 / 10]
    assert [(line['step'], line['accuracy/top1']) for line in validation] == [(1, 0.5), (2, 0.9), (3, 0.8)]
    assert score_rows(validation, 'epoch') == [('accuracy/top1', '0.8', '0.9', 'epoch 2')]


def test_a_resumed_run_by_iterations(write_log, tmp_path):
    write_log('1', [train(10), train(20), val(20), train(30), val(30)])
    write_log('2', [train(30, loss=7.0), val(30, 0.7), train(40)])
    training, validation = read_scalars(tmp_path)
    assert [line['step'] for line in training] == [10, 20, 30, 40]
    assert [(line['step'], line['accuracy/top1']) for line in validation] == [(20, 0.5), (30, 0.7)]


def test_a_run_from_the_start_replaces_everything(write_log, tmp_path):
    write_log('1', [train(step, 1) for step in range(1, 10)] + [val(1)])
    write_log('2', [train(5, 1, loss=7.0), train(10, 1)])
    training, validation = read_scalars(tmp_path)
    assert [line['step'] for line in training] == [5, 10]
    assert validation == []


def test_incomplete_last_line_is_ignored_and_other_broken_lines_are_errors(write_log, tmp_path):
    path = write_log('1', [train(1), train(2)])
    whole = path.read_text()
    path.write_text(whole + '\n{"lr": 0.1, "lo')
    assert len(read_scalars(tmp_path)[0]) == 2
    path.write_text('{"lr": 0.1, "lo\n' + whole)
    with pytest.raises(ValueError, match=r'scalars\.json, line 1 is not JSON: \'{"lr": 0\.1, "lo\''):
        read_scalars(tmp_path)


def test_empty_log_gives_no_curves(tmp_path):
    assert read_scalars(tmp_path) == ([], [])
    assert curves([], []) == []


def test_curves_show_loss_its_parts_scores_and_rate(write_log, tmp_path):
    write_log('1', [train(1, 1, loss_cls=1.0, loss_box=2.0), train(2, 1, loss_cls=0.5), val(1)])
    charts = curves(*read_scalars(tmp_path))
    assert [chart.title for chart in charts] == [
        'Loss',
        'Parts of the loss',
        'Scores on the validation data',
        'Learning rate',
    ]
    assert [line[0] for line in charts[1].lines] == ['loss_cls', 'loss_box']
    assert charts[2].x_label == 'epoch'


@pytest.mark.parametrize(
    ('low', 'high', 'expected'),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.13, 0.97, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (20, 138, [0, 50, 100, 150]),
        (-3, 3, [-4, -2, 0, 2, 4]),
        (0, 0, [0, 0.2]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_ticks_enclose_a_constant():
    (first, *_, last) = ticks(2.5, 2.5)
    assert first <= 2.5 <= last
    assert first < last


def test_chart_places_points_and_reports_values_that_are_not_finite():
    chart = line_chart('Loss', 'iteration', {'loss': [(0, 0.0), (5, 1.0), (6, math.nan), (8, 0.5), (10, 0.0)]})
    ((name, path, marks),) = chart.lines
    assert name == 'loss'
    bottom = {text: y for y, text in chart.y_ticks}['0']
    assert marks == [(LEFT, bottom), (350.0 - 8.0, TOP), (LEFT + 0.8 * (WIDTH - LEFT - RIGHT), 118.0), (628, bottom)]
    assert path.count('M') == 2  # the line is interrupted
    assert bottom < HEIGHT
    assert chart.note == 'loss is not finite 1 times, first at iteration 6'
    assert chart.x_ticks[0] == (LEFT, '0')
    assert chart.x_ticks[-1] == (WIDTH - RIGHT, '10')


def test_a_single_point_and_its_step_are_in_the_middle_of_a_chart():
    chart = line_chart('Scores', 'epoch', {'mAP': [(4, 0.525)]})
    ((_, _, marks),) = chart.lines
    assert marks[0][0] == chart.x_ticks[0][0] == LEFT + (WIDTH - LEFT - RIGHT) / 2
    assert chart.x_ticks == [(chart.x_ticks[0][0], '4')]


def test_series_without_finite_values_gives_no_chart():
    assert line_chart('Loss', 'iteration', {'loss': [(1, math.inf)]}) is None


def test_minus_one_is_never_shown_as_a_score():
    """COCO's evaluation gives -1 where there is nothing to evaluate."""
    assert headlines({'coco/bbox_mAP': -1.0, 'coco/segm_mAP': 0.5, 'mIoU': math.nan}) == [
        ('box mAP', '-'),
        ('mask mAP', '50.00 %'),
        ('mIoU', '-'),
    ]
    assert [shown(value) for value in (-1, -1.0, math.nan, 0.25, 0, 'text')] == ['-', '-', '-', '0.25', '0', 'text']
    lines = [{'step': 1, 'coco/bbox_mAP': -1.0}, {'step': 2, 'coco/bbox_mAP': 0.25}, {'step': 3, 'coco/bbox_mAP': -1.0}]
    assert score_rows(lines, 'epoch') == [('coco/bbox_mAP', '-', '0.25', 'epoch 2')]
    assert score_rows(lines[:1], 'epoch') == [('coco/bbox_mAP', '-', '-', '-')]
    (chart,) = curves([], lines)
    assert [len(marks) for _, _, marks in chart.lines] == [1]
    assert curves([], lines[:1]) == []
    row = next(row for row in PAPER if row.table == '2')
    (compared,) = paper_rows(ROOT / row.config, {'coco/bbox_mAP': -1.0, 'coco/segm_mAP': 0.4}, tta=False)
    assert [score[2] for score in compared.scores if score[0] in ('box AP', 'mask AP')] == ['-', '40.0']
