"""Suppression of boxes that overlap: plain, soft, and with a record of what was suppressed."""

import torch

from .dtypes import compute_dtype, promoted

__all__ = ['nms', 'nms_match', 'softnms']


def nms(boxes, scores, iou_threshold, offset):
    """Greedy non-maximum suppression.

    Args:
        boxes: (x1, y1, x2, y2), any float type, (N, 4).
        scores: any float type, (N,).
        iou_threshold: a box is dropped if its IoU with a kept box of higher score exceeds this.
        offset: 0, or 1 for boxes whose last pixel belongs to them: width is x2 - x1 + offset.

    Returns:
        Indices of the kept boxes by falling score, int64, (kept,); among equal scores the first box comes first.

    Source: the call contract of ``mmcv.ops.nms``.
    """
    import torchvision  # here: the import takes a second, and only detection needs it

    dtype = compute_dtype(torch.promote_types(boxes.dtype, scores.dtype))
    boxes = boxes.to(dtype)
    boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return torchvision.ops.nms(boxes, scores.to(dtype), iou_threshold)


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Soft non-maximum suppression: overlap lowers the scores of boxes.

    The box with the highest score is taken, again and again. Each time, the scores of the remaining boxes are
    multiplied by a weight that follows from their IoU with the box taken, and boxes below ``min_score`` are dropped.

    Args:
        boxes: (x1, y1, x2, y2), any float type, (N, 4).
        scores: any float type, (N,).
        dets: written: the boxes in the order in which they were taken, with their last scores, (N, 5). Rows after
            those of the kept boxes stay as they are.
        iou_threshold: IoU from which on ``method`` 0 and 1 lower a score.
        sigma: the width of the weight of ``method`` 2.
        min_score: a box is dropped when its score falls below this.
        method: 0 'naive': the weight is 0; 1 'linear': 1 - IoU; 2 'gaussian': exp(-IoU^2 / sigma), at any IoU.
        offset: 0, or 1 for boxes whose last pixel belongs to them: width is x2 - x1 + offset.

    Returns:
        Indices of the kept boxes in the order in which they were taken, int64, (kept,).

    Source: the call contract of ``mmcv.ops.soft_nms``; Soft-NMS, section 3.
    """
    boxes, scores = promoted(boxes, scores)
    area = _areas(boxes, offset)
    table = torch.cat((boxes, scores[:, None]), dim=1)
    indices = torch.arange(len(boxes), device=boxes.device)
    taken, results = [], []
    while len(indices):
        # As in mmcv, the first box changes places with the one that is taken. This decides among equal scores.
        best = int(table[:, 4].argmax())
        order = torch.arange(len(indices), device=boxes.device)
        order[best] = 0
        taken.append(indices[best])
        results.append(table[best])
        order = order[1:]
        iou = _iou(table[best, :4], area[best], table[order, :4], area[order], offset)
        table, area, indices = table[order], area[order], indices[order]
        if method == 2:
            weight = (-(iou * iou) / sigma).exp()
        else:
            weight = torch.where(iou >= iou_threshold, 0 if method == 0 else 1 - iou, torch.ones_like(iou))
        table[:, 4] *= weight
        rest = _close_gaps(~(table[:, 4] < min_score))
        table, area, indices = table[rest], area[rest], indices[rest]
    if not taken:
        return indices
    dets[: len(results)] = torch.stack(results)
    return torch.stack(taken)


def nms_match(dets, iou_threshold):
    """Greedy non-maximum suppression that says which boxes each kept box suppressed.

    Args:
        dets: (x1, y1, x2, y2, score), any float type, (N, 5).
        iou_threshold: a box is suppressed if its IoU with a kept box of higher score is this or more.

    Returns:
        A list with one list of indices per kept box, both by falling score: the kept box, then those it suppressed.

    Source: the call contract of ``mmcv.ops.nms_match``.
    """
    (dets,) = promoted(dets)
    rest = dets[:, 4].sort(descending=True, stable=True).indices
    area = _areas(dets, 0)
    groups = []
    while len(rest):
        first, others = rest[0], rest[1:]
        matched = _iou(dets[first], area[first], dets[others], area[others], 0) >= iou_threshold
        groups.append([int(first), *others[matched].tolist()])
        rest = others[~matched]
    return groups


def _areas(boxes, offset):
    return (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)


def _iou(box, area, boxes, areas, offset):
    """Return the IoU of a box with others, (N,); NaN for two boxes without area."""
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:4], boxes[:, 2:4])
    shared = (high - low + offset).clamp(min=0).prod(dim=1)
    return shared / (area + areas - shared)


def _close_gaps(kept):
    """Return the indices of what is kept, in mmcv's order: the last elements fill the gaps, the very last the first."""
    count = int(kept.sum())
    order = torch.arange(count, device=kept.device)
    gaps = ~kept[:count]
    order[gaps] = kept[count:].nonzero().flatten().flip(0) + count
    return order
