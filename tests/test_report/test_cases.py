"""The tables and pictures of a report show the predictions correctly."""

import base64
import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import mmdefmamba  # noqa: F401  before mmdet and mmseg
from mmdefmamba.report.case_images import data_uri, shrink
from mmdefmamba.report.classification_cases import ClassificationCases, confusion_matrix
from mmdefmamba.report.detection_cases import DetectionCases, match_boxes
from mmdefmamba.report.metric import CaseMetric, find_images, image_key
from mmdefmamba.report.segmentation_cases import SegmentationCases
from mmdefmamba.visualization.data_samples import build_visualizer, draw_truth
from mmdefmamba.visualization.enlarge import zoom_for


def decode(source):
    """The RGB image of a data URI."""
    data = np.frombuffer(base64.b64decode(source.partition(',')[2]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


class Images:
    """A dataset with the given entries."""

    def __init__(self, infos, **metainfo):
        self.infos, self.metainfo = infos, metainfo

    def __len__(self):
        return len(self.infos)

    def get_data_info(self, index):
        return dict(self.infos[index])


class Plain(CaseMetric):
    """A metric that records only what a test passes to ``note``."""

    def record(self, sample):
        raise AssertionError


def test_only_the_best_and_worst_images_keep_their_predictions():
    metric = Plain(Images([]), keep=2)
    scores = [0.5, 0.9, None, 0.1, 0.7, 0.3, 0.8, 0.6]
    for index, score in enumerate(scores):
        metric.note({'sample_idx': index}, score, drawn=f'picture {index}')
    assert metric.evaluate(len(scores)) == {}
    assert [record['score'] for record in metric.records] == scores
    kept = [record['key'][1] for record in metric.records if record['drawn']]
    assert kept == [0, 1, 3, 4, 5, 6]  # one more of each than are shown
    assert [record['score'] for record in metric.lowest()] == [0.1, 0.3]
    assert [record['score'] for record in metric.highest()] == [0.9, 0.8]


def test_few_images_are_shown_once():
    metric = Plain(Images([]), keep=2)
    for index in range(3):
        metric.note({'sample_idx': index}, index / 4, drawn=index)
    metric.evaluate(3)
    assert [record['drawn'] for record in (*metric.lowest(), *metric.highest())] == [0, 1, 2]


def test_images_are_found_by_the_first_field_of_the_sample():
    assert image_key({'img_id': 3, 'img_path': None}) == ('img_id', 3)
    assert image_key({'img_id': 3, 'img_path': 'a.png'}) == ('img_path', 'a.png')
    with pytest.raises(ValueError, match=r"needs one of img_path, img_id, sample_idx .* got \['ori_shape'\]: add one"):
        image_key({'ori_shape': (1, 1)})
    images = Images([{'img_path': name} for name in ('a', 'b', 'a')])
    assert find_images(images, [('img_path', 'b'), ('img_path', 'a')]) == {('img_path', 'a'): 0, ('img_path', 'b'): 1}


def classify(metric, truth, scores):
    for index, (label, score) in enumerate(zip(truth, scores, strict=True)):
        score = torch.tensor(score)
        sample = dict(
            sample_idx=index, gt_label=torch.tensor([label]), pred_score=score, pred_label=score.argmax(0, keepdim=True)
        )
        metric.process(None, [sample])
    metric.evaluate(len(truth))


def test_classification_counts_and_ranks():
    image = np.full((4, 6, 3), 200, np.uint8)
    metric = ClassificationCases(Images([{'img': image, 'sample_idx': i} for i in range(4)]), keep=1)
    metric.dataset_meta = dict(classes=('cat', '<script>'))
    classify(metric, [0, 0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
    assert metric.matrix().tolist() == [[1, 1], [1, 1]]
    classes, confused = metric.tables({})
    assert classes.rows == [('cat', 2, '50.0', '50.0', '<script> (1)'), ('<script>', 2, '50.0', '50.0', 'cat (1)')]
    assert confused.rows == [('cat', '<script>', 1), ('<script>', 'cat', 1)]
    wrong, right = metric.galleries()
    assert [(case.title, case.text) for case in wrong.cases] == [('prediction <script>, label cat', '80.0 %')]
    assert [(case.title, case.text) for case in right.cases] == [('cat', '90.0 %')]
    ((caption, source),) = right.cases[0].pictures
    assert (caption, source) == ('sample_idx 0', data_uri(image))


def test_classification_without_errors_is_reported_and_two_labels_are_refused():
    metric = ClassificationCases(Images([{'img': np.zeros((2, 2, 3), np.uint8), 'sample_idx': 0}]))
    metric.dataset_meta = dict(classes=('a', 'b'))
    classify(metric, [1], [[0.25, 0.75]])
    wrong, _ = metric.galleries()
    assert (wrong.note, wrong.cases) == ('Every image was classified correctly.', [])
    assert metric.tables({})[1].rows == []
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match='needs one label per image, got 2 labels, 2 predictions'):
        metric.record(dict(gt_label=labels, pred_label=labels, pred_score=torch.ones(2)))


def test_confusion_matrix_has_rows_for_absent_classes():
    assert confusion_matrix([dict(truth=0, predicted=2)], 3).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def boxes(*corners):
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)


def test_boxes_match_by_class_overlap_and_score():
    objects = boxes((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10))
    found = boxes((0, 0, 10, 8), (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 4))
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    labels, object_labels = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1])
    none = torch.zeros(3, dtype=torch.bool)
    counts, quality = match_boxes(found, scores, labels, objects, object_labels, none, 2)
    # the box with score 0.9 matches the first object at IoU 0.8; unmatched: its twin, a wrong class, an IoU of 0.4
    assert counts.tolist() == [[1, 1, 1], [0, 2, 1]]
    assert quality == pytest.approx(0.8 / (1 + 3 / 2 + 2 / 2))


def test_boxes_in_a_crowd_are_not_counted_and_an_empty_image_has_no_score():
    found, crowd = boxes((0, 0, 4, 4), (0, 0, 4, 4)), boxes((0, 0, 100, 100))
    labels = torch.tensor([0, 1])
    counts, quality = match_boxes(
        found, torch.ones(2), labels, crowd, torch.tensor([0]), torch.ones(1, dtype=torch.bool), 2
    )
    assert counts.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert quality == 0
    counts, quality = match_boxes(
        boxes(), torch.ones(0), labels[:0], boxes(), labels[:0], torch.zeros(0, dtype=torch.bool), 2
    )
    assert quality is None


@pytest.fixture
def pets(tmp_path):
    """A COCO dataset: two images with one cat each, and one image without objects."""
    from mmdet.datasets import CocoDataset

    init_default_scope('mmdet')
    images = [dict(id=i, file_name=f'{i}.png', height=20, width=30) for i in range(3)]
    corners = [4, 4, 14, 4, 14, 12, 4, 12]
    cats = [
        dict(id=i, image_id=i, category_id=5, bbox=[4, 4, 10, 8], area=80, iscrowd=0, segmentation=[corners])
        for i in range(2)
    ]
    for image in images:
        cv2.imwrite(str(tmp_path / image['file_name']), np.full((20, 30, 3), 90, np.uint8))
    path = tmp_path / 'pets.json'
    path.write_text(json.dumps(dict(images=images, annotations=cats, categories=[dict(id=5, name='cat')])))
    metainfo = dict(classes=('cat',), palette=[(255, 0, 0)])
    return CocoDataset(ann_file=str(path), data_prefix=dict(img=str(tmp_path)), metainfo=metainfo, test_mode=True)


def test_detection_ranks_images_and_draws_truth_and_prediction(pets):
    metric = DetectionCases(pets, keep=1)
    metric.dataset_meta = pets.metainfo
    mask = torch.zeros(1, 20, 30, dtype=torch.bool)
    mask[:, 4:12, 4:14] = True
    for index, corners in enumerate([(4, 4, 14, 12), (20, 10, 29, 19), None]):
        count = 0 if corners is None else 1
        found = dict(
            bboxes=boxes(*([corners] if count else [])),
            scores=torch.full((count,), 0.9),
            labels=torch.zeros(count, dtype=torch.int64),
            masks=mask[:count],
        )
        metric.process(None, [dict(img_path=pets.get_data_info(index)['img_path'], pred_instances=found)])
    metric.evaluate(3)
    assert [record['score'] for record in metric.records] == [1.0, 0.0, None]
    (table,) = metric.tables({'coco/cat_precision': 0.505, 'coco/bbox_mAP': 0.4})
    assert table.header == ('class', 'objects', 'AP, %', 'recall, %', 'precision, %')
    assert table.rows == [('cat', 2, '50.5', '50.0', '50.0')]
    worst, best = metric.galleries()
    assert '1 images have no score' in worst.note
    assert [(case.title, case.text) for case in (*worst.cases, *best.cases)] == [
        ('1.png', 'score 0.00; true positives: 0, false positives: 1, false negatives: 1'),
        ('0.png', 'score 1.00; true positives: 1, false positives: 0, false negatives: 0'),
    ]
    assert [caption for caption, _ in best.cases[0].pictures] == ['ground truth', 'prediction']
    truth, prediction = (decode(source) for _, source in worst.cases[0].pictures)
    height, width = truth.shape[:2]
    zoom = zoom_for(20, 30)
    assert (height, width) == (20 * zoom, 30 * zoom)
    # the mask colours the place of the cat, which is to the left of the false box
    assert np.abs(truth[8 * zoom, 9 * zoom].astype(int) - 90).max() > 20
    assert np.abs(truth.astype(int) - prediction).max() > 100


def test_segmentation_scores_images_and_classes(tmp_path):
    init_default_scope('mmseg')
    infos = [{'img_path': str(tmp_path / f'{i}.png')} for i in range(2)]
    for info in infos:
        cv2.imwrite(info['img_path'], np.zeros((2, 4, 3), np.uint8))
    metric = SegmentationCases(Images(infos), keep=1)
    metric.dataset_meta = dict(classes=('ground', 'cat', 'dog'), palette=[[0, 0, 0], [255, 0, 0], [0, 255, 0]])
    truth = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 255]])
    ground = torch.zeros_like(truth)
    for info, predicted in zip(infos, (truth.clamp(max=1), ground), strict=True):
        metric.process(None, [dict(info, pred_sem_seg=dict(data=predicted[None]), gt_sem_seg=dict(data=truth[None]))])
    metric.evaluate(2)
    assert [record['score'] for record in metric.records] == pytest.approx([1.0, (4 / 7 + 0) / 2])
    (table,) = metric.tables({})
    assert table.header == ('class', 'share of pixels, %', 'IoU, %', 'recall, %', 'precision, %')
    assert table.rows == [
        ('ground', '57.1', f'{100 * 8 / 11:.1f}', '100.0', '72.7'),
        ('cat', '42.9', '50.0', '50.0', '100.0'),
        ('dog', '0.0', '-', '-', '-'),
    ]
    worst, _ = metric.galleries()
    assert worst.cases[0].text == 'mIoU 28.6 %'
    image, truth, prediction = (decode(source) for _, source in worst.cases[0].pictures)
    assert image.shape == (2, 4, 3)
    assert (truth[0, 2:, 0] > 100).all()
    assert not prediction.any()
    assert worst.cases[0].legend == [('rgb(0, 0, 0)', 'ground'), ('rgb(255, 0, 0)', 'cat')]


def test_names_at_boxes_can_be_read_in_pictures_of_any_size(monkeypatch):
    from mmdet.structures import DetDataSample

    visualizer = build_visualizer('mmdet.DetLocalVisualizer', 'names', dict(classes=('cat',), palette=[(255, 0, 0)]))
    written = []
    monkeypatch.setattr(visualizer.ax_save, 'text', lambda x, y, text, size, **options: written.append((text, size)))
    for height, width in ((480, 640), (1200, 800)):
        sample = DetDataSample(gt_instances=InstanceData(bboxes=boxes((9, 9, 40, 50)), labels=torch.tensor([0])))
        draw_truth(visualizer, np.zeros((height, width, 3), np.uint8), sample)
        text, points = written.pop()
        assert (text, written) == ('cat', [])
        assert points / 72 * visualizer.fig_save.dpi == pytest.approx(0.025 * max(height, width))


def test_pictures_keep_their_pixels_and_large_ones_are_shrunk():
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(decode(data_uri(image)), image)
    assert shrink(np.zeros((1000, 3, 3), np.uint8), 500).shape == (500, 2, 3)
    assert data_uri(np.zeros((100, 3, 3), np.uint8)).startswith('data:image/webp;base64,')
    colour = np.full((100, 100, 3), (10, 120, 250), np.uint8)
    assert np.abs(decode(data_uri(colour)).astype(int) - colour).max() <= 4
