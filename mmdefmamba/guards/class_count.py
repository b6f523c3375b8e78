"""The guard ``class_count``: the head, the dataset and the labels agree on the number of classes."""

import re
from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

# Heads whose num_classes is not the number of classes of the dataset: proposals have one class, the semantic branch of
# a detector has those of another annotation, and for heads that are given a text it is the length of the text.
_OTHER_CLASSES = re.compile(r'(rpn|semantic)_head(\.\d+)?$')
_TEXT_HEADS = ('ATSSVLFusionHead', 'GroundingDINOHead', 'YOLOWorldHead')


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
        self._check(runner.model, runner.train_dataloader.dataset)

    def before_val_epoch(self, runner):
        self._check(runner.model, runner.val_dataloader.dataset)

    def before_test_epoch(self, runner):
        self._check(runner.model, runner.test_dataloader.dataset)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._check_labels(runner.model, data_batch, runner.train_dataloader.dataset)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self._check_labels(runner.model, data_batch, runner.val_dataloader.dataset)

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        self._check_labels(runner.model, data_batch, runner.test_dataloader.dataset)

    @staticmethod
    def _check(model, dataset):
        meta = _metainfo(dataset)
        classes = meta.get('classes')
        if classes is None:
            return
        found = getattr(dataset, 'cat_ids', classes)  # for a COCO file: the categories whose names are in classes
        if len(found) != len(classes):
            raise ValueError(
                f'{dataset.ann_file} has {len(found)} of the {len(classes)} classes of {type(dataset).__name__}, '
                f'{", ".join(map(str, classes))}. The objects of the other classes would be left out, and the labels '
                'would belong to wrong names. Spell metainfo.classes as the categories of the file are spelled'
            )
        # a panoptic dataset names things and stuff, and a head may be for one of both
        counts = {len(names) for names in (classes, meta.get('thing_classes'), meta.get('stuff_classes')) if names}
        for name, module in model.named_modules():
            count = getattr(module, 'num_classes', None)
            # a distributed wrapper puts these before the names
            name = name.removeprefix('module.').removeprefix('_fsdp_wrapped_module.')
            is_head = re.search(r'head(\.\d+)?$', name) and not _OTHER_CLASSES.search(name)
            if not is_head or type(module).__name__ in _TEXT_HEADS or count in (None, *counts):
                continue
            raise ValueError(
                f'{name}.num_classes is {count}, but {type(dataset).__name__} has {len(classes)} classes. Set '
                f'model.{name}.num_classes={len(classes)}, or metainfo.classes of the dataset'
            )

    @staticmethod
    def _check_labels(model, batch, dataset):
        classes = _metainfo(dataset).get('classes')
        samples = batch.get('data_samples') if isinstance(batch, dict) else None
        if classes is None or not isinstance(samples, (list, tuple)):
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
                    ignored = _ignored_labels(model, dataset) if ignored is None else ignored
                    for label in ignored:
                        wrong = wrong[wrong != label]
                if len(wrong):
                    raise ValueError(
                        f'{sample.get("seg_map_path") or sample.get("img_path")} has the label {int(wrong[0])}, but '
                        f'{type(dataset).__name__} has {len(classes)} classes: labels from 0 to {len(classes) - 1}'
                    )


def _ignored_labels(model, dataset):
    """Return the labels that a dataset or a module of the model leaves out of loss and score."""
    found = {getattr(dataset, 'ignore_index', 255)}
    found |= {getattr(module, 'ignore_index', None) for module in model.modules()}
    return {label for label in found if isinstance(label, int)}


def _metainfo(dataset):
    """Return the metainfo of a dataset; empty where it has none, or one for each of its parts, as a ConcatDataset."""
    meta = getattr(dataset, 'metainfo', None)
    return meta if isinstance(meta, Mapping) else {}
