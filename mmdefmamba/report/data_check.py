"""Reading the data of a config without training: counts, sizes, what is left out, and everything that is wrong."""

import contextlib
import io
from collections import Counter
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from mmengine import fileio
from mmengine.config import ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, HOOKS, METRICS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from PIL import Image

from ..apis.zoo import get_model, task_of
from ..checkpoints.contents import check_contents
from ..files import shown
from ..guards import class_count, class_names, label_values, loading, metric_names
from ..guards.config_errors import explain_errors
from ..guards.config_keys import check_keys
from ..guards.damaged_images import image_damage
from ..guards.dataset_parts import dataset_parts, describe, ignored_labels, metainfo_of, notes_of, source_names
from .case_images import load_image

SPLITS = ('train', 'val', 'test')
# What a guard, a dataset or a transform raises about data.
_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


class PartSummary(NamedTuple):
    """What one dataset holds.

    Attributes:
        split: ``'train'``, ``'val'`` or ``'test'``.
        dataset: the dataset.
        name: its type and its file or folder.
        classes: the names of its classes, a list.
        source: the names of the folders or categories that it was read from, in their order, or None.
        counts: {unit: {label: number}}, such as images, objects or share of the pixels.
        sizes: :class:`Sizes` of its images.
        notes: what is left out and why, texts.
    """

    split: str
    dataset: object
    name: str
    classes: list
    source: list
    counts: dict
    sizes: object
    notes: list


class Sizes(NamedTuple):
    """Sizes of images in pixels: the number of images that were read; of each side the smallest, median and largest."""

    read: int
    height: tuple
    width: tuple


class DataCheck(NamedTuple):
    """The result of :func:`check_data`.

    Attributes:
        config: path of the config.
        task: 'classification', 'detection' or 'segmentation'.
        parts: a :class:`PartSummary` for each dataset that can be read.
        problems: what would stop or spoil a run, texts.
        checkpoint: the names of the classes in a checkpoint, a list, or None.
    """

    config: str
    task: str
    parts: list
    problems: list
    checkpoint: list


def check_data(cfg, checkpoint=None, limit=1000, samples=6):
    """Read the data of a config without training, and collect what is wrong with it.

    The checks are those of the guards: a run of this config with the guards stops at the same problems.

    Args:
        cfg: an MMEngine Config.
        checkpoint: path of a checkpoint whose classes are compared with the data, or None.
        limit: the largest number of image files and label maps that are read per dataset; they are spread over it.
        samples: number of images per dataset that go through its pipeline.

    Returns:
        A :class:`DataCheck`.
    """
    task = task_of(cfg)
    init_default_scope(cfg.default_scope)
    problems, parts = [], []
    with loading.active_guards():
        _attempt(problems, check_keys, cfg)
        model = _attempt(problems, get_model, cfg)
        for split in SPLITS:
            _read_split(cfg, split, model, parts, problems, limit, samples)
        named = [part for part in parts if part.classes]
        for part in named:
            _attempt(problems, class_names.check_listed_labels, part.dataset, part.classes)
        if model is not None and not class_names.has_free_classes(model):
            _compare(named, problems)
        loaded = checkpoint and CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
        trained = loaded and class_names.names_in_checkpoint(check_contents(loaded, checkpoint))
        for part in named if trained else ():
            remedy = 'Give the data the classes of the checkpoint in their order'
            _attempt(
                problems,
                class_names.compare,
                f'checkpoint {shown(checkpoint)}',
                trained,
                part.dataset,
                part.classes,
                remedy,
            )
    return DataCheck(str(cfg.filename), task, parts, list(dict.fromkeys(problems)), trained or None)


def spread(number, limit):
    """Return at most ``limit`` indices that are spread over ``number`` entries, a list of int."""
    return np.unique(np.linspace(0, number - 1, min(limit, number)).round().astype(int)).tolist() if number else []


def _attempt(problems, function, *args):
    """Call a function; an error becomes a problem, and the result None."""
    try:
        return function(*args)
    except _ERRORS as error:
        problems.append(f'{error}' or type(error).__name__)
        return None


def _read_split(cfg, split, model, parts, problems, limit, samples):
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        return
    if split == 'test' and _same_data(loader, cfg.get('val_dataloader')):
        for part in parts:
            if part.split == 'val':
                part.notes.append('the test reads the same data')
        return
    found = []

    def build():
        with explain_errors(cfg), contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            dataset = DATASETS.build(loader.dataset)
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
        found.append(dataset)

    _attempt(problems, build)
    if not found:
        return
    scored = {'train': '', 'val': 'validation', 'test': 'test'}[split]
    if model is not None:
        _attempt(problems, class_count.check_heads, model, found[0], scored)
    for dataset in dataset_parts(found[0]):
        parts.append(_summary(split, dataset, model, problems, limit, samples))
    if split != 'train':
        _check_evaluator(cfg, split, found[0], problems)


def _same_data(loader, other):
    return bool(other) and ConfigDict(loader).dataset == ConfigDict(other).dataset


def _summary(split, dataset, model, problems, limit, samples):
    classes = metainfo_of(dataset).get('classes')
    classes = [] if classes is None or isinstance(classes, str) else list(classes)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    loader = label_values.map_loader(dataset)
    if loader is not None:
        counts = _attempt(problems, label_values.count_labels, dataset, classes, loader, limit, False)
        counted = _label_counts(dataset, classes, counts, model, problems) if counts else {}
    else:
        counted = _object_counts(infos)
    sizes = _sizes(dataset, infos, limit, f'{split}: {describe(dataset)}', problems)
    for index in spread(len(dataset), samples):
        _attempt(problems, dataset.__getitem__, index)
    return PartSummary(
        split,
        dataset,
        describe(dataset),
        classes,
        source_names(dataset),
        counted,
        sizes,
        [text.removeprefix(f'{describe(dataset)}: ') for text in notes_of(dataset)],
    )


def _object_counts(infos):
    images, objects = Counter(), Counter()
    for info in infos:
        labels = info.get('gt_label', ())
        labels = [labels] if isinstance(labels, (int, np.integer)) else list(labels)
        labels += [each['bbox_label'] for each in info.get('instances', ()) if not each.get('ignore_flag')]
        images.update(set(labels))
        objects.update(labels)
    has_objects = any('instances' in info for info in infos)
    return dict(objects=objects, images=images) if has_objects else dict(images=images)


def _label_counts(dataset, classes, counts, model, problems):
    ignored = {255} if model is None else ignored_labels(model, dataset)
    problem = label_values.label_problem(dataset, classes, counts, ignored)
    for text in (problem, label_values.unnamed_problem(dataset, classes, counts, ignored)):
        if text:
            problems.append(text.replace('no class', 'No class', 1) if text is problem else text)
    total = max(counts.pixels.total(), 1)
    share = {label: round(100 * number / total, 2) for label, number in counts.pixels.items()}
    return {'pixels, %': share, f'maps (of {counts.maps})': dict(counts.images)}


def _sizes(dataset, infos, limit, name, problems):
    """Read the size of image files; add missing and damaged ones to the problems."""
    sizes, bad = [], Counter()
    example = {}
    for index in spread(len(infos), limit):
        path = infos[index].get('img_path')
        if path is None:
            image = infos[index].get('img')
            sizes += [] if image is None else [np.shape(image)[:2]]
            continue
        try:
            content = fileio.get(path)
            damage = image_damage(content)
            if damage is None:
                with Image.open(io.BytesIO(content)) as image:
                    sizes.append(image.size[::-1])
                continue
        except FileNotFoundError:
            damage = 'missing'
        except OSError:  # Pillow's UnidentifiedImageError is one; the dataset may have a reader of its own
            shape = _shape_as_read(dataset, infos[index])
            if shape is not None:
                sizes.append(shape)
                continue
            damage = 'unreadable'
        kind = damage if damage in ('missing', 'unreadable') else 'damaged'
        bad[kind] += 1
        example.setdefault(kind, f'{shown(path)}' + (f': {damage}' if kind == 'damaged' else ''))
    for kind, number in bad.items():
        problems.append(
            f'{name}: {number} of {len(spread(len(infos), limit))} images are {kind}, such as {example[kind]}'
        )
    if not sizes:
        return None
    sides = [sorted(side) for side in zip(*sizes, strict=True)]
    return Sizes(len(sizes), *((side[0], side[len(side) // 2], side[-1]) for side in sides))


def _shape_as_read(dataset, info):
    """Return (height, width) of an image as the pipeline of a dataset reads it, or None if it cannot."""
    try:
        return load_image(dataset, info).shape[:2]
    except _ERRORS:
        return None


def _check_evaluator(cfg, split, dataset, problems):
    settings = cfg.get(f'{split}_evaluator')
    if not settings:
        return

    def check():
        with explain_errors(cfg), contextlib.redirect_stdout(io.StringIO()):
            metrics = [METRICS.build(each) for each in (settings if isinstance(settings, list) else [settings])]
        evaluator = Evaluator(metrics)
        evaluator.dataset_meta = getattr(dataset, 'metainfo', None)
        for metric in metrics:
            _attempt(problems, class_names.check_evaluator, metric, dataset)
        _attempt(problems, metric_names.check_masks, evaluator)
        if split == 'val':
            hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or ())]
            waiting = [each for each in hooks if isinstance(each, dict) and {'save_best', 'monitor'} & set(each)]
            built = [HOOKS.build(each) for each in waiting]
            metric_names.check_names(SimpleNamespace(hooks=built, param_schedulers=None), evaluator)

    _attempt(problems, check)


def _compare(parts, problems):
    first = next((part for part in parts if part.split == 'train'), None)
    for part in parts:
        if first is not None and part is not first:
            _attempt(
                problems,
                class_names.compare,
                first.dataset,
                first.classes,
                part.dataset,
                part.classes,
                'Give both the same classes in the same order',
            )
