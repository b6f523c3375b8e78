import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.structures import InstanceData

from mmdefmamba.engine.instance_tta import InstanceTTAModel

HEIGHT, WIDTH = 20, 30


class Module(BaseModel):
    def forward(self, inputs, data_samples=None, mode='predict'):
        raise AssertionError('merging predictions must not call the model')


def view(boxes, scores, labels, flip):
    """Return a prediction of one view. Its masks are filled boxes."""
    masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    meta = dict(ori_shape=(HEIGHT, WIDTH), flip=flip, flip_direction='horizontal' if flip else None)
    instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels, dtype=torch.long),
        masks=masks,
    )
    return DetDataSample(metainfo=meta, pred_instances=instances)


def merge(*views, max_per_img=10):
    tta_cfg = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=max_per_img)
    model = InstanceTTAModel(tta_cfg=tta_cfg, module=Module())
    return model.merge_preds([list(views)])[0].pred_instances


def test_masks_of_flipped_views_are_flipped_back_with_their_boxes():
    plain = view([[2, 3, 8, 9]], [0.6], [1], flip=False)
    # the same object, flipped and with a higher score, and an object that only this view has
    flipped = view([[22, 3, 28, 9], [0, 10, 5, 18]], [0.9, 0.5], [1, 4], flip=True)
    merged = merge(plain, flipped)
    torch.testing.assert_close(merged.bboxes, torch.tensor([[2.0, 3, 8, 9], [25, 10, 30, 18]]))
    torch.testing.assert_close(merged.scores, torch.tensor([0.9, 0.5]))
    assert merged.labels.tolist() == [1, 4]
    for mask, (left, top, right, bottom) in zip(merged.masks, merged.bboxes.int().tolist(), strict=True):
        assert mask[top:bottom, left:right].all()
        assert mask.sum() == (bottom - top) * (right - left)
    assert len(merge(plain, flipped, max_per_img=1)) == 1


def test_merging_empty_predictions_gives_empty_predictions():
    empty = [view([], [], [], flip) for flip in (False, True)]
    merged = merge(*empty)
    assert merged.bboxes.shape == (0, 4)
    assert merged.masks.shape == (0, HEIGHT, WIDTH)
