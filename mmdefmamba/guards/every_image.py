"""The guard ``every_image``: validation and test score every image of their dataset once."""

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from .dataset_parts import dataset_parts


@HOOKS.register_module()
class EveryImageHook(Hook):
    """Put the datasets of validation and test in their test mode.

    Without it: MMEngine's datasets replace an image that is left out (``ignore_empty``) by another one, which is then
    scored twice, unless their config says ``test_mode=True``. The configs of mmdet say so, those of mmpretrain and
    mmseg do not. In test mode such an image stops the run.
    """

    def before_val_epoch(self, runner):
        _use_test_mode(runner.val_dataloader.dataset)

    def before_test_epoch(self, runner):
        _use_test_mode(runner.test_dataloader.dataset)


def _use_test_mode(dataset):
    for part in dataset_parts(dataset):
        if isinstance(part, BaseDataset):
            part.test_mode = True
