"""A hook that keeps the weights of every rank; a test config imports it."""

from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SaveRankWeights(Hook):
    def after_train(self, runner):
        torch.save(runner.model.state_dict(), Path(runner.work_dir, f'weights_of_rank{runner.rank}.pth'))
