"""Records of each image of a test, made while the test runs."""

import logging
from typing import NamedTuple

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

# Fields that identify an image in its dataset; the first one that the data sample has is used.
_KEYS = ('img_path', 'img_id', 'sample_idx')


class Table(NamedTuple):
    """A table of the page, with texts and numbers; ``note`` is the text below it."""

    title: str
    header: tuple
    rows: list
    note: str = ''


class Case(NamedTuple):
    """An image of the page and its prediction.

    Attributes:
        title, text: texts about the image.
        pictures: [(caption, data URI)].
        legend: [(CSS colour, meaning)].
    """

    title: str
    text: str
    pictures: list
    legend: tuple = ()


class Gallery(NamedTuple):
    """A list of cases with a title; ``note`` says what they have in common, or why the list is empty."""

    title: str
    note: str
    cases: list


class CaseMetric(BaseMetric):
    """A metric that records each image of a test for the report. It gives no score. There is one subclass per task.

    In a distributed test every rank records its own images, and MMEngine gathers the records on rank 0, as it does for
    other metrics. Predictions are large, so each rank keeps only those of its best and worst images.

    An error about an image does not end the test: :attr:`problems` has it.

    Args:
        dataset: the dataset of the test.
        keep: number of best images, and of worst images, that keep their predictions.

    Attributes:
        records: after the test, on rank 0, a list with one dict per image: ``key``, the name and value of the field by
            which :func:`find_images` finds the image; ``score``, the score of the image, or None; ``drawn``, the
            prediction, None except for the best and worst images; and the entries that the subclass adds.
        problems: texts, after the test, on rank 0: what could not be recorded, and of how many images.
    """

    default_prefix = 'report'
    #: texts: what the score of an image is, and why an image can have no score
    score_name, unscored = None, None
    #: smallest width of a case on the page
    case_width = '26rem'

    def __init__(self, dataset, keep=6):
        super().__init__()
        self.dataset, self.keep = dataset, keep
        self.records, self.problems = [], []
        self._lowest, self._highest = [], []

    def process(self, data_batch, data_samples):
        """Record the images of a batch. The samples are dicts."""
        for sample in data_samples:
            try:
                self.record(sample)
            except Exception as error:  # whatever it is, the test and its scores are worth more than the report
                # one result per image: MMEngine cuts what it gathers to the number of images
                self.results.append(dict(problem=f'{type(error).__name__}: {error}'))

    def record(self, sample):
        """Record one image by :meth:`note`."""
        raise NotImplementedError

    def note(self, sample, score, drawn=None, **rest):
        """Record one image.

        Args:
            sample: the data sample, a dict.
            score: score of the image, or None.
            drawn: what is needed to draw the prediction; it is kept for the best and worst images only.
            **rest: further entries of the record.
        """
        record = dict(rest, key=image_key(sample), score=score, drawn=None if score is None else drawn)
        self.results.append(record)
        if record['drawn'] is not None:
            # one more than are shown: the sampler of a distributed test repeats an image, and MMEngine drops that one
            room = self.keep + 1
            # among equal scores the first images are the lowest, and the last ones the highest, so no image is both
            self._lowest = sorted([*self._lowest, record], key=_score)
            self._highest = sorted([record, *self._highest], key=_score, reverse=True)
            dropped = [*self._lowest[room:], *self._highest[room:]]
            del self._lowest[room:], self._highest[room:]
            for out in dropped:
                if not any(out is kept for kept in (*self._lowest, *self._highest)):
                    out['drawn'] = None

    def compute_metrics(self, results):
        self.records = [result for result in results if 'problem' not in result]
        failed = [result['problem'] for result in results if 'problem' in result]
        if failed:
            self.problems = [f'{len(failed)} of {len(results)} images are not part of this page. First: {failed[0]}']
            print_log(f'report: {self.problems[0]}', 'current', logging.WARNING)
        return {}

    def watch(self, evaluator):
        """Join the evaluator of a test. A subclass may change settings of the other metrics."""
        evaluator.metrics.append(self)
        self.dataset_meta = evaluator.dataset_meta

    def tables(self, metrics):
        """Return the tables about classes, a list of :class:`Table`, from the records and the metrics of the test."""
        raise NotImplementedError

    def class_scores(self, metrics):
        """Return the keys of ``metrics`` that are scores of a single class, which :meth:`tables` contains."""
        return set()

    def matrix(self):
        """Return the confusion matrix, (classes, classes) int64, or None if none is shown."""

    def groups(self):
        """Return the groups of images that the report shows: a list of (title, note, records)."""
        note = f'Score of an image: {self.score_name}.'
        unscored = len(self.records) - len(self._scored())
        if unscored:
            note += f' {unscored} images have no score: {self.unscored}.'
        return [('Worst images', note, self.lowest()), ('Best images', '', self.highest())]

    def galleries(self):
        """Return one :class:`Gallery` per group. A case that cannot be drawn has the error in place of its pictures."""
        groups = self.groups()
        draw = self.case_drawer([record for _, _, records in groups for record in records])
        return [
            Gallery(title, note, [draw_or_name_error(draw, record) for record in records])
            for title, note, records in groups
        ]

    def case_drawer(self, records):
        """Return a function that makes the :class:`Case` of one of ``records``."""
        raise NotImplementedError

    def infos(self, records):
        """Return the dataset entries of the images of some records: ``{key: entry}``."""
        found = find_images(self.dataset, [record['key'] for record in records])
        return {key: self.dataset.get_data_info(index) for key, index in found.items()}

    def lowest(self):
        """Return the ``keep`` records with the lowest scores, lowest first. Of equal ones, the first are taken."""
        return sorted(self._drawn(), key=_score)[: self.keep]

    def highest(self):
        """Return the ``keep`` records with the highest scores, highest first, without those of :meth:`lowest`.

        Of equal ones, the last are taken.
        """
        worst = self.lowest()
        rest = [record for record in reversed(self._drawn()) if not any(record is low for low in worst)]
        return sorted(rest, key=_score, reverse=True)[: self.keep]

    def _scored(self):
        return [record for record in self.records if record['score'] is not None]

    def _drawn(self):
        return [record for record in self._scored() if record['drawn'] is not None]


def _score(record):
    return record['score']


def draw_or_name_error(draw, record):
    """Return ``draw(record)``, or a case with the error in place of the pictures."""
    try:
        return draw(record)
    except Exception as error:  # one picture must not cost the page of a finished test
        problem = f'cannot be drawn: {type(error).__name__}: {error}'
        print_log(f'report: {image_name(record["key"])} {problem}', 'current', logging.WARNING)
        return Case(image_name(record['key']), problem, [])


def image_key(sample):
    """Return the field that identifies the image of a data sample (a dict) in its dataset: ``(name, value)``.

    Raises:
        ValueError: the sample has no such field.
    """
    for name in _KEYS:
        if sample.get(name) is not None:
            return name, _hashable(sample[name])
    raise ValueError(
        f'--report needs one of {", ".join(_KEYS)} in the data samples to identify images, got {sorted(sample)}: add '
        'one to meta_keys of the last transform of the test pipeline'
    )


def find_images(dataset, keys):
    """Find images in a dataset.

    Args:
        dataset: an MMEngine BaseDataset, or a wrapper of one.
        keys: results of :func:`image_key`.

    Returns:
        ``{key: index}``; if an image occurs more than once, the first index.
    """
    wanted, found = set(keys), {}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for name in {name for name, _ in wanted}:
            key = (name, _hashable(info.get(name)))
            if key in wanted:
                found.setdefault(key, index)
    return found


def _hashable(value):
    # the image of several files has a list of paths
    return tuple(value) if isinstance(value, list) else value


def image_name(key):
    """Return the name of an image on the page. An image of several files has the name of the first."""
    name, value = key
    value = value[0] if isinstance(value, tuple) and value else value
    return str(value).rpartition('/')[2] if name == 'img_path' else f'{name} {value}'
