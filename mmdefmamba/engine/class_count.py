"""A head for another number of classes than the data set has: an error before the first step instead of after days."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compare every head's ``num_classes`` with the classes that the data set names.

    Region proposals have one class whatever the data, and are left out.

    Raises:
        ValueError: they differ; names the head, the data set and the key to set.
    """

    def before_train(self, runner):
        self._check(runner.model, runner.train_dataloader.dataset)

    def before_val_epoch(self, runner):
        self._check(runner.model, runner.val_dataloader.dataset)

    def before_test_epoch(self, runner):
        self._check(runner.model, runner.test_dataloader.dataset)

    @staticmethod
    def _check(model, dataset):
        classes = getattr(dataset, 'metainfo', {}).get('classes')
        if classes is None:
            return
        for name, module in model.named_modules():
            count = getattr(module, 'num_classes', None)
            name = name.removeprefix('module.').removeprefix('_fsdp_wrapped_module.')  # under a distributed wrapper
            is_head = name.endswith('head') and not name.endswith('rpn_head')
            if is_head and count not in (None, len(classes)):
                raise ValueError(
                    f'{name}.num_classes is {count}, {type(dataset).__name__} has {len(classes)} classes: set '
                    f'model.{name}.num_classes={len(classes)}, or metainfo.classes of the data set'
                )
