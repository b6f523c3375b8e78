"""The guard ``class_count``: the head, the dataset and the labels agree on the number of classes."""

import re

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..files import shown
from .class_names import TEXT_HEADS, has_free_classes
from .dataset_parts import dataset_parts, ignored_labels, listed, metainfo_of, more_names
from .runs import is_built

# Heads whose num_classes is not the number of classes of the dataset: proposals have one class, and the semantic branch
# of a detector has those of another annotation. For TEXT_HEADS it is the length of the text.
_OTHER_CLASSES = re.compile(r'(rpn|semantic)_head(\.\d+)?$')


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compare ``num_classes`` of each head with the classes that the dataset names, and with each label.

    Heads of region proposals have one class for any data, and are not compared. Labels are checked before each
    iteration. Without that, a label out of range ends a training on a GPU with an assertion of the device, and mmseg
    leaves its pixels out of a score.

    Raises:
        ValueError: the numbers differ (names the head, the dataset and the key to set); the annotation file does not
            have a class of the dataset; a label is out of range (names the image).
    """

    def before_train(self, runner):
        check_heads(runner.model, runner.train_dataloader.dataset)
        if is_built(runner, 'val'):
            check_heads(runner.model, runner.val_dataloader.dataset, 'validation')

    def before_val_epoch(self, runner):
        check_heads(runner.model, runner.val_dataloader.dataset, 'validation')

    def before_test_epoch(self, runner):
        check_heads(runner.model, runner.test_dataloader.dataset, 'test')

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._check_labels(runner.model, data_batch, runner.train_dataloader.dataset)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self._check_labels(runner.model, data_batch, runner.val_dataloader.dataset)

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        self._check_labels(runner.model, data_batch, runner.test_dataloader.dataset)

    @staticmethod
    def _check_labels(model, batch, dataset):
        classes = metainfo_of(dataset).get('classes')
        samples = batch.get('data_samples') if isinstance(batch, dict) else None
        if classes is None or not isinstance(samples, (list, tuple)):
            return
        if _all_in_range(samples, len(classes)):
            return
        ignored = None  # looked up when a label needs it: that walks through the whole model
        for sample in samples:
            if not hasattr(sample, 'get'):  # a list of views, of a test-time augmentation
                continue
            for name in ('gt_sem_seg', 'gt_label'):
                labels = sample.get(name)
                labels = getattr(labels, 'data', labels)
                if labels is None:
                    continue
                wrong = labels[(labels < 0) | (labels >= len(classes))]
                if name == 'gt_sem_seg' and len(wrong):
                    ignored = ignored_labels(model, dataset) if ignored is None else ignored
                    for label in ignored:
                        wrong = wrong[wrong != label]
                if len(wrong):
                    raise ValueError(
                        f'{shown(sample.get("seg_map_path") or sample.get("img_path"))} has the label '
                        f'{int(wrong[0])}, but '
                        f'{type(dataset).__name__} has {len(classes)} classes: labels from 0 to {len(classes) - 1}. '
                        f'{more_names(dataset, int(wrong.max()) if wrong.min() >= 0 else -1)}'
                    )


def _all_in_range(samples, classes):
    """Compare the labels of images in one step for a batch. Samples that have other labels, or none, give False."""
    labels = []
    for sample in samples:
        label = sample.get('gt_label') if hasattr(sample, 'get') else None
        if not isinstance(label, torch.Tensor) or sample.get('gt_sem_seg') is not None:
            return False
        labels.append(label)
    if not labels:
        return True
    labels = torch.cat([label.flatten() for label in labels])
    return bool(((labels >= 0) & (labels < classes)).all())


def check_heads(model, dataset, scored=''):
    """Compare the number of classes of each head with those of a dataset.

    Args:
        model: the model.
        dataset: of the training, or of what ``scored`` says.
        scored: ``'validation'`` or ``'test'``: these need the classes that the model was trained on.

    Raises:
        ValueError: the numbers differ, or the classes are not a list of names; says what to correct.
    """
    meta = metainfo_of(dataset)
    classes = meta.get('classes')
    if classes is None or (scored and has_free_classes(model)):
        return
    check_class_list(classes)
    for part in dataset_parts(dataset):
        check_categories(part)
    # a panoptic dataset names things and stuff, and a head may be for one of both
    counts = {len(names) for names in (classes, meta.get('thing_classes'), meta.get('stuff_classes')) if names}
    for name, count in head_counts(model).items():
        if count in counts:
            continue
        has = f'{name}.num_classes is {count}, but {type(dataset).__name__} has {len(classes)} classes'
        if scored:
            raise ValueError(
                f'{has}: {listed(classes)}. The {scored} data need the {count} classes that the model was trained '
                f'on: correct metainfo.classes, folders or annotation file of the {scored} data'
            )
        raise ValueError(
            f'{has}: {listed(classes)}. Set model.{name}.num_classes={len(classes)}, or, if these are not the '
            'classes that you mean, metainfo.classes of the dataset'
        )


def head_counts(model):
    """Return ``num_classes`` of each head that has the classes of the data: {name of the head: number}."""
    counts = {}
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        # a distributed wrapper puts these before the names
        name = name.removeprefix('module.').removeprefix('_fsdp_wrapped_module.')
        is_head = re.search(r'head(\.\d+)?$', name) and not _OTHER_CLASSES.search(name)
        if is_head and count is not None and type(module).__name__ not in TEXT_HEADS:
            counts[name] = count
    return counts


def check_class_list(classes):
    """Refuse classes that are a text: ``('red')`` without a comma is the text ``'red'``, which has three letters.

    Raises:
        ValueError: gives the text and what to write.
    """
    if isinstance(classes, str):
        raise ValueError(f'the classes are the text {classes!r}. Write a tuple of names, with a comma: ({classes!r},)')


def check_categories(dataset):
    """Refuse a dataset whose COCO file has another number of categories with the names of its classes.

    Raises:
        ValueError: a class is not in the file, or two categories have one name.
    """
    found, classes = getattr(dataset, 'cat_ids', None), metainfo_of(dataset).get('classes')
    if found is None or classes is None or len(found) == len(classes):
        return
    if len(found) > len(classes):
        raise ValueError(
            f'{shown(dataset.ann_file)} has {len(found)} categories with the {len(classes)} names {listed(classes)}: '
            'several '
            'categories have one name. Give each a name of its own'
        )
    raise ValueError(
        f'{shown(dataset.ann_file)} has {len(found)} of the {len(classes)} classes of {type(dataset).__name__}, '
        f'{listed(classes)}. The objects of the other classes would be left out, and the labels would belong to wrong '
        'names. Spell metainfo.classes as the categories of the file are spelled'
    )
