"""Device functions that the kernels of this folder share: division, GELU with its slope, and tanh."""

import triton
import triton.language as tl

from ..triton_scan.blocks import LOG2_E

SQRT_HALF = tl.constexpr(0.7071067811865476)
HALF_OF_SQRT_TWO_OVER_PI = tl.constexpr(0.3989422804014327)


@triton.jit
def quotient(x, y):
    """Return x / y in float32, correctly rounded; ``y`` may be an integer.

    Compiled for an NVIDIA GPU, a plain division may be off by two units in the last place. A mean that is off by them
    shifts all numbers that it is subtracted from: at a mean of 1000 by 1e-4.
    """
    return tl.div_rn(x, tl.zeros_like(x) + y)


@triton.jit
def sum_along(x, AXIS: tl.constexpr):
    """Return the sum of x along an axis, the same bits in each lane that holds it.

    If x is a product, a bare sum is fused with the first addition of another lane's: a * b + rounded(c * d). The other
    lane computes c * d + rounded(a * b), and both write the sum to one place. An addition of zero is fused instead.
    """
    return tl.sum(x + 0.0, AXIS)


@triton.jit
def sum_of_squares(x, AXIS: tl.constexpr):
    """Return the sum of x * x along an axis, as :func:`sum_along`.

    The compiler would remove an addition of zero, because a square is never -0.
    """
    return -sum_along(x * -x, AXIS)


@triton.jit
def gelu_and_slope(x):
    """Return GELU(x) = x * Phi(x), with the normal distribution Phi and no approximation by tanh, and its derivative.

    Phi(-z) is exp(-z^2 / 2) times a polynomial of t = 1 / (1 + 0.35 z / sqrt(2)), of degree 7. Its coefficients were
    fitted here; its largest error is 2e-9, far less than the rounding of float32. Unlike a library's erf it has no
    branches, and the derivative needs the same exponential.
    """
    z = tl.abs(x) * SQRT_HALF
    t = 1.0 / (1.0 + 0.35 * z)
    series = -0.09630604434361828
    series = series * t + 0.372561939116076
    series = series * t - 0.3116520695903232
    series = series * t + 0.3102547626919029
    series = series * t + 0.015786141806206865
    series = series * t + 0.11126803070650998
    series = series * t + 0.09808723812140075
    e = tl.exp2(z * z * -LOG2_E)
    tail = series * t * e
    below = tl.where(x < 0, tail, 1.0 - tail)
    return x * below, below + x * e * HALF_OF_SQRT_TWO_OVER_PI


@triton.jit
def tanh_of(x):
    """Return tanh(x). Near zero it is a series: 1 - exp(-2x) would lose the digits of a small x."""
    q = x * x
    series = -1382.0 / 155925
    series = series * q + 62.0 / 2835
    series = series * q - 17.0 / 315
    series = series * q + 2.0 / 15
    series = series * q - 1.0 / 3
    near = x + x * q * series
    e = tl.exp2(tl.abs(x) * (-2.0 * LOG2_E))
    far = quotient(1.0 - e, 1.0 + e)
    return tl.where(q < 0.0625, near, tl.where(x < 0, -far, far))
