"""The operators ``nms`` and ``roi_align`` of mmcv on torchvision, where mmcv has no compiled operators.

Defect: mmcv publishes no wheel with compiled operators for current PyTorch, and its lite wheel has no operators at all.
``mmdet.models`` and ``mmseg.models`` import all of ``mmcv.ops``, which fails with ``No module named 'mmcv._ext'``.
Seen in: mmcv-lite 2.1.0 with mmdet 3.3.0, mmsegmentation 1.2.2 and torch 2.14.
Can go: when mmcv ships wheels for current PyTorch, or ``mmcv.ops`` imports without them.

The mend provides a module ``mmcv._ext`` with the operators that Mask R-CNN calls, with the meaning that mmcv gives to
their arguments, on CPU and CUDA. Every other operator raises an error when it is called. An installed ``mmcv._ext`` is
never touched.
"""

import itertools
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import NamedTuple

import torch

_NAME = 'mmcv._ext'
_REMEDY = (
    'install mmcv with its compiled operators: `CFLAGS=-g0 MMCV_WITH_OPS=1 FORCE_CUDA=0 pip install '
    '--no-build-isolation mmcv==2.1.0` with setuptools < 82 (FORCE_CUDA=1 on a GPU machine)'
)


def apply(mmcv):
    """Install the stand-in where ``mmcv`` has no compiled extension; returns whether that was needed."""
    # find_spec('mmcv._ext') would answer for modules that are there already
    if _NAME in sys.modules or PathFinder.find_spec(_NAME, mmcv.__path__) is not None:
        return False
    sys.modules[_NAME] = _StandIn()
    return True


class _StandIn(ModuleType):
    """A module ``mmcv._ext`` with the operators that torchvision has."""

    def __init__(self):
        super().__init__(_NAME, __doc__)
        # A spec without a loader: MMEngine's mmcv_full_available() stays False, which is the truth.
        self.__spec__ = ModuleSpec(_NAME, loader=None, origin=__name__)
        self.nms = nms
        self.roi_align_forward = roi_align_forward
        self.roi_align_backward = roi_align_backward
        # mmcv's environment report calls these; 'n/a' is what it prints where it finds no operators.
        self.get_compiler_version = self.get_compiling_cuda_version = lambda: 'n/a'

    def __getattr__(self, name):
        # mmcv.ops takes every operator at import, so only the call may fail. The name of no operator begins with an
        # underscore, but Python and its tools look for __path__, __file__, __wrapped__ and others in modules.
        if name.startswith('_'):
            raise AttributeError(f'module {_NAME!r} has no attribute {name!r}')

        def unavailable(*args, **kwargs):
            raise NotImplementedError(
                f'mmcv operator {name!r} is not available: mmcv was installed without compiled operators, and '
                f'mmdefmamba replaces only nms and roi_align. To use it, {_REMEDY}.'
            )

        return unavailable


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

    dtype = _compute_dtype(torch.promote_types(boxes.dtype, scores.dtype))
    boxes = boxes.to(dtype)
    boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return torchvision.ops.nms(boxes, scores.to(dtype), iou_threshold)


def roi_align_forward(
    input,
    rois,
    output,
    argmax_y,
    argmax_x,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
):
    """Pool bilinear samples of every RoI into a fixed grid of bins; writes ``output``.

    Args:
        input: feature maps, any float type, (batch, channels, height, width).
        rois: (batch index, x1, y1, x2, y2) in image pixels, (N, 5).
        output: written, (N, channels, aligned_height, aligned_width).
        argmax_y, argmax_x: written if ``pool_mode`` is 0: row and column of the winning sample inside its bin, -1
            where the RoI has no samples; for :func:`roi_align_backward` alone. mmcv's own kernel stores coordinates
            in the map there, which half precision cannot hold; sample numbers it can. Shape of ``output``.
        aligned_height, aligned_width: number of bins.
        spatial_scale: map pixels per image pixel.
        sampling_ratio: samples along each side of a bin; 0 takes as many as the bin has pixels, rounded up.
        pool_mode: 0 takes the largest sample of a bin, 1 their mean. A RoI without samples gives 0.
        aligned: True puts pixel centres at half-integer positions; False at integer ones, RoIs at least 1 pixel wide.

    Source: the call contract of ``mmcv.ops.roi_align``; RoIAlign of Mask R-CNN, section 3.
    """
    dtype = _compute_dtype(input.dtype)
    x_BCHW, rois = input.to(dtype), rois.to(dtype)
    if pool_mode == 1:
        import torchvision  # noqa: F401 (registers the operator; torchvision.ops.roi_align may compile another one)

        output.copy_(
            torch.ops.torchvision.roi_align(
                x_BCHW, rois, spatial_scale, aligned_height, aligned_width, sampling_ratio, bool(aligned)
            )
        )
        return

    rows, columns = _axes(rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    pixels = x_BCHW.flatten()
    best = x_BCHW.new_zeros(output.shape)
    best_row, best_column = torch.full_like(best, -1), torch.full_like(best, -1)
    most_rows, most_columns = (int(axis.samples.max()) if len(rois) else 0 for axis in (rows, columns))
    for row, column in itertools.product(range(most_rows), range(most_columns)):
        # RoIs differ in their number of samples: this one exists only in some.
        has = ((rows.samples > row) & (columns.samples > column)).flatten()
        corners, inside = _corners(rois[has], rows.at(row)[has], columns.at(column)[has], input.shape)
        value = sum(pixels[index] * weight for index, weight in corners).where(inside, 0)
        # The first sample always wins, then the larger; NaN beats all, it must not vanish in a comparison.
        wins = (best_row[has] < 0) | (value > best[has]) | value.isnan()
        best[has] = value.where(wins, best[has])
        best_row[has] = best_row[has].masked_fill(wins, row)
        best_column[has] = best_column[has].masked_fill(wins, column)
    output.copy_(best)
    argmax_y.copy_(best_row)
    argmax_x.copy_(best_column)


def roi_align_backward(
    grad_output,
    rois,
    argmax_y,
    argmax_x,
    grad_input,
    aligned_height,
    aligned_width,
    spatial_scale,
    sampling_ratio,
    pool_mode,
    aligned,
):
    """Gradient of :func:`roi_align_forward` to ``input``; adds to ``grad_input``.

    Args:
        grad_output: gradient of ``output``, (N, channels, aligned_height, aligned_width).
        rois, argmax_y, argmax_x: as given to and written by the forward.
        grad_input: added to, (batch, channels, height, width).
        aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned: as in the forward.
    """
    dtype = _compute_dtype(grad_output.dtype)
    grad, rois = grad_output.to(dtype), rois.to(dtype)
    if pool_mode == 1:
        import torchvision  # noqa: F401 (registers the operator)

        grad_input += torch.ops.torchvision._roi_align_backward(
            grad, rois, spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, bool(aligned)
        )
        return

    rows, columns = _axes(rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    y, x = rows.at(argmax_y.to(dtype)), columns.at(argmax_x.to(dtype))
    corners, inside = _corners(rois, y, x, grad_input.shape)
    inside = inside & (argmax_y >= 0)
    total = grad.new_zeros(grad_input.numel())
    for index, weight in corners:
        total.index_add_(0, index.flatten(), (grad * weight).where(inside, 0).flatten())
    grad_input += total.view_as(grad_input)


class _Axis(NamedTuple):
    """Where the samples of every RoI lie along one side of the map; all broadcast to (N, channels, rows, columns)."""

    start: torch.Tensor
    bin: torch.Tensor
    bin_size: torch.Tensor
    samples: torch.Tensor

    def at(self, sample):
        """Position in the map of this sample of each bin."""
        return self.start + self.bin * self.bin_size + (sample + 0.5) * self.bin_size / self.samples


def _axes(rois, height, width, spatial_scale, sampling_ratio, aligned):
    axes = []
    for low, high, shape in ((2, 4, (height, 1)), (1, 3, (1, width))):
        start = rois[:, low, None, None, None] * spatial_scale - 0.5 * aligned
        length = rois[:, high, None, None, None] * spatial_scale - 0.5 * aligned - start
        if not aligned:
            length = length.clamp(min=1)
        bin_size = length / max(shape)
        samples = torch.full_like(bin_size, sampling_ratio) if sampling_ratio > 0 else bin_size.ceil()
        axes.append(_Axis(start, torch.arange(max(shape), device=rois.device).view(shape), bin_size, samples))
    return axes


def _corners(rois, y, x, shape):
    """The pixels around each point: four pairs of flat index and bilinear weight; and whether it is near the map."""
    channels, height, width = shape[1:]
    inside = True
    near = []
    for position, size in ((y, height), (x, width)):
        # A point may lie up to one pixel outside, then the border pixel counts.
        close = (position >= -1) & (position <= size)
        inside = inside & close
        position = position.where(close, 0).clamp(0, size - 1)
        low = position.long()
        near.append(((low, low + 1 - position), ((low + 1).clamp(max=size - 1), position - low)))
    plane = rois[:, 0, None, None, None].long() * channels + torch.arange(channels, device=rois.device)[:, None, None]
    # A generator: one index is as large as the output, four at once are not needed.
    corners = (
        ((plane * height + y_near) * width + x_near, y_weight * x_weight)
        for (y_near, y_weight), (x_near, x_weight) in itertools.product(*near)
    )
    return corners, inside


def _compute_dtype(dtype):
    # Half types have no kernel on the CPU, no bfloat16 one anywhere, and hold no position in a map to a pixel.
    return torch.float64 if dtype == torch.float64 else torch.float32
