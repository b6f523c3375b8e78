"""How well each gradient of the deformable scan's order predicts the loss that swapped tokens really give."""

import torch
from torch.nn import functional as F

from ..ops import TokenOrder
from ..scans.deformable import ORDER_GRADIENTS, DeformableScan
from .instances import attributes_replaced


def ordered_scans(model):
    """Return the deformable scans of a model that learn an order, ``{name: scan}``."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, DeformableScan) and module.order
    }


def predicted_gains(losses, scan):
    """Predict the effect of swapping neighbouring tokens, once with each order gradient.

    To swap steps i and i + 1, the first token needs a higher key and the second one a lower key. A gradient g with
    respect to the keys therefore predicts a gain proportional to g[first] - g[second].

    Args:
        losses: a function without arguments that runs the model, in eval mode, and returns one loss per image, (B,).
        scan: the :class:`~mmdefmamba.scans.DeformableScan` with the order.

    Returns:
        dict of order gradient to predictions (B, L - 1), and the order (B, L).
    """
    seen, token_order = {}, scan.token_order

    def record(index_offset):
        order = token_order(index_offset)
        seen.update(index_offset=index_offset, order=order.order)
        return order

    predicted = {}
    for name in ORDER_GRADIENTS:
        with attributes_replaced(scan, order_gradient=name, token_order=record):
            grad = torch.autograd.grad(losses().sum(), seen['index_offset'])[0]
        by_step = grad.gather(1, seen['order'])
        predicted[name] = by_step[:, :-1] - by_step[:, 1:]
    return predicted, seen['order']


@torch.no_grad()
def measured_gains(losses, scan, order):
    """Measure how much each image's loss changes when steps i and i + 1 of a scan are swapped.

    The model runs L times.

    Args:
        losses, scan: as for :func:`predicted_gains`.
        order: the scan's order, (B, L).

    Returns:
        (B, L - 1).
    """
    gains = []
    for i in range(-1, order.shape[1] - 1):
        swapped = order.clone()
        if i >= 0:
            swapped[:, [i, i + 1]] = order[:, [i + 1, i]]
        fixed = TokenOrder.from_order(swapped)
        with attributes_replaced(scan, token_order=lambda _, fixed=fixed: fixed):
            gains.append(losses())
    return torch.stack(gains[1:], dim=1) - gains[0].unsqueeze(1)


def agreement(predicted, measured):
    """Score how well predictions agree with measurements.

    Args:
        predicted, measured: (B, L - 1).

    Returns:
        dict: ``cosine``, the cosine similarity of the two, averaged over images; ``sign``, the share of correct signs
        among the swaps that change the loss. A random prediction has 0 and 0.5.
    """
    changes = measured != 0
    right = (predicted.sign() == measured.sign())[changes]
    cosine = F.cosine_similarity(predicted, measured, dim=1).mean()
    return {'cosine': float(cosine), 'sign': float(right.double().mean())}


def compare_order_gradients(classifier, images, labels):
    """Compare all order gradients on every deformable scan of a classifier.

    Args:
        classifier: an mmpretrain classifier; it is left in float64 and in eval mode.
        images: preprocessed, (B, 3, height, width).
        labels: (B,), int64.

    Returns:
        dict of (name of the scan, order gradient) to :func:`agreement`.

    Raises:
        ValueError: the model does not have a deformable scan that learns an order.
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
