"""Classification: the confusion matrix, scores per class, and the images with the most confident predictions."""

import numpy as np

from .case_images import data_uri, load_image, shrink
from .metric import Case, CaseMetric, Table, image_name

# A confusion matrix of more classes is not shown; the most frequent confusions are listed in any case.
MATRIX_CLASSES = 20
CONFUSIONS = 15
PICTURE_SIDE = 320


class ClassificationCases(CaseMetric):
    """Records label, prediction and confidence. The confidence is the score of an image."""

    score_name = 'confidence'
    case_width = '9rem'

    def record(self, sample):
        truth, predicted = sample['gt_label'], sample['pred_label']
        if truth.numel() != 1 or predicted.numel() != 1:
            raise ValueError(
                f'--report needs one label per image, got {truth.numel()} labels, {predicted.numel()} predictions'
            )
        score = float(sample['pred_score'].max())
        self.note(sample, score, truth=int(truth), predicted=int(predicted))

    def matrix(self):
        names = self.dataset_meta['classes']
        return confusion_matrix(self.records, len(names)) if len(names) <= MATRIX_CLASSES else None

    def tables(self, metrics):
        names = self.dataset_meta['classes']
        matrix = confusion_matrix(self.records, len(names))
        return [class_table(matrix, names), confusions(matrix, names)]

    def groups(self):
        wrong = self.most_confident(correct=False)
        note = '' if wrong else 'Every image was classified correctly.'
        return [
            ('Wrong predictions with the highest confidence', note, wrong),
            ('Correct predictions with the highest confidence', '', self.most_confident(correct=True)),
        ]

    def most_confident(self, correct):
        """Return the ``keep`` correct (or wrong) records with the highest confidence, highest first."""
        chosen = [record for record in self.records if (record['truth'] == record['predicted']) == correct]
        return sorted(chosen, key=lambda record: -record['score'])[: self.keep]

    def case_drawer(self, records):
        infos, names = self.infos(records), self.dataset_meta['classes']

        def draw(record):
            truth, predicted = names[record['truth']], names[record['predicted']]
            title = predicted if truth == predicted else f'prediction {predicted}, label {truth}'
            picture = data_uri(shrink(load_image(self.dataset, infos[record['key']]), PICTURE_SIDE))
            return Case(title, f'{100 * record["score"]:.1f} %', [(image_name(record['key']), picture)])

        return draw


def confusion_matrix(records, num_classes):
    """Count images by (label, prediction), (num_classes, num_classes) int64."""
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    for record in records:
        matrix[record['truth'], record['predicted']] += 1
    return matrix


def class_table(matrix, names):
    """Return a table with one row per class: images, recall, precision, and the most frequent wrong prediction."""
    rows = []
    for index, name in enumerate(names):
        images, correct = matrix[index].sum(), matrix[index, index]
        others = matrix[index].copy()
        others[index] = 0
        confused = f'{names[others.argmax()]} ({others.max()})' if others.any() else ''
        rows.append((name, int(images), percent(correct, images), percent(correct, matrix[:, index].sum()), confused))
    header = ('class', 'images', 'recall, %', 'precision, %', 'most often confused with (images)')
    return Table('By class', header, rows)


def confusions(matrix, names):
    """Return a table of the most frequent confusions, with one row per pair of classes."""
    off = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-off, axis=None, kind='stable')[:CONFUSIONS]
    pairs = [(*np.unravel_index(place, off.shape), off.flat[place]) for place in order if off.flat[place]]
    rows = [(names[i], names[j], int(count)) for i, j, count in pairs]
    return Table('Most frequent confusions', ('label', 'prediction', 'images'), rows)


def percent(part, whole):
    """Format a share in percent; '-' if ``whole`` is 0."""
    return f'{100 * part / whole:.1f}' if whole else '-'
