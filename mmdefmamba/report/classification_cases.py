"""Classification: the confusion matrix, classes, and the images of which the network was most sure."""

import numpy as np

from .case_images import data_uri, load_image, shrink
from .metric import Case, CaseMetric, Table, image_name

# A larger matrix is not readable as one; then its largest entries are listed.
MATRIX_CLASSES = 20
CONFUSIONS = 15
PICTURE_SIDE = 320


class ClassificationCases(CaseMetric):
    """Notes label, prediction and confidence, the score of an image being the probability of what was predicted."""

    score_name = 'confidence'
    case_width = '9rem'

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            truth, predicted = sample['gt_label'], sample['pred_label']
            if truth.numel() != 1 or predicted.numel() != 1:
                raise ValueError(
                    f'--report takes one label an image, got {truth.numel()} and {predicted.numel()} predicted'
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
        wrong = self.most_sure(right=False)
        none = '' if wrong else 'No image was taken for another class.'
        return [
            ('Wrong, and most sure of it', none, wrong),
            ('Right, and most sure of it', '', self.most_sure(right=True)),
        ]

    def most_sure(self, right):
        """The ``keep`` records that are right (or wrong), the most confident first."""
        chosen = [record for record in self.records if (record['truth'] == record['predicted']) == right]
        return sorted(chosen, key=lambda record: -record['score'])[: self.keep]

    def case_drawer(self, records):
        infos, names = self.infos(records), self.dataset_meta['classes']

        def draw(record):
            truth, predicted = names[record['truth']], names[record['predicted']]
            title = predicted if truth == predicted else f'{predicted}, is {truth}'
            picture = data_uri(shrink(load_image(infos[record['key']]), PICTURE_SIDE))
            return Case(title, f'{100 * record["score"]:.1f} %', [(image_name(record['key']), picture)])

        return draw


def confusion_matrix(records, num_classes):
    """Images counted by (truth, prediction), (num_classes, num_classes) int64."""
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    for record in records:
        matrix[record['truth'], record['predicted']] += 1
    return matrix


def class_table(matrix, names):
    """One row a class: images, recall, precision, and for what it is taken most often."""
    rows = []
    for index, name in enumerate(names):
        images, right = matrix[index].sum(), matrix[index, index]
        others = matrix[index].copy()
        others[index] = 0
        taken = f'{names[others.argmax()]} ({others.max()})' if others.any() else ''
        rows.append((name, int(images), percent(right, images), percent(right, matrix[:, index].sum()), taken))
    header = ('class', 'images', 'right, %', 'of those named so, right, %', 'most often taken for')
    return Table('By class', header, rows)


def confusions(matrix, names):
    """The pairs that are confused most often."""
    off = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-off, axis=None, kind='stable')[:CONFUSIONS]
    pairs = [(*np.unravel_index(place, off.shape), off.flat[place]) for place in order if off.flat[place]]
    rows = [(names[i], names[j], int(count)) for i, j, count in pairs]
    return Table('Confused most often', ('is', 'taken for', 'images'), rows)


def percent(part, whole):
    """In percent, as text; '-' of nothing."""
    return f'{100 * part / whole:.1f}' if whole else '-'
