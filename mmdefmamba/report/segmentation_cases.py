"""Segmentation: scores per class, and images ranked by mIoU."""

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample

from ..visualization.data_samples import build_visualizer, draw_truth_and_prediction
from .case_images import data_uri, load_image, shrink
from .classification_cases import percent
from .metric import Case, CaseMetric, Table, image_name


class SegmentationCases(CaseMetric):
    """Records intersection and union of each class in each image.

    The score of an image is its mIoU. An image of one class, with all pixels predicted correctly, has no score, because
    it shows nothing of interest.
    """

    score_name = 'mIoU over the classes in its label map or its prediction'
    unscored = 'they have one class only, and all pixels were predicted correctly'
    ignore_index = 255

    def watch(self, evaluator):
        super().watch(evaluator)
        for metric in evaluator.metrics:
            if isinstance(metric, IoUMetric):
                self.ignore_index = metric.ignore_index

    def record(self, sample):
        num_classes = len(self.dataset_meta['classes'])
        predicted = sample['pred_sem_seg']['data'][0]
        truth = sample['gt_sem_seg']['data'][0].to(predicted)
        areas = IoUMetric.intersect_and_union(predicted, truth, num_classes, self.ignore_index)
        areas = np.stack([area.numpy() for area in areas]).astype(np.int64)
        intersection, union = areas[:2]
        present = union > 0
        score = float((intersection[present] / union[present]).mean()) if present.sum() > 1 else None
        drawn = dict(truth=truth.cpu().numpy(), predicted=predicted.cpu().numpy())
        self.note(sample, score, drawn, areas=areas)

    def tables(self, metrics):
        return [class_table(self.records, self.dataset_meta['classes'])]

    def case_drawer(self, records):
        infos, names, palette = self.infos(records), self.dataset_meta['classes'], self.dataset_meta['palette']
        visualizer = build_visualizer('mmseg.SegLocalVisualizer', 'report', self.dataset_meta, alpha=0.6)

        def draw(record):
            maps = {name: PixelData(data=torch.from_numpy(map_)[None]) for name, map_ in record['drawn'].items()}
            sample = SegDataSample(gt_sem_seg=maps['truth'], pred_sem_seg=maps['predicted'])
            image = load_image(self.dataset, infos[record['key']])
            # class names are in the legend, because mmseg takes seconds to write them on an image of a million pixels
            truth, prediction = draw_truth_and_prediction(visualizer, image, sample, with_labels=False)
            pictures = [('image', image), ('ground truth', truth), ('prediction', prediction)]
            pictures = [(caption, data_uri(shrink(picture))) for caption, picture in pictures]
            legend = [(f'rgb{tuple(palette[label])}', names[label]) for label in np.flatnonzero(record['areas'][1])]
            return Case(image_name(record['key']), f'mIoU {100 * record["score"]:.1f} %', pictures, legend)

        return draw


def class_table(records, names):
    """Return a table with one row per class: share of the pixels, IoU, recall, precision."""
    areas = sum((record['areas'] for record in records), np.zeros((4, len(names)), dtype=np.int64))
    pixels = areas[3].sum()
    rows = [
        (name, percent(truth, pixels), percent(both, either), percent(both, truth), percent(both, predicted))
        for name, (both, either, predicted, truth) in zip(names, areas.T.tolist(), strict=True)
    ]
    header = ('class', 'share of pixels, %', 'IoU, %', 'recall, %', 'precision, %')
    return Table('By class', header, rows)
