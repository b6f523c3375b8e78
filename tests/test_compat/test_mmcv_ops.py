"""The stand-in for mmcv's compiled operators, compared with plain NumPy implementations."""

import importlib.machinery
import sys
from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch

from mmdefmamba import compat
from mmdefmamba.compat import mmcv_ops

# The mend installs the stand-in when mmcv is imported, which has happened by now.
HAS_STAND_IN = isinstance(sys.modules.get('mmcv._ext'), mmcv_ops._StandIn)
needs_stand_in = pytest.mark.skipif(not HAS_STAND_IN, reason='mmcv has its own compiled operators here')
DEVICES = [
    'cpu',
    pytest.param(
        'cuda', marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')]
    ),
]

# In image pixels, for maps of 9 x 13 pixels at scale 1: batch index, x1, y1, x2, y2.
ROIS = np.array(
    [
        [0, 1.3, 0.7, 11.2, 7.9],
        [1, 2.0, 3.0, 6.1, 5.05],
        [1, -3.6, -2.2, 5.1, 4.4],  # partly outside
        [0, 9.1, 6.3, 17.4, 12.6],
        [0, -20.0, -20.0, -12.0, -13.0],  # completely outside
        [1, 4.2, 3.1, 4.2, 3.1],  # without area
        [1, 3.0, 1.0, 3.4, 8.5],  # thin
        [0, -2.0, -1.0, 15.0, 10.0],  # larger than the map
        [1, 8.1, 6.2, 3.3, 2.4],  # corners swapped
    ]
)


def bilinear_weights(y, x, height, width):
    """Return the weight of each pixel in the sample at (y, x): it falls linearly to 0 at a distance of one pixel."""
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros((height, width))
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    tent_y = np.maximum(0, 1 - np.abs(y - np.arange(height)))
    tent_x = np.maximum(0, 1 - np.abs(x - np.arange(width)))
    return np.outer(tent_y, tent_x)


def numpy_roi_align(x, rois, size, scale, sampling_ratio, mode, aligned, grad_output=None):
    """Compute the output and the gradient of sum(output * grad_output), bin by bin and sample by sample."""
    output, grad = np.zeros((len(rois), x.shape[1], *size)), np.zeros(x.shape)
    for n, (batch, x1, y1, x2, y2) in enumerate(rois):
        shift = 0.5 if aligned else 0
        low = np.array([y1, x1]) * scale - shift
        extent = np.array([y2, x2]) * scale - shift - low
        if not aligned:
            extent = np.maximum(extent, 1)
        step = extent / size
        samples = [sampling_ratio] * 2 if sampling_ratio else np.maximum(np.ceil(step), 0).astype(int)
        for p, q in np.ndindex(*size):
            weights = [
                bilinear_weights(
                    low[0] + (p + (i + 0.5) / samples[0]) * step[0],
                    low[1] + (q + (j + 0.5) / samples[1]) * step[1],
                    *x.shape[2:],
                )
                for i, j in np.ndindex(*samples)
            ]
            if not weights:
                continue
            for c in range(x.shape[1]):
                values = [(x[int(batch), c] * weight).sum() for weight in weights]
                used = np.mean(weights, axis=0) if mode == 'avg' else weights[int(np.argmax(values))]
                output[n, c, p, q] = np.mean(values) if mode == 'avg' else np.max(values)
                if grad_output is not None:
                    grad[int(batch), c] += used * grad_output[n, c, p, q]
    return output, grad


def run_roi_align(x, rois, grad_output, device, *args):
    from mmcv.ops import roi_align

    x = x.to(device, copy=True).requires_grad_()
    output = roi_align(x, rois.to(device), *args)
    output.backward(grad_output.to(device))
    assert output.dtype == x.grad.dtype == x.dtype
    return output.detach().cpu().double().numpy(), x.grad.cpu().double().numpy()


def rounded(dtype, *shape, seed=0):
    """Return random values that the dtype represents exactly."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('scale', [1.0, 0.5, 0.3])
@pytest.mark.parametrize('size', [(3, 2), (1, 4)])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_matches_numpy_reference(mode, aligned, sampling_ratio, size, scale, device):
    x, grad_output = rounded(torch.float32, 2, 2, 9, 13), rounded(torch.float32, len(ROIS), 2, *size, seed=1)
    rois = ROIS.copy()
    rois[:, 1:] /= scale
    rois = torch.from_numpy(rois).float()
    args = (size, scale, sampling_ratio, mode, aligned)
    output, grad = run_roi_align(x, rois, grad_output, device, *args)
    expected, expected_grad = numpy_roi_align(x.numpy(), rois.double().numpy(), *args, grad_output.numpy())
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(output, expected, atol=2e-5)
    np.testing.assert_allclose(grad, expected_grad, atol=2e-5)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_in_half_precision_rounds_only_the_result(mode, dtype, device):
    x, grad_output = rounded(dtype, 1, 2, 7, 90), rounded(dtype, 3, 2, 2, 3, seed=1)
    # On the right of the map, a position that is rounded to bfloat16 is wrong by half a pixel.
    rois = torch.tensor([[0, 150, 3, 177, 12], [0, 121, 0, 134, 9], [0, 60, 2, 72, 10]], dtype=dtype)
    args = ((2, 3), 0.5, 0, mode, True)
    output, grad = run_roi_align(x, rois, grad_output, device, *args)
    expected, expected_grad = numpy_roi_align(
        x.double().numpy(), rois.double().numpy(), *args, grad_output.double().numpy()
    )
    epsilon = torch.finfo(dtype).eps
    np.testing.assert_allclose(output, expected, rtol=epsilon, atol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=epsilon, atol=1e-6)


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_passes_gradcheck(mode):
    from mmcv.ops import roi_align

    x = rounded(torch.float64, 2, 1, 5, 6).requires_grad_()
    rois = torch.tensor([[0, 0.3, 0.2, 4.6, 3.9], [1, -1.5, 1.1, 2.2, 6.3]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 2), 1.0, 0, mode, True), x)


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align_accepts_zero_rois(mode):
    output, grad = run_roi_align(
        torch.ones(2, 3, 5, 5), torch.zeros(0, 5), torch.zeros(0, 3, 7, 7), 'cpu', 7, 1.0, 0, mode, True
    )
    assert output.shape == (0, 3, 7, 7)
    assert grad.shape == (2, 3, 5, 5) and not grad.any()


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_does_not_hide_nan(mode, aligned):
    from mmcv.ops import roi_align

    x = torch.zeros(1, 1, 8, 8)
    x[..., 2, 2] = float('nan')
    rois = torch.tensor([[0, 0, 0, 8, 8], [0, 4, 4, 8, 8], [0, 20, 20, 24, 24]], dtype=torch.float32)
    touched = roi_align(x, rois, 1, 1.0, 4, mode, aligned).isnan().flatten().tolist()
    assert touched == [True, False, False]


def test_max_pooling_keeps_negative_values():
    from mmcv.ops import roi_align

    x = torch.full((1, 1, 6, 6), -2e4)
    output = roi_align(x, torch.tensor([[0.0, 1, 1, 5, 5]]), 2, 1.0, 0, 'max', True)
    assert output.flatten().tolist() == [-2e4] * 4


def numpy_nms(boxes, scores, threshold, offset):
    order, kept = list(np.argsort(-scores, kind='stable')), []
    while order:
        best = order.pop(0)
        kept.append(best)
        for other in list(order):
            sides = np.minimum(boxes[best, 2:], boxes[other, 2:]) - np.maximum(boxes[best, :2], boxes[other, :2])
            shared = np.prod(np.maximum(sides + offset, 0))
            areas = [np.prod(boxes[i, 2:] - boxes[i, :2] + offset) for i in (best, other)]
            if shared > threshold * (sum(areas) - shared):
                order.remove(other)
    return kept


def random_boxes(count, seed=0):
    """Return boxes on a coarse grid, so that the offset changes the result, and scores of which some are equal."""
    random = np.random.default_rng(seed)
    corner, side = random.integers(0, 20, (count, 2)), random.integers(2, 9, (count, 2))
    return np.concatenate((corner, corner + side), axis=1).astype(float), random.integers(1, 9, count) / 8


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_matches_numpy_reference(offset, dtype, device):
    from mmcv.ops import nms

    boxes, scores = random_boxes(120)
    expected = numpy_nms(boxes, scores, 0.31, offset)
    assert 20 < len(expected) < 100 and expected != numpy_nms(boxes, scores, 0.31, 1 - offset)
    tensors = (torch.from_numpy(value).to(device, dtype) for value in (boxes, scores))
    detections, kept = nms(*tensors, 0.31, offset)
    assert kept.tolist() == expected and kept.dtype == torch.int64
    assert detections.dtype == dtype and detections.shape == (len(expected), 5)


def test_nms_keeps_a_box_at_the_threshold():
    from mmcv.ops import nms

    boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1]]), torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.5)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.49)[1].tolist() == [0]


def test_nms_handles_empty_input_and_limits():
    from mmcv.ops import nms

    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].tolist() == []
    boxes, scores = random_boxes(60)
    expected = [i for i in numpy_nms(boxes, scores, 0.31, 0) if scores[i] > 0.25][:7]
    assert nms(torch.tensor(boxes), torch.tensor(scores), 0.31, score_threshold=0.25, max_num=7)[1].tolist() == expected


def test_batched_nms_keeps_classes_apart():
    from mmcv.ops import batched_nms

    boxes, _ = random_boxes(90)
    scores = np.random.default_rng(1).permutation(90) / 90
    classes = np.arange(90) % 3
    expected = []
    for label in range(3):
        members = np.flatnonzero(classes == label)
        expected += list(members[numpy_nms(boxes[members], scores[members], 0.4, 0)])
    expected.sort(key=lambda i: -scores[i])
    tensors = (torch.from_numpy(value) for value in (boxes, scores, classes))
    detections, kept = batched_nms(*tensors, {'type': 'nms', 'iou_threshold': 0.4})
    assert kept.tolist() == expected
    np.testing.assert_array_equal(detections[:, 4], scores[expected])


@needs_stand_in
def test_missing_operator_error_names_operator_and_remedy():
    from mmcv.ops import deform_conv2d

    with pytest.raises(NotImplementedError, match=r"'deform_conv_forward'.*MMCV_WITH_OPS=1.*mmcv==2\.1\.0.*< 82"):
        deform_conv2d(torch.zeros(1, 1, 4, 4), torch.zeros(1, 18, 2, 2), torch.zeros(1, 1, 3, 3))


@needs_stand_in
def test_stand_in_behaves_as_a_module():
    from mmcv.utils import collect_env
    from mmengine.utils.dl_utils import mmcv_full_available

    module = sys.modules['mmcv._ext']
    assert module.__spec__.name == module.__name__ == 'mmcv._ext'
    assert not hasattr(module, '__path__') and not hasattr(module, '__file__') and not hasattr(module, '_repr_html_')
    assert not mmcv_full_available()
    assert collect_env()['MMCV Compiler'] == 'n/a'


@needs_stand_in
def test_applying_mends_again_changes_nothing(caplog):
    before = dict(vars(sys.modules['mmcv._ext']))
    with caplog.at_level('INFO', 'mmdefmamba'):
        compat.apply()
    assert mmcv_ops.apply(mmcv) is False
    assert caplog.messages == []
    assert vars(sys.modules['mmcv._ext']) == before


@pytest.mark.parametrize('compiled', [True, False])
def test_only_mmcv_without_compiled_extension_is_mended(compiled, tmp_path, monkeypatch):
    package = tmp_path / 'mmcv'
    package.mkdir()
    if compiled:
        (package / f'_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}').touch()
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)  # the end of the test restores what was there
    del sys.modules['mmcv._ext']
    assert mmcv_ops.apply(SimpleNamespace(__path__=[str(package)])) is not compiled
    assert ('mmcv._ext' in sys.modules) is not compiled
