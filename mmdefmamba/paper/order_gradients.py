"""How well each gradient of the deformable scan's order points: against the loss with swapped tokens, measured."""

from contextlib import contextmanager

import torch
from torch.nn import functional as F

from ..ops import TokenOrder
from ..scans.deformable import ORDER_GRADIENTS, DeformableScan


def ordered_scans(model):
    """The deformable scans of a model that learn an order, ``{name: scan}``."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, DeformableScan) and module.order
    }


def predicted_gains(losses, scan):
    """What each order gradient says of swapping tokens that follow each other.

    Swapping steps i and i + 1 takes a higher key for the first and a lower one for the second, so a gradient g of the
    keys predicts a gain proportional to g[first] - g[second].

    Args:
        losses: a function without arguments that runs the model, in eval mode, and returns a loss an image, (B,).
        scan: the :class:`~mmdefmamba.scans.DeformableScan` whose order is looked at.

    Returns:
        dict of order gradient to predictions (B, L - 1), and the order (B, L).
    """
    kept = scan.order_gradient
    predicted = {}
    try:
        for name in ORDER_GRADIENTS:
            scan.order_gradient = name
            with _recorded(scan) as seen:
                grad = torch.autograd.grad(losses().sum(), seen['index_offset'])[0]
            by_step = grad.gather(1, seen['order'])
            predicted[name] = by_step[:, :-1] - by_step[:, 1:]
    finally:
        scan.order_gradient = kept
    return predicted, seen['order']


@contextmanager
def _recorded(scan):
    """Record what a scan's ``token_order`` is given and returns."""
    seen, token_order = {}, scan.token_order

    def record(index_offset):
        order = token_order(index_offset)
        seen.update(index_offset=index_offset, order=order.order)
        return order

    scan.token_order = record
    try:
        yield seen
    finally:
        del scan.token_order


@torch.no_grad()
def measured_gains(losses, scan, order):
    """Change of each image's loss when steps i and i + 1 of a scan change places, (B, L - 1): L runs of the model.

    Args:
        losses, scan: as for :func:`predicted_gains`.
        order: the scan's order, (B, L).
    """
    gains = []
    try:
        for i in range(-1, order.shape[1] - 1):
            swapped = order.clone()
            if i >= 0:
                swapped[:, [i, i + 1]] = order[:, [i + 1, i]]
            fixed = TokenOrder.from_order(swapped)
            scan.token_order = lambda _, fixed=fixed: fixed
            gains.append(losses())
    finally:
        del scan.token_order
    return torch.stack(gains[1:], dim=1) - gains[0].unsqueeze(1)


def agreement(predicted, measured):
    """How far predictions point where measurements do.

    Args:
        predicted, measured: (B, L - 1).

    Returns:
        dict: ``cosine``, the mean over images of the cosine of the two; ``sign``, the share of swaps whose sign is
        right, of those that change the loss at all; 0 and one half are chance.
    """
    changes = measured != 0
    right = (predicted.sign() == measured.sign())[changes]
    cosine = F.cosine_similarity(predicted, measured, dim=1).mean()
    return {'cosine': float(cosine), 'sign': float(right.double().mean())}


def compare_order_gradients(classifier, images, labels):
    """Compare all order gradients on every deformable scan of a classifier.

    Args:
        classifier: an mmpretrain classifier; it comes back in float64 and eval mode.
        images: preprocessed, (B, 3, height, width).
        labels: (B,), int64.

    Returns:
        dict of (name of the scan, order gradient) to :func:`agreement`.

    Raises:
        ValueError: no scan of the model learns an order.
    """
    classifier.double().eval()
    images = images.double()

    def losses():
        logits = classifier(images, mode='tensor')
        logits = classifier.head(logits) if isinstance(logits, tuple) else logits
        return F.cross_entropy(logits, labels, reduction='none')

    scans = ordered_scans(classifier)
    if not scans:
        raise ValueError('the model has no deformable scan that learns an order')
    table = {}
    for name, scan in scans.items():
        predicted, order = predicted_gains(losses, scan)
        measured = measured_gains(losses, scan, order)
        for gradient, gains in predicted.items():
            table[name, gradient] = agreement(gains, measured)
    return table
