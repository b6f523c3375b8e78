"""Focal losses, which mmdet and others send to mmcv's compiled operators for tensors on a GPU.

A probability below the smallest float32 counts as that number in a logarithm, as in mmcv.
"""

import torch
import torch.nn.functional as F

from .dtypes import promoted

__all__ = [
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softmax_focal_loss_backward',
    'softmax_focal_loss_forward',
]


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """Focal loss of independent classes; writes ``output``.

    Args:
        input: logits, any float type, (N, classes).
        target: the class of each row, int64, (N,). Any other number, such as the number of classes, is background.
        weight: a factor per class, that of a row is the one of its target, (classes,); or empty, (0,).
        output: written, (N, classes).
        gamma: exponent of the factor that makes easy examples count less.
        alpha: factor of the rows of a class; 1 - alpha is that of all others.

    Raises:
        ValueError: there are weights, and a target that is no class.

    Source: the call contract of ``mmcv.ops.sigmoid_focal_loss``; Focal Loss for Dense Object Detection, section 3.
    """
    factors, is_class, p, log_p, log_not_p = _sigmoid_terms(input, target, weight, alpha)
    loss = torch.where(is_class, (1 - p) ** gamma * log_p, p**gamma * log_not_p)
    output.copy_(-factors * loss)


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha):
    """Gradient of the sum of :func:`sigmoid_focal_loss_forward` to ``input``; writes ``grad_input``."""
    factors, is_class, p, log_p, log_not_p = _sigmoid_terms(input, target, weight, alpha)
    slope_of_class = (1 - p) ** gamma * (1 - p - gamma * p * log_p)
    slope_of_others = p**gamma * (gamma * (1 - p) * log_not_p - p)
    grad_input.copy_(-factors * torch.where(is_class, slope_of_class, slope_of_others))


def softmax_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """Focal loss of exclusive classes; writes ``output``.

    Args:
        input: probabilities, the softmax of the logits, any float type, (N, classes).
        target: the class of each row, int64, (N,). A row with a negative one has the loss 0.
        weight: a factor per class, that of a row is the one of its target, (classes,); or empty, (0,).
        output: written, (N,).
        gamma: exponent of the factor that makes easy examples count less.
        alpha: factor of all rows.

    Raises:
        ValueError: there are weights, and a target that is no class; or a target is the number of classes or more.

    Source: the call contract of ``mmcv.ops.softmax_focal_loss``.
    """
    factors, p, log_p = _softmax_terms(input, target, weight, alpha)
    output.copy_(-factors * (1 - p) ** gamma * log_p)


def softmax_focal_loss_backward(input, target, weight, buff, grad_input, gamma, alpha):
    """Gradient of the sum of :func:`softmax_focal_loss_forward` to the logits; writes ``grad_input``.

    Args:
        input: probabilities, (N, classes).
        buff: not used.
        grad_input: written, (N, classes).

    The other arguments are those of the forward.
    """
    factors, p, log_p = _softmax_terms(input, target, weight, alpha)
    slope = factors * (gamma * (1 - p) ** (gamma - 1) * p * log_p - (1 - p) ** gamma)
    is_class = F.one_hot(target.clamp(min=0), input.shape[1])
    grad_input.copy_(slope[:, None] * (is_class - input.to(p.dtype)))


def _sigmoid_terms(input, target, weight, alpha):
    (logits,) = promoted(input)
    is_class = target[:, None] == torch.arange(input.shape[1], device=input.device)
    factors = torch.full_like(logits, 1 - alpha).masked_fill(is_class, alpha)
    p = logits.sigmoid()
    return factors * _class_weights(weight, target, p.dtype)[:, None], is_class, p, _log(p), _log(1 - p)


def _softmax_terms(input, target, weight, alpha):
    classes = input.shape[1]
    if (target >= classes).any():
        raise ValueError(f'targets must be less than the number of classes, {classes}, got {int(target.max())}')
    (probabilities,) = promoted(input)
    p = probabilities.gather(1, target.clamp(min=0)[:, None])[:, 0]
    factors = torch.full_like(p, alpha).masked_fill(target < 0, 0) * _class_weights(weight, target, p.dtype)
    return factors, p, _log(p)


def _class_weights(weight, target, dtype):
    """Return the weight of each row's target, (N,)."""
    if not weight.numel():
        return torch.ones((), dtype=dtype, device=target.device).expand(len(target))
    wrong = (target < 0) | (target >= len(weight))
    if wrong.any():
        raise ValueError(
            f'with a weight per class, targets must be classes from 0 to {len(weight) - 1}, got '
            f'{int(target[wrong][0])}: leave out the weights, or the rows of other targets'
        )
    return weight.to(dtype)[target]


def _log(p):
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()
