"""A head for other classes than the data has: an error before it is trained for days, or with a name."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compare every head's ``num_classes`` with the classes that the data set names, and with every label.

    Region proposals have one class whatever the data, and are left out. Labels are looked at before each iteration:
    on a GPU one that no class has would end the process with an assertion of the device, and in a score mmseg leaves
    its pixels out.

    Raises:
        ValueError: they differ; names the head, the data set and the key to set. A class that the annotation file
            does not know. A label that no class has; names the image.
    """

    def before_train(self, runner):
        self._check(runner.model, runner.train_dataloader.dataset)

    def before_val_epoch(self, runner):
        self._check(runner.model, runner.val_dataloader.dataset)

    def before_test_epoch(self, runner):
        self._check(runner.model, runner.test_dataloader.dataset)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._check_labels(data_batch, runner.train_dataloader.dataset)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self._check_labels(data_batch, runner.val_dataloader.dataset)

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        self._check_labels(data_batch, runner.test_dataloader.dataset)

    @staticmethod
    def _check(model, dataset):
        classes = getattr(dataset, 'metainfo', {}).get('classes')
        if classes is None:
            return
        found = getattr(dataset, 'cat_ids', classes)  # of a COCO file, those of the classes that it has
        if len(found) != len(classes):
            raise ValueError(
                f'{dataset.ann_file} has {len(found)} of the {len(classes)} classes of {type(dataset).__name__}, '
                f'{", ".join(map(str, classes))}: the objects of the others would be left out, and classes be '
                "counted off wrongly; spell metainfo.classes as the file's categories are"
            )
        for name, module in model.named_modules():
            count = getattr(module, 'num_classes', None)
            name = name.removeprefix('module.').removeprefix('_fsdp_wrapped_module.')  # under a distributed wrapper
            is_head = name.endswith('head') and not name.endswith('rpn_head')
            if is_head and count not in (None, len(classes)):
                raise ValueError(
                    f'{name}.num_classes is {count}, {type(dataset).__name__} has {len(classes)} classes: set '
                    f'model.{name}.num_classes={len(classes)}, or metainfo.classes of the data set'
                )

    @staticmethod
    def _check_labels(batch, dataset):
        classes = getattr(dataset, 'metainfo', {}).get('classes')
        samples = batch.get('data_samples') if isinstance(batch, dict) else None
        if classes is None or not isinstance(samples, (list, tuple)):
            return
        for sample in samples:
            if not hasattr(sample, 'get'):  # the views of a test-time augmentation
                continue
            for name, ignored in (('gt_sem_seg', getattr(dataset, 'ignore_index', 255)), ('gt_label', None)):
                labels = sample.get(name)
                labels = getattr(labels, 'data', labels)
                if labels is None:
                    continue
                wrong = (labels < 0) | (labels >= len(classes))
                wrong = labels[wrong if ignored is None else wrong & (labels != ignored)]
                if len(wrong):
                    raise ValueError(
                        f'{sample.get("seg_map_path") or sample.get("img_path")} has label {int(wrong[0])}, '
                        f'{type(dataset).__name__} has {len(classes)} classes, 0 to {len(classes) - 1}'
                    )
