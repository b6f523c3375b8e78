"""The guard ``class_names``: data, annotation files and checkpoints mean the same class by the same number.

Without it: a model that was trained on cat and dog is scored on dog and wolf, or with the numbers exchanged, without a
word, because the libraries compare neither names nor their order.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import PurePath

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ..files import shown
from ..model_wrappers import plain_model
from .dataset_parts import dataset_parts, describe, listed, metainfo_of, plain_name
from .runs import is_built, is_resumed, loaded_file

# Two lists mean the same classes if no name has another number and so many names are equal: other releases of a dataset
# spell a few names differently, such as aeroplane and airplane.
_EQUAL = 0.9
_WORDNET = re.compile(r'n\d{8}')
# Models whose training and test have other classes: retrieval, and tracking, which is scored on one of its classes.
# The third is mmseg's model for classes that are given as a text.
_FREE = {'BaseRetriever', 'BaseMOTModel', 'MultimodalEncoderDecoder'}
#: Heads that are given the names of their classes as a text.
TEXT_HEADS = ('ATSSVLFusionHead', 'GroundingDINOHead', 'YOLOWorldHead')


@HOOKS.register_module()
class ClassNamesHook(Hook):
    """Compare the names of the classes between training data, validation data, annotation files and checkpoint.

    Models whose classes are a text, retrieval and tracking are not checked: training and test have other classes there.

    Raises:
        ValueError: the names or their order differ; prints both sides.
    """

    def before_train(self, runner):
        if has_free_classes(runner.model):
            return
        trained = named_parts(runner.train_dataloader.dataset)
        for part in trained[1:]:
            compare(*trained[0], *part, 'Give all parts of the training data the same classes in the same order')
        for part in trained:
            check_listed_labels(*part)
        if is_built(runner, 'val'):
            self._check_data(runner.val_dataloader.dataset, runner.val_evaluator, trained)

    def after_load_checkpoint(self, runner, checkpoint):
        training = is_built(runner, 'train')
        if has_free_classes(runner.model) or (training and not is_resumed(runner)):
            return
        trained = names_in_checkpoint(checkpoint)
        loops = ('train',) if training else ('val', 'test')
        for name in loops:
            if trained and is_built(runner, name):
                for part in named_parts(getattr(runner, f'{name}_dataloader').dataset):
                    compare(
                        f'checkpoint {shown(loaded_file(runner))}',
                        trained,
                        *part,
                        'Give the data the classes of the checkpoint in their order, in metainfo.classes',
                    )

    def before_val(self, runner):
        if not is_built(runner, 'train') and not has_free_classes(runner.model):
            self._check_data(runner.val_dataloader.dataset, runner.val_evaluator)

    def before_test(self, runner):
        if not has_free_classes(runner.model):
            self._check_data(runner.test_dataloader.dataset, runner.test_evaluator)

    @staticmethod
    def _check_data(dataset, evaluator, trained=()):
        for part in named_parts(dataset) if trained else ():
            compare(*trained[0], *part, 'Give both the same classes in the same order, such as classes=CLASSES')
        for part in named_parts(dataset):
            check_listed_labels(*part)
        for metric in evaluator.metrics:
            check_evaluator(metric, dataset)


def has_free_classes(model):
    """Return whether a model is scored on other classes than those of its training: texts, retrieval, tracking."""
    model = plain_model(model)
    names = {kind.__name__ for kind in type(model).__mro__}
    return bool(names & _FREE) or any(type(module).__name__ in TEXT_HEADS for module in model.modules())


def named_parts(dataset):
    """Return pairs (dataset, names of its classes) of the parts of a dataset that name their classes."""
    parts = [(part, metainfo_of(part).get('classes')) for part in dataset_parts(dataset)]
    return [(part, list(names)) for part, names in parts if names is not None and not isinstance(names, str)]


def names_in_checkpoint(checkpoint):
    """Return the names of the classes in a checkpoint's ``meta``, a list, or None."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    data = meta.get('dataset_meta', meta) if isinstance(meta, Mapping) else None
    lower = {str(key).lower(): value for key, value in data.items()} if isinstance(data, Mapping) else {}
    names = lower.get('classes')
    return list(names) if isinstance(names, (list, tuple)) else None


def compare(first, first_names, second, second_names, remedy):
    """Refuse two lists of classes that mean other classes by the same numbers.

    Args:
        first, second: datasets, or texts that describe the two sides.
        first_names, second_names: their classes.
        remedy: what to do.

    Raises:
        ValueError: the lists differ; prints the classes that do.
    """
    verdict = compare_names(first_names, second_names)
    if verdict == 'same':
        return
    first, second = (side if isinstance(side, str) else describe(side) for side in (first, second))
    pairs = [
        f'{number} is {names[0]} and {names[1]}'
        for number, names in enumerate(zip(first_names, second_names, strict=False))
        if plain_name(names[0]) != plain_name(names[1])
    ]
    text = (
        f'The classes of {first} are {listed(first_names)} ({len(first_names)}); the classes of {second} are '
        f'{listed(second_names)} ({len(second_names)})'
    )
    text += f'. Other names: class {listed(pairs, 5)}' if pairs else ''
    if verdict == 'renamed':
        print_log(f'{text}. They are taken for the same classes', 'current', logging.WARNING)
        return
    raise ValueError(f'{text}. A class would be learned under one name and scored under another. {remedy}')


def compare_names(first, second):
    """Return whether two lists of classes are the ``'same'``, a few are ``'renamed'``, or they are ``'other'`` classes.

    Case, spaces, ``_`` and ``-`` make no difference. WordNet's numbers (n01440764) can stand for any names.
    """
    first, second = ([plain_name(name) for name in names] for names in (first, second))
    if first == second:
        return 'same'
    if len(first) != len(second):
        return 'other'
    if all(map(_WORDNET.fullmatch, first)) != all(map(_WORDNET.fullmatch, second)):
        return 'renamed'
    place = {name: number for number, name in enumerate(second)}
    moved = any(place.get(name, number) != number for number, name in enumerate(first) if first.count(name) == 1)
    equal = sum(one == other for one, other in zip(first, second, strict=True))
    return 'renamed' if not moved and equal >= _EQUAL * len(first) else 'other'


def check_listed_labels(dataset, classes, limit=1000):
    """Refuse labels from a list that contradict the folders of their images.

    It is a contradiction if each folder has the name of a class, and all images of one folder have the number of
    another class. Folders with other names say nothing.

    Args:
        dataset: a dataset with one label per image; others are left alone.
        classes: names of its classes.
        limit: number of images to look at, spread over the dataset.

    Raises:
        ValueError: names the folder, its number and the class of that number.
    """
    numbers, labels = {plain_name(name): number for number, name in enumerate(classes)}, {}
    for index in range(0, len(dataset), max(len(dataset) // limit, 1)):
        info = dataset.get_data_info(index)
        if not isinstance(info.get('gt_label'), int) or not info.get('img_path'):
            return
        labels.setdefault(PurePath(info['img_path']).parent.name, set()).add(info['gt_label'])
    if len(numbers) < len(classes) or not all(plain_name(folder) in numbers for folder in labels):
        return
    for folder, found in labels.items():
        (number, *others) = found
        # a label out of range is found by the guard class_count
        if not others and 0 <= number < len(classes) and number != numbers[plain_name(folder)]:
            raise ValueError(
                f'{describe(dataset)}: the images in the folder {shown(folder)} have the label {number}, which is '
                f'{classes[number]}; {shown(folder)} is class {numbers[plain_name(folder)]}. The classes are '
                f'{listed(classes)}: give them in the order of the numbers in the list'
            )


def check_evaluator(metric, dataset):
    """Refuse an evaluator whose COCO file lacks classes or images of the dataset that it scores.

    Args:
        metric: any metric; only those with a COCO file are checked.
        dataset: the dataset of the same loop.

    Raises:
        ValueError: names the file, and what it lacks.
    """
    api, names = getattr(metric, '_coco_api', None), metainfo_of(dataset).get('classes')
    content = getattr(api, 'dataset', None)
    if not isinstance(content, dict) or not content.get('categories') or names is None:
        return
    in_file = [category['name'] for category in content['categories']]
    absent = [name for name in ([names] if isinstance(names, str) else names) if name not in in_file]
    who = f'the ann_file of {type(metric).__name__}'
    if absent:
        raise ValueError(
            f'{who} has no category {listed(absent)}, which are classes of {describe(dataset)}. The file has '
            f'{listed(in_file)}; the classes are {listed(names)}. Spell both alike'
        )
    images = {image['id']: str(image.get('file_name')) for image in content.get('images') or ()}
    scored = [info for part in dataset_parts(dataset) for info in _infos(part) if 'img_id' in info]
    for info in scored:
        name = images.get(info['img_id'])
        if name is None or not str(info['img_path']).replace('\\', '/').endswith(name.replace('\\', '/').lstrip('./')):
            raise ValueError(
                f'{who} is of other images than {describe(dataset)}: its image {info["img_id"]!r} is '
                f'{shown(name or "missing")}, the dataset has {shown(info["img_path"])}. Name the file of the dataset '
                'in both places'
            )
    if scored and len(images) > len(scored):
        print_log(
            f'{who} has {len(images)} images, but {describe(dataset)} has {len(scored)}: the objects of the others '
            'count as not found',
            'current',
            logging.WARNING,
        )


def _infos(dataset):
    return (dataset.get_data_info(index) for index in range(len(dataset)) if hasattr(dataset, 'get_data_info'))
