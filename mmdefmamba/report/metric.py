"""What a test did with each image, noted while it runs."""

from typing import NamedTuple

from mmengine.evaluator import BaseMetric

# By which of its facts an image is found again in its data set: the first one that a data sample has.
_KEYS = ('img_path', 'img_id', 'sample_idx')


class Table(NamedTuple):
    """A table of the page: texts and numbers; ``note`` stands below."""

    title: str
    header: tuple
    rows: list
    note: str = ''


class Case(NamedTuple):
    """An image of the page with what was predicted.

    Args:
        title, text: about the image.
        pictures: (caption, data URI).
        legend: (CSS colour, what it means).
    """

    title: str
    text: str
    pictures: list
    legend: tuple = ()


class Gallery(NamedTuple):
    """Cases under a title; ``note`` says what they have in common, or why there are none."""

    title: str
    note: str
    cases: list


class CaseMetric(BaseMetric):
    """Notes each image of a test for a report; gives no score itself. One subclass a task.

    In a distributed test every rank notes its own images, and MMEngine gathers the notes on rank 0 as it gathers what
    the other metrics need. Pictures of predictions are large: each rank keeps only those of its best and worst images.

    Args:
        dataset: the tested one.
        keep: how many of the best and of the worst images keep what is drawn of them.

    After the test ``records`` is, on rank 0, a dict an image: ``key`` (name and value of the fact by which
    :func:`find_images` finds it), ``score`` (the image's own, or None), ``drawn`` (None but for the extremes), and what
    the subclass notes.
    """

    default_prefix = 'report'
    #: in words: what the score of an image is, and what images have none
    score_name, unscored = None, None
    #: least width of a case on the page
    case_width = '26rem'

    def __init__(self, dataset, keep=6):
        super().__init__()
        self.dataset, self.keep = dataset, keep
        self.records = []
        self._lowest, self._highest = [], []

    def note(self, sample, score, drawn=None, **rest):
        """Note one image, in the order in which the data loader gives them."""
        record = dict(rest, key=image_key(sample), score=score, drawn=None if score is None else drawn)
        self.results.append(record)
        if record['drawn'] is not None:
            dropped = [
                *_add_ranked(self._lowest, record, self.keep, reverse=False),
                *_add_ranked(self._highest, record, self.keep, reverse=True),
            ]
            for out in dropped:
                if not any(out is kept for kept in (*self._lowest, *self._highest)):
                    out['drawn'] = None

    def compute_metrics(self, results):
        self.records = results
        return {}

    def watch(self, evaluator):
        """Join a test's evaluator; a subclass may ask its metrics for more than they are set to give."""
        evaluator.metrics.append(self)
        self.dataset_meta = evaluator.dataset_meta

    def tables(self, metrics):
        """The :class:`Table` of each view on the classes, after the test; ``metrics`` are what it gave."""
        raise NotImplementedError

    def class_scores(self, metrics):
        """The keys of ``metrics`` that are of one class, which :meth:`tables` show."""
        return set()

    def matrix(self):
        """The confusion matrix, (classes, classes) int64, where there is one to show."""

    def groups(self):
        """What the report shows of the images, after the test: (title, note, records) of each group."""
        note = f'Score of an image: {self.score_name}.'
        unscored = len(self.records) - len(self._scored())
        if unscored:
            note += f' {unscored} images have none: {self.unscored}.'
        return [('Worst images', note, self.lowest()), ('Best images', '', self.highest())]

    def galleries(self):
        """The :class:`Gallery` of each group."""
        groups = self.groups()
        draw = self.case_drawer([record for _, _, records in groups for record in records])
        return [Gallery(title, note, [draw(record) for record in records]) for title, note, records in groups]

    def case_drawer(self, records):
        """A function that makes the :class:`Case` of each of ``records``."""
        raise NotImplementedError

    def infos(self, records):
        """What the data set knows of the images of some records: ``{key: entry}``."""
        found = find_images(self.dataset, [record['key'] for record in records])
        return {key: self.dataset.get_data_info(index) for key, index in found.items()}

    def lowest(self):
        """The ``keep`` records with the lowest scores, worst first."""
        return sorted(self._scored(), key=lambda record: record['score'])[: self.keep]

    def highest(self):
        """The ``keep`` records with the highest scores, best first, without those that :meth:`lowest` gives."""
        worst = self.lowest()
        rest = [record for record in self._scored() if not any(record is low for low in worst)]
        return sorted(rest, key=lambda record: -record['score'])[: self.keep]

    def _scored(self):
        return [record for record in self.records if record['score'] is not None]


def _add_ranked(ranked, record, keep, reverse):
    """Add to a list that is kept in order; gives what falls out of its first ``keep``."""
    ranked.append(record)
    ranked.sort(key=lambda record: record['score'], reverse=reverse)
    dropped = ranked[keep:]
    del ranked[keep:]
    return dropped


def image_key(sample):
    """The fact by which the image of a data sample (a dict) is found in its data set: ``(name, value)``.

    Raises:
        ValueError: the sample has none of them.
    """
    for name in _KEYS:
        if sample.get(name) is not None:
            return name, sample[name]
    raise ValueError(
        f'--report: to find images again it needs one of {", ".join(_KEYS)} in the data samples; add it to meta_keys '
        'of the last transform of the test pipeline'
    )


def find_images(dataset, keys):
    """Indices of images in a data set.

    Args:
        dataset: MMEngine's BaseDataset, or a wrapper of it.
        keys: as :func:`image_key` gives them.

    Returns:
        ``{key: index}``, the first index of each.
    """
    wanted, found = set(keys), {}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for name in {name for name, _ in wanted}:
            key = (name, info.get(name))
            if key in wanted:
                found.setdefault(key, index)
    return found


def image_name(key):
    """What an image is called on the page."""
    name, value = key
    return str(value).rpartition('/')[2] if name == 'img_path' else f'{name} {value}'
