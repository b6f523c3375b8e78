"""A hook that draws points and scan orders during training."""

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ScanVisualizationHook(Hook):
    """Draw what a block does with a few images, before training and then at a fixed interval.

    The pictures go to all backends of ``runner.visualizer``: LocalVisBackend writes files under ``vis_data/vis_image``,
    TensorboardVisBackend adds images to TensorBoard. The hook restores modes and random numbers, so training is the
    same with and without it, bit for bit. In a distributed run the first process draws.

    Args:
        interval: epochs from one picture to the next; iterations with ``by_epoch=False``.
        by_epoch: whether ``interval`` counts epochs.
        images: how many images to draw, evenly spread over the validation set, or over the training set without one.
        stage, block: which block to draw, see :func:`~mmdefmamba.analysis.trace_blocks`.
        scan: the scan whose order is drawn, see :meth:`~mmdefmamba.analysis.BlockTrace.scan_index`.

    Raises:
        ValueError: when built: an interval or a number of images that is not positive. Before training: a block, scan
            or backbone that the model does not have, or a model that FSDP shards over processes, since one process
            cannot run it alone.
    """

    priority = 'LOW'

    def __init__(self, interval=1, by_epoch=True, images=2, stage=0, block=-1, scan=None):
        for name, value in (('interval', interval), ('images', images)):
            if value < 1:
                raise ValueError(f'{name} must be positive, got {value}')
        self.interval, self.by_epoch, self.images = interval, by_epoch, images
        self.stage, self.block, self.scan = stage, block, scan
        self._data = None

    def before_train(self, runner):
        if 'FullySharded' in type(runner.model).__name__:
            raise ValueError(
                'ScanVisualizationHook cannot draw a model that FSDP shards over processes. Remove the hook'
            )
        self._draw(runner, runner.epoch if self.by_epoch else runner.iter)

    def after_train_epoch(self, runner):
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._draw(runner, runner.epoch + 1)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._draw(runner, runner.iter + 1)

    @master_only
    def _draw(self, runner, step):
        # imported here, because importing matplotlib takes a second
        from ..analysis.modes import evaluating, same_random_numbers
        from ..analysis.trace import find_backbone, trace_blocks
        from ..visualization import draw_points, draw_scan_order, figure_to_rgb
        from ..visualization.inputs import dataset_images, network_inputs

        # not the wrapper: its forward would wait for the other processes
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        with evaluating(model), same_random_numbers(), torch.no_grad():
            loop = runner.val_loop or runner.train_loop
            self._data = self._data or dataset_images(loop.dataloader, self.images)
            for i, data in enumerate(self._data):
                inputs, (picture,) = network_inputs(model, data)
                _, (trace,) = trace_blocks(
                    find_backbone(model), inputs, stages=self.stage, blocks=self.block, state_space=False
                )
                figures = {'scan_order': draw_scan_order(picture, trace, scan=self.scan)}
                if trace.points is not None:
                    figures['points'] = draw_points(picture, trace)
                for kind, figure in figures.items():
                    runner.visualizer.add_image(f'{kind}_{trace.label}_{i}', figure_to_rgb(figure), step)
