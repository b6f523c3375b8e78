"""Detection: scores per class, and images ranked by how well their boxes match the objects."""

import numpy as np
import torch
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.evaluation import CocoMetric
from mmdet.structures.bbox import bbox_overlaps
from mmdet.structures.mask import encode_mask_results
from mmengine.structures import InstanceData
from pycocotools import mask as coco_masks

from ..visualization.data_samples import build_visualizer, draw_truth_and_prediction
from ..visualization.enlarge import enlarge_image, enlarge_sample, zoom_for
from .case_images import data_uri, load_image, shrink
from .classification_cases import percent
from .metric import Case, CaseMetric, Table, image_key, image_name
from .scores import is_score

SCORE_THRESHOLD = 0.3  # mmdet's visualizer draws boxes from this score on
IOU_THRESHOLD = 0.5
TITLES = ('ground truth', 'prediction')


class DetectionCases(CaseMetric):
    """Records how the boxes of each image match its objects.

    The score of an image is the panoptic quality of its boxes. Boxes with a score of 0.3 or more are matched with
    objects of their class at an IoU of 0.5 or more. The quality is the sum of the IoUs of the matches, divided by the
    number of matches plus half the number of unmatched boxes and objects. An image without boxes and objects has no
    score. The objects are read from the dataset's annotations, because the pipelines of test-time augmentation do not
    load annotations.

    Source of panoptic quality: Kirillov et al., Panoptic Segmentation (2019).
    """

    case_width = '36rem'  # the names and scores at the boxes are to be read
    score_name = f'panoptic quality of the boxes with a score of {SCORE_THRESHOLD} or more'
    unscored = 'they contain no objects, and no boxes were predicted'

    def __init__(self, dataset, keep=6):
        super().__init__(dataset, keep)
        self._objects = {}

    def record(self, sample):
        found = sample['pred_instances']
        sure = found['scores'] >= SCORE_THRESHOLD
        boxes, scores, labels = (found[name][sure].cpu() for name in ('bboxes', 'scores', 'labels'))
        objects = self._objects_of(sample)
        counts, quality = match_boxes(boxes, scores, labels, *objects, len(self.dataset_meta['classes']))
        drawn = dict(bboxes=boxes, scores=scores, labels=labels)
        if 'masks' in found:
            masks = found['masks']
            if isinstance(masks, torch.Tensor):
                masks = encode_mask_results(masks[sure].cpu().numpy())
            else:
                masks = [mask for mask, is_sure in zip(masks, sure.tolist(), strict=True) if is_sure]
            drawn['masks'] = masks
        self.note(sample, quality, drawn, counts=counts)

    def watch(self, evaluator):
        super().watch(evaluator)
        for metric in evaluator.metrics:
            if isinstance(metric, CocoMetric):
                metric.classwise = True

    def class_scores(self, metrics):
        return set(class_precisions(metrics, self.dataset_meta['classes']))

    def tables(self, metrics):
        names = self.dataset_meta['classes']
        precisions = {name: metrics[key] for key, name in class_precisions(metrics, names).items()}
        return [class_table(self.records, names, precisions)]

    def case_drawer(self, records):
        infos = self.infos(records)
        visualizer = build_visualizer('mmdet.DetLocalVisualizer', 'report', self.dataset_meta, alpha=0.5)

        def draw(record):
            matched, extra, missed = record['counts'].sum(0).tolist()
            counts = f'true positives: {matched}, false positives: {extra}, false negatives: {missed}'
            text = f'score {record["score"]:.2f}; {counts}'
            image, sample = truth_of(load_image(self.dataset, infos[record['key']]), infos[record['key']])
            sample.pred_instances = _instances(record['drawn'])
            zoom = zoom_for(*image.shape[:2])
            enlarge_sample(sample, zoom)
            drawn = draw_truth_and_prediction(visualizer, enlarge_image(image, zoom), sample)
            pictures = [(name, data_uri(shrink(picture))) for name, picture in zip(TITLES, drawn, strict=True)]
            return Case(image_name(record['key']), text, pictures)

        return draw

    def _objects_of(self, sample):
        name, value = image_key(sample)
        if name not in self._objects:
            self._objects[name] = {}
            for index in range(len(self.dataset)):
                info = self.dataset.get_data_info(index)
                self._objects[name][info[name]] = _boxes(info.get('instances', ()))
        return self._objects[name][value]


def truth_of(image, info):
    """Return the image of a dataset entry, and a DetDataSample with its objects, both at the original size."""
    has_masks = all('mask' in instance for instance in info['instances'])
    results = dict(info, img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
    results = LoadAnnotations(with_bbox=True, with_mask=has_masks, box_type=None)(results)
    return image, PackDetInputs(meta_keys=())(results)['data_samples']


def _instances(drawn):
    found = InstanceData(**{name: drawn[name] for name in ('bboxes', 'scores', 'labels')})
    if 'masks' in drawn:
        masks = [torch.from_numpy(coco_masks.decode(mask)).bool() for mask in drawn['masks']]
        found.masks = torch.stack(masks) if masks else torch.zeros(0, 1, 1, dtype=torch.bool)
    return found


def class_precisions(metrics, names):
    """Return the keys of CocoMetric's average precision per class in the metrics of a test: ``{key: class name}``."""
    keys = {f'{name}_precision': name for name in names}
    unprefixed = {key: key.partition('/')[2] for key in metrics}  # 'coco/cat_precision' -> 'cat_precision'
    return {key: keys[name] for key, name in unprefixed.items() if name in keys}


def _boxes(instances):
    boxes = torch.tensor([instance['bbox'] for instance in instances], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([instance['bbox_label'] for instance in instances], dtype=torch.int64)
    ignored = torch.tensor([bool(instance.get('ignore_flag', 0)) for instance in instances], dtype=torch.bool)
    return boxes, labels, ignored


def match_boxes(boxes, scores, labels, object_boxes, object_labels, ignored, num_classes):
    """Match boxes with objects, in the order of their scores, highest first.

    Args:
        boxes, object_boxes: (n, 4) and (m, 4), x1, y1, x2, y2 in pixels.
        scores: (n,).
        labels, object_labels: (n,) and (m,) int64.
        ignored: (m,) bool, crowds: they need not be detected, and a box with at least half of its area in a crowd of
            its class is not counted.
        num_classes: number of classes of the dataset.

    Returns:
        (num_classes, 3) int64, per class: matches, unmatched boxes, unmatched objects; and the panoptic quality, None
        if there are neither boxes nor objects.
    """
    counts = np.zeros((num_classes, 3), dtype=np.int64)
    crowds, crowd_labels = object_boxes[ignored], object_labels[ignored]
    object_boxes, object_labels = object_boxes[~ignored], object_labels[~ignored]
    ious = bbox_overlaps(boxes, object_boxes) * (labels[:, None] == object_labels)
    in_crowd = (bbox_overlaps(boxes, crowds, mode='iof') * (labels[:, None] == crowd_labels) >= IOU_THRESHOLD).any(1)
    free = torch.ones(len(object_boxes), dtype=torch.bool)
    total = 0.0
    for index in scores.argsort(descending=True).tolist():
        label = int(labels[index])
        candidates = ious[index] * free
        best = int(candidates.argmax()) if len(candidates) else -1
        if best >= 0 and candidates[best] >= IOU_THRESHOLD:
            free[best] = False
            total += float(candidates[best])
            counts[label, 0] += 1
        elif not in_crowd[index]:
            counts[label, 1] += 1
    for label in object_labels[free].tolist():
        counts[label, 2] += 1
    matched, extra, missed = counts.sum(0)
    whole = matched + (extra + missed) / 2
    return counts, total / whole if whole else None


def class_table(records, names, precisions):
    """Return a table with one row per class: objects, AP, recall, precision.

    Args:
        records: the records of :class:`DetectionCases`.
        names: names of the classes.
        precisions: dict of class name to average precision, from 0 to 1; classes may be missing.
    """
    counts = sum((record['counts'] for record in records), np.zeros((len(names), 3), dtype=np.int64))
    rows = []
    for name, (matched, extra, missed) in zip(names, counts.tolist(), strict=True):
        ap = precisions.get(name)
        ap = f'{100 * ap:.1f}' if is_score(ap) else '-'
        rows.append((name, matched + missed, ap, percent(matched, matched + missed), percent(matched, matched + extra)))
    note = (
        f'Recall and precision: boxes with a score of {SCORE_THRESHOLD} or more, matched at an IoU of {IOU_THRESHOLD} '
        "or more. AP: from CocoMetric, of masks if it evaluates masks, else of boxes; '-' if it gives no AP."
    )
    return Table('By class', ('class', 'objects', 'AP, %', 'recall, %', 'precision, %'), rows, note)
