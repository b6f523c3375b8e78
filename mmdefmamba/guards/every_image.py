"""A score over every image of its data set."""

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class EveryImageHook(Hook):
    """Put the data sets of validation and test in their test mode.

    MMEngine's data sets put another image in the place of one that is left out (``ignore_empty``), and score that one
    twice, unless their config says ``test_mode=True``; mmdet's do, mmpretrain's and mmseg's do not. In test mode such
    an image stops the run.
    """

    def before_val_epoch(self, runner):
        _use_test_mode(runner.val_dataloader.dataset)

    def before_test_epoch(self, runner):
        _use_test_mode(runner.test_dataloader.dataset)


def _use_test_mode(dataset):
    for inner in getattr(dataset, 'datasets', []):  # a ConcatDataset
        _use_test_mode(inner)
    if isinstance(dataset, BaseDataset):
        dataset.test_mode = True
