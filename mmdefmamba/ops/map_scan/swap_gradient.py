"""A gradient for a learned order: how the loss changes when two neighbouring tokens of the order change places."""

import torch
import torch.nn.functional as F

from ..precision import at_least_float32


def swap_gradient(y, u, delta, A, B, C, delta_bias, order):
    """Return the result of a scan unchanged, and give the keys that made its order a gradient.

    The loss does not change with the keys s as long as the order stays the same. A loss smoothed by noise does: with
    logistic noise of scale tau on the gap between two neighbours of the order, they change places with probability
    sigmoid(-gap / tau). To first order in these probabilities the smoothed loss is

        loss + sum_i sigmoid((s_i - s_(i+1)) / tau) * gain_i

    summed over the steps i of the scan, where gain_i is the change of the loss when steps i and i + 1 change places.
    The keys receive the gradient of this smoothed loss. tau is 2 / (L - 1), one place of the reference index.

    gain_i follows from the state space model in closed form. It is exact, except that the loss is linearised in y. Let
    a, b be the tokens of the two steps, h the state before them, w = exp(delta A) the decay of a token, v = delta B u
    its input, g the gradient of y, and m the gradient that later steps send to the state after both. Then

        gain = g_a C_a w_a ((w_b - 1) h + v_b) + g_b C_b w_b ((1 - w_a) h - v_a) + m ((w_a - 1) v_b + (1 - w_b) v_a)

    summed over channels and states. The skip D stays at its token and adds nothing.

    This is a loop over tokens in PyTorch: it is meant for comparisons on small maps, not for training on large maps. It
    needs memory for a few times batch * L * channels * N numbers.

    Args:
        y: result of the scan, each token at its own place, (batch, L, channels).
        u, delta, A, B, C, delta_bias: inputs of the scan, each token at its own place: (batch, L, channels) twice,
            (channels, N), (batch, L, N) twice, (channels,).
        order: its :class:`~mmdefmamba.ops.TokenOrder` with ``keys``, (batch, L).

    Returns:
        ``y``.
    """
    inputs = [at_least_float32(x.detach()) for x in (u, delta, A, B, C, delta_bias)]
    return _SwapGradient.apply(y, order.keys, order.order.long(), order.inverse.long(), *inputs)


class _SwapGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, keys, order, inverse, *inputs):
        ctx.save_for_backward(keys, order, inverse, *inputs)
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        keys, order, inverse, u, delta, A, B, C, delta_bias = ctx.saved_tensors

        def in_order(x):
            rows = torch.arange(len(x), device=x.device).unsqueeze(1)
            return x[rows, order]

        delta = F.softplus(in_order(delta) + delta_bias)
        gain = swap_gains(in_order(u), delta, A, in_order(B), in_order(C), in_order(grad.to(u.dtype)))
        length = keys.shape[1]
        temperature = 2 / max(length - 1, 1)
        sorted_keys = keys.gather(1, order)
        closeness = (sorted_keys.diff() / temperature).sigmoid()
        pull = (gain * closeness * (1 - closeness) / temperature).to(keys.dtype)
        grad_sorted = F.pad(pull, (0, 1)) - F.pad(pull, (1, 0))
        return grad, grad_sorted.gather(1, inverse), *[None] * 8


def swap_gains(u, delta, A, B, C, grad):
    """Return the change of <grad, y> when steps i and i + 1 of a selective scan change places, for each i.

    A token takes its time step, B, C and the gradient of its result with it.

    Args:
        u, delta, grad: inputs, time steps after softplus, and gradient of the result, in scan order,
            (batch, L, channels).
        A: decay rates, (channels, N).
        B, C: input and output weights in scan order, (batch, L, N).

    Returns:
        (batch, L - 1).
    """
    decay = torch.exp(delta.unsqueeze(-1) * A)  # (batch, L, channels, N), as all below
    inflow = (delta * u).unsqueeze(-1) * B.unsqueeze(2)
    outflow = grad.unsqueeze(-1) * C.unsqueeze(2)
    before, later = torch.zeros_like(decay), torch.zeros_like(decay)
    for i in range(1, u.shape[1]):
        before[:, i] = decay[:, i - 1] * before[:, i - 1] + inflow[:, i - 1]
    for i in range(u.shape[1] - 2, -1, -1):
        later[:, i] = decay[:, i + 1] * (outflow[:, i + 1] + later[:, i + 1])
    w_a, w_b = decay[:, :-1], decay[:, 1:]
    v_a, v_b = inflow[:, :-1], inflow[:, 1:]
    h, m = before[:, :-1], later[:, 1:]
    gain = outflow[:, :-1] * w_a * ((w_b - 1) * h + v_b) + outflow[:, 1:] * w_b * ((1 - w_a) * h - v_a)
    gain = gain + m * ((w_a - 1) * v_b + (1 - w_b) * v_a)
    return gain.sum((2, 3))
