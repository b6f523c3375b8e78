"""What the guards on data ask of a dataset: its parts inside of wrappers, its class names, and what it left out."""

import logging
import weakref
from collections.abc import Mapping
from pathlib import Path

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from ..files import shown

_notes = weakref.WeakKeyDictionary()  # dataset -> what was noticed while it was read, as texts
_sources = weakref.WeakKeyDictionary()  # dataset -> names of the categories or folders that it was read from


def dataset_parts(dataset):
    """Return the datasets inside of wrappers, such as RepeatDataset and ConcatDataset; a plain one is its only part."""
    inner = ()
    if not isinstance(dataset, BaseDataset):
        inner = [*(getattr(dataset, 'datasets', None) or ()), *filter(None, [getattr(dataset, 'dataset', None)])]
    return [part for one in inner for part in dataset_parts(one)] if inner else [dataset]


def metainfo_of(dataset):
    """Return the metainfo of a dataset; empty where it has none, or one for each of its parts, as a ConcatDataset."""
    meta = getattr(dataset, 'metainfo', None)
    return meta if isinstance(meta, Mapping) else {}


def ignored_labels(model, dataset):
    """Return the labels that a dataset or a module of the model leaves out of loss and score."""
    found = {getattr(dataset, 'ignore_index', 255)}
    found |= {getattr(module, 'ignore_index', None) for module in model.modules()}
    return {label for label in found if isinstance(label, int)}


def describe(dataset):
    """Return the type of a dataset and the file or folder that it reads, such as ``CocoDataset of train.json``."""
    prefix = getattr(dataset, 'data_prefix', None)
    folders = [value for value in prefix.values() if value] if isinstance(prefix, Mapping) else filter(None, [prefix])
    place = next((str(name) for name in (getattr(dataset, 'ann_file', None), *folders) if name), '')
    return f'{type(dataset).__name__}{place and " of "}{shown(place)}'


def more_names(dataset, label):
    """Return what to do about a label that has no name: where to name more classes, or to correct the label."""
    if label < 0:
        return 'Correct the label: the first class is 0'
    files = [Path(part.data_root, 'classes.txt') for part in dataset_parts(dataset) if getattr(part, 'data_root', None)]
    # the configs for own data read their names there
    file = next((file for file in files if file.is_file()), None)
    place = shown(file or 'metainfo.classes of the dataset')
    return f'Give the classes {label + 1} names in {place}, or correct the labels'


def note(dataset, text, level=logging.INFO):
    """Log what was noticed while a dataset was read, and keep it for :func:`notes_of`."""
    _notes.setdefault(dataset, []).append(text)
    print_log(text, 'current', level)


def notes_of(dataset):
    """Return the texts of :func:`note` about a dataset."""
    return list(_notes.get(dataset, ()))


def set_source_names(dataset, names):
    """Keep the names of the folders or categories that a dataset was read from, in their order there."""
    _sources[dataset] = [str(name) for name in names]


def source_names(dataset):
    """Return the names of the folders or categories that a dataset was read from, a list, or None if not known."""
    return _sources.get(dataset)


def counted(counts, limit=5):
    """Return counts as text, the largest first, such as ``9 .webp, 2 .txt``.

    Args:
        counts: {name: number}.
        limit: number of names; the others are summed up.
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    parts = [f'{number} {shown(name)}' for name, number in ordered[:limit]]
    rest = sum(number for _, number in ordered[limit:])
    return ', '.join([*parts, *([f'{rest} others'] if rest else [])])


def listed(names, limit=10):
    """Return names as text, with a count of those after the first ``limit``."""
    names = [shown(name) for name in names]
    return ', '.join(names[:limit]) + (f' and {len(names) - limit} more' if len(names) > limit else '')


def plain_name(name):
    """Return a name without the differences that do not count: case, spaces, ``_`` and ``-``."""
    return str(name).casefold().replace('_', '').replace('-', '').replace(' ', '')
