"""Pictures of points and scan orders, written while a network is trained."""

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ScanVisualizationHook(Hook):
    """Draw what a block does with a few images, every so many epochs or iterations, and before the first.

    The pictures go to ``runner.visualizer``, that is to all of its backends: as files under ``vis_data/vis_image`` for
    LocalVisBackend, to the images of TensorBoard for TensorboardVisBackend. Training is the same with and without the
    hook, bit for bit: modes and random numbers are put back. Of several processes the first draws.

    Args:
        interval: epochs from one picture to the next, or iterations with ``by_epoch=False``.
        by_epoch: whether ``interval`` counts epochs.
        images: how many to draw, evenly spread over the validation set, or the training set where there is none.
        stage, block: which block, see :func:`~mmdefmamba.analysis.trace_blocks`.
        scan: whose order, see :meth:`~mmdefmamba.analysis.BlockTrace.scan_index`.

    Raises:
        ValueError: an interval or a number of images that is not positive, when built; a block, scan or backbone that
            the model does not have, before training; a model that is sharded over processes, which one of them cannot
            run alone.
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
                'ScanVisualizationHook cannot draw a model that FSDP shards over processes: leave the hook out'
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
        # imported here: matplotlib takes a second that only those who draw should wait for
        from ..analysis.modes import evaluating, same_random_numbers
        from ..analysis.trace import find_backbone, trace_blocks
        from ..visualization import draw_points, draw_scan_order, figure_to_rgb
        from ..visualization.inputs import dataset_images, network_inputs

        # a wrapper's forward talks to the other processes, which are not here
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
