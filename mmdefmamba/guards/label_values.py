"""The guard ``label_values``: each class of a segmentation occurs in its label maps.

Without it: a map of two classes that is written as 0 and 255 trains a network that knows the background only, because
255 is the label that mmseg ignores, and the accuracy reads 99 %. A dataset that names one class is the same case: its
loss is 0 from the first step.
"""

import logging
from collections import Counter
from typing import NamedTuple

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from .dataset_parts import dataset_parts, describe, ignored_labels, listed, metainfo_of, more_names
from .runs import is_built

# Reading stops as soon as every class was found. A class that is in one of twenty maps is missed by this sample once in
# thirty thousand times.
_SAMPLE = 200
_FEW_CLASSES = 30  # of more classes, some can be missing in a sample
_FREQUENT = 0.01  # share of the pixels that are ignored


class LabelCounts(NamedTuple):
    """What label maps hold.

    Attributes:
        maps: number of label maps that were read.
        pixels: Counter, label -> number of pixels.
        images: Counter, label -> number of maps that have it.
    """

    maps: int
    pixels: Counter
    images: Counter

    def absent(self, classes):
        """Return the classes, a list of names, whose label no map has."""
        return [name for label, name in enumerate(classes) if not self.pixels[label]]

    def ignored(self, labels):
        """Return the share of the pixels that have one of some labels, from 0 to 1."""
        return sum(self.pixels[label] for label in labels) / max(self.pixels.total(), 1)


@HOOKS.register_module()
class LabelValuesHook(Hook):
    """Read label maps before a training or a test, until each class was found; at most 200, spread over the dataset.

    Raises:
        ValueError: all maps of the dataset have one label only besides the ignored one.
    """

    def before_train(self, runner):
        check_labels(runner.train_dataloader.dataset, runner.model)
        if is_built(runner, 'val'):
            check_labels(runner.val_dataloader.dataset, runner.model)

    def before_test(self, runner):
        check_labels(runner.test_dataloader.dataset, runner.model)


def check_labels(dataset, model):
    """Check the label maps of all parts of a dataset; datasets without label maps are left alone."""
    for part in dataset_parts(dataset):
        classes, loader = metainfo_of(part).get('classes'), map_loader(part)
        if loader is None or not classes or not len(part):
            continue
        ignored = ignored_labels(model, part)
        problem = label_problem(part, classes, count_labels(part, classes, loader, _SAMPLE), ignored)
        if problem and problem.startswith('no class'):
            # rare objects: only all maps can tell
            problem = label_problem(part, classes, count_labels(part, classes, loader, len(part)), ignored)
            if problem and problem.startswith('no class'):
                raise ValueError(problem)
        if problem:
            print_log(problem, 'current', logging.WARNING)


def map_loader(dataset):
    """Return the function of mmseg's pipeline that reads the label map of a dataset entry, or None."""
    for transform in getattr(getattr(dataset, 'pipeline', None), 'transforms', ()):
        if any(kind.__module__.startswith('mmseg.') for kind in type(transform).__mro__):
            load = getattr(transform, '_load_seg_map', None)
            if load is not None:
                return load
    return None


def read_labels(dataset, index, loader):
    """Return the label map of an entry of a dataset as training sees it, (height, width), or None if it has none."""
    info = dataset.get_data_info(index)
    if not info.get('seg_map_path'):
        return None
    loader(info)
    return info['gt_seg_map']


def count_labels(dataset, classes, loader, limit, stop_early=True):
    """Count the labels in the maps of a dataset.

    Args:
        dataset: an MMEngine dataset.
        classes: names of its classes.
        loader: of :func:`map_loader`.
        limit: the largest number of maps to read; they are spread over the dataset.
        stop_early: whether to stop once each class was found.

    Returns:
        :class:`LabelCounts`.
    """
    pixels, images, maps = Counter(), Counter(), 0
    for index in np.unique(np.linspace(0, len(dataset) - 1, min(limit, len(dataset))).round().astype(int)):
        labels = read_labels(dataset, int(index), loader)
        if labels is None:
            continue
        values, numbers = np.unique(labels, return_counts=True)
        pixels.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        images.update(values.tolist())
        maps += 1
        # of one class, the share of the ignored pixels tells, and one map may have none
        if stop_early and len(classes) > 1 and all(pixels[label] for label in range(len(classes))):
            break
    return LabelCounts(maps, pixels, images)


def label_problem(dataset, classes, counts, ignored):
    """Return what is wrong if classes are missing, or there is one class, while ignored pixels are frequent, or ''.

    Args:
        dataset: for its name.
        classes: names of the classes.
        counts: :class:`LabelCounts`.
        ignored: the labels that loss and score leave out.
    """
    absent, share = counts.absent(classes), counts.ignored(ignored)
    present = len(classes) - len(absent)
    if not (absent or len(classes) == 1) or share < _FREQUENT or (present > 1 and len(classes) > _FEW_CLASSES):
        return ''
    used = ', '.join(str(label) for label in sorted(ignored) if counts.pixels[label])
    text = (
        f'{describe(dataset)} in {counts.maps} of {len(dataset)} label maps. {100 * share:.3g} % of their pixels have '
        f'the label {used}, which is ignored: it is neither learned nor scored. {_remedy(dataset, classes, absent)}'
    )
    if present > 1:
        return f'The classes {listed(absent)} do not occur in {text}'
    return f'no class but {next((name for name in classes if name not in absent), "an ignored one")!r} occurs in {text}'


def _remedy(dataset, classes, absent):
    if getattr(dataset, 'reduce_zero_label', False):
        return 'reduce_zero_label=True makes the label 0 an ignored one. If 0 is a class, set reduce_zero_label=False'
    if absent:
        return f'If it is meant as {absent[-1]!r}, write {list(classes).index(absent[-1])} instead'
    return 'If it is meant as a second class, write 1 instead, and name both classes'


def unnamed_problem(dataset, classes, counts, ignored):
    """Return what is wrong if label maps have labels without a name, or ''; arguments as :func:`label_problem`."""
    strange = sorted(label for label in counts.pixels if not 0 <= label < len(classes) and label not in ignored)
    if not classes or not strange:
        return ''
    maps = ', '.join(f'{label} in {counts.images[label]}' for label in strange[:5])
    more = f', and {len(strange) - 5} more labels' if len(strange) > 5 else ''
    return (
        f'{describe(dataset)} has {len(classes)} classes, labels from 0 to {len(classes) - 1}, but its {counts.maps} '
        f'label maps that were read have others: {maps} maps{more}. {more_names(dataset, strange[-1])}'
    )
