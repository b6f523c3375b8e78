"""Test-time augmentation of instance segmentation; a config names the class with this module. It needs mmdet."""

import torch
from mmcv.ops import batched_nms
from mmdet.models.test_time_augs import DetTTAModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData


@MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
    """mmdet's :class:`DetTTAModel` with masks, which that class refuses. Each merged box keeps its own mask.

    Args:
        tta_cfg: ``nms`` and ``max_per_img`` of the merged result.
        **kwargs: as for any ``BaseTTAModel``.
    """

    def _merge_single_sample(self, data_samples):
        if 'masks' not in data_samples[0].pred_instances:
            return super()._merge_single_sample(data_samples)
        views = [sample.pred_instances for sample in data_samples]
        metas = [sample.metainfo for sample in data_samples]
        boxes, scores = self.merge_aug_bboxes([v.bboxes for v in views], [v.scores for v in views], metas)
        if not len(boxes):
            return data_samples[0]  # batched_nms does not take an empty list
        labels = torch.cat([view.labels for view in views])
        masks = torch.cat([_unflipped(view.masks, meta) for view, meta in zip(views, metas, strict=True)])
        merged, keep = batched_nms(boxes, scores, labels, self.tta_cfg.nms)
        merged, keep = merged[: self.tta_cfg.max_per_img], keep[: self.tta_cfg.max_per_img]
        data_samples[0].pred_instances = InstanceData(
            bboxes=merged[:, :-1], scores=merged[:, -1], labels=labels[keep], masks=masks[keep]
        )
        return data_samples[0]


def _unflipped(masks, meta):
    if not meta['flip']:
        return masks
    dims = dict(horizontal=(2,), vertical=(1,), diagonal=(1, 2))
    return masks.flip(dims[meta['flip_direction']])
