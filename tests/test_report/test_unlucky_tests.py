"""A report never loses a finished test: ties, pictures that cannot be drawn, images that cannot be recorded."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

import mmdefmamba  # noqa: F401  before mmdet
from mmdefmamba.report import testing
from mmdefmamba.report.detection_cases import DetectionCases
from mmdefmamba.report.html_file import Parts
from mmdefmamba.report.metric import CaseMetric
from mmdefmamba.report.segmentation_cases import SegmentationCases


class Plain(CaseMetric):
    score_name, unscored = 'a number', 'they have none'

    def record(self, sample):
        if sample.get('broken'):
            raise KeyError('pred_label')
        self.note(sample, sample['score'], drawn=sample['sample_idx'])


def kept(records):
    return [record['drawn'] for record in records]


@pytest.mark.parametrize('count', [1, 3, 4, 5, 50])
def test_images_with_equal_scores_are_shown_once_and_can_be_drawn(count):
    metric = Plain([], keep=2)
    metric.process(None, [dict(sample_idx=index, score=0.0) for index in range(count)])
    metric.evaluate(count)
    assert kept(metric.lowest()) == [0, 1][:count]
    assert kept(metric.highest()) == list(range(count - 1, 1, -1))[:2]


def test_ties_beside_other_scores():
    metric = Plain([], keep=2)
    scores = [0.5, 0.5, 0.5, 0.9, 0.5, 0.5, 0.1, 0.5]
    metric.process(None, [dict(sample_idx=index, score=score) for index, score in enumerate(scores)])
    metric.evaluate(len(scores))
    assert kept(metric.lowest()) == [6, 0] and kept(metric.highest()) == [3, 7]


@pytest.mark.parametrize('score', [0.0, 1.0])
def test_the_image_that_a_distributed_sampler_repeats_is_not_missed(score):
    """MMEngine drops the last result of this process, which is the repeated image."""
    metric = Plain([], keep=2)
    others = [dict(sample_idx=index, score=0.5) for index in range(6)]
    metric.process(None, [*others, dict(sample_idx=9, score=score)])
    metric.evaluate(6)
    assert kept(metric.lowest()) == [0, 1] and kept(metric.highest()) == [5, 4]


def test_an_image_that_cannot_be_recorded_is_counted_and_named(told):
    metric = Plain([], keep=2)
    for index in range(5):
        metric.process(None, [dict(sample_idx=index, score=index, broken=index in (1, 3))])
    assert metric.evaluate(5) == {}
    assert kept(metric.records) == [0, 2, 4]
    assert metric.problems == ["2 of 5 images are not part of this page. First: KeyError: 'pred_label'"]
    assert ('WARNING', f'report: {metric.problems[0]}') in told


def test_a_part_that_fails_is_left_out_and_named(told):
    parts = Parts(['earlier'])
    assert parts.make('sum', 0, sum, [1, 2]) == 3
    assert parts.make('quotient', -1, lambda x: x / 0, 1) == -1
    assert parts.problems == ['earlier', 'quotient: ZeroDivisionError: division by zero']
    assert ('WARNING', 'report: quotient: ZeroDivisionError: division by zero') in told


@pytest.fixture
def pets(tmp_path):
    """Thirty images of a COCO dataset with one cat each."""
    from mmdet.datasets import CocoDataset

    init_default_scope('mmdet')
    images = [dict(id=i, file_name=f'{i}.png', height=20, width=30) for i in range(30)]
    cats = [dict(id=i + 1, image_id=i, category_id=5, bbox=[4, 4, 10, 8], area=80, iscrowd=0) for i in range(30)]
    for image in images:
        cv2.imwrite(str(tmp_path / image['file_name']), np.full((20, 30, 3), 90, np.uint8))
    path = tmp_path / 'pets.json'
    path.write_text(json.dumps(dict(images=images, annotations=cats, categories=[dict(id=5, name='cat')])))
    metainfo = dict(classes=('cat',), palette=[(255, 0, 0)])
    return CocoDataset(ann_file=str(path), data_prefix=dict(img=str(tmp_path)), metainfo=metainfo, test_mode=True)


def test_a_detector_that_finds_nothing(pets, tmp_path):
    """All images have the score 0: the report crashed on this, after the test."""
    metric = DetectionCases(pets, keep=6)
    metric.dataset_meta = pets.metainfo
    nothing = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))
    for index in range(30):
        metric.process(None, [dict(img_path=pets.get_data_info(index)['img_path'], pred_instances=nothing)])
    metric.evaluate(30)
    (tmp_path / '2.png').unlink()  # one of the images that are shown has gone meanwhile
    worst, best = metric.galleries()
    assert [case.title for case in worst.cases] == [f'{i}.png' for i in range(6)]
    assert [case.title for case in best.cases] == [f'{i}.png' for i in range(29, 23, -1)]
    lost = worst.cases.pop(2)
    assert lost.pictures == [] and lost.text.startswith('cannot be drawn: FileNotFoundError') and '2.png' in lost.text
    assert all(len(case.pictures) == 2 for case in (*worst.cases, *best.cases))
    assert {case.text for case in worst.cases} == {
        'score 0.00; true positives: 0, false positives: 0, false negatives: 1'
    }


def test_maps_of_one_row_are_drawn(tmp_path):
    init_default_scope('mmseg')
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((1, 4, 3), np.uint8))
    info = {'img_path': str(tmp_path / 'a.png')}
    dataset = type('One', (), dict(get_data_info=lambda self, index: dict(info), __len__=lambda self: 1))()
    metric = SegmentationCases(dataset)
    metric.dataset_meta = dict(classes=('a', 'b'), palette=[[0, 0, 0], [255, 0, 0]])
    label = torch.tensor([[[0, 1, 1, 1]]])
    metric.process(None, [dict(info, pred_sem_seg=dict(data=label), gt_sem_seg=dict(data=label))])
    metric.evaluate(1)
    assert metric.problems == []
    assert [len(case.pictures) for case in metric.galleries()[0].cases] == [3]


def test_what_fails_after_the_test_is_named_in_the_page(tmp_path, monkeypatch, run_test_tool, pico_checkpoints):
    for name in ('scan_galleries', 'speed_facts', 'environment_facts', 'paper_rows'):
        monkeypatch.setattr(testing, name, lambda *args, name=name: 1 / 0)
    for name in ('matrix', 'tables', 'galleries', 'class_scores'):
        monkeypatch.setattr('mmdefmamba.report.classification_cases.ClassificationCases.' + name, lambda *args: 1 / 0)
    name, checkpoint = pico_checkpoints['classification']
    options = ['--cfg-options', 'test_dataloader.dataset.indices=3', 'test_dataloader.batch_size=3']
    config = Path(__file__).parents[2] / f'configs/classification/{name}.py'
    run_test_tool(config, checkpoint, '--work-dir', tmp_path / 'work', '--report', tmp_path, *options)
    text = (tmp_path / 'test.html').read_text()
    assert text.count('ZeroDivisionError: division by zero') == 8
    assert 'accuracy/top1' in text and text.rstrip().endswith('</html>')
