"""RoI operators of mmcv, compared with plain NumPy implementations."""

import numpy as np
import pytest
import torch

import mmdefmamba  # noqa: F401  mends mmcv

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


NAN, INF = float('nan'), float('inf')
#: RoIs that torchvision's kernel cannot bear, and whether the result is NaN; if not, RoIAlign gives 0.
ODD = {
    'both corners swapped': ([6, 6, 2, 2], False),
    'swapped along x': ([6, 1, 2, 5], False),
    'swapped along y': ([1, 6, 5, 2], False),
    'swapped by very much': ([1e9, 3, -1e9, 5], False),
    'one point': ([3, 3, 3, 3], False),
    'NaN in x1': ([NAN, 1, 5, 5], True),
    'NaN in y2': ([1, 1, 5, NAN], True),
    'endless': ([1, 1, INF, 5], True),
    'from minus infinity': ([-INF, -INF, 5, 5], True),
    'all numbers': ([-INF, -INF, INF, INF], True),
    'longer than float32 holds': ([-3e38, 0, 3e38, 5], True),
}


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('odd', ODD)
def test_roi_align_bears_odd_rois(odd, mode):
    """Alone or among others, they give 0 or NaN with a zero gradient, and the others what they give without them."""
    from mmcv.ops import roi_align

    box, is_nan = ODD[odd]
    x = rounded(torch.float32, 2, 3, 9, 8)
    normal = torch.tensor([[1, 1.0, 0.5, 7, 6], [0, -3, 2, 4, 12]])
    args = (2, 1.0, 0, mode, True)
    grad_output = rounded(torch.float32, 2, 3, 2, 2, seed=1)
    expected, expected_grad = run_roi_align(x, normal, grad_output, 'cpu', *args)
    rois = torch.stack((normal[0], torch.tensor([1, *box], dtype=torch.float32), normal[1]))
    mixed_grad = torch.stack((grad_output[0], torch.ones(3, 2, 2), grad_output[1]))
    output, grad = run_roi_align(x, rois, mixed_grad, 'cpu', *args)
    np.testing.assert_array_equal(output[[0, 2]], expected)
    np.testing.assert_array_equal(output[1], np.full((3, 2, 2), NAN if is_nan else 0))
    np.testing.assert_array_equal(grad, expected_grad)
    alone = roi_align(x, rois[1:2], *args)
    assert alone.isnan().all() if is_nan else not alone.any()


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_of_swapped_corners_with_a_given_number_of_samples(aligned, mode):
    """The samples then go from the first corner to the second, whichever is larger."""
    x, rois = rounded(torch.float32, 1, 2, 9, 13), torch.tensor([[0, 8.1, 6.2, 3.3, 2.4], [0, 9, 1, 2, 7.5]])
    args = ((3, 2), 1.0, 2, mode, aligned)
    output, grad = run_roi_align(x, rois, torch.ones(2, 2, 3, 2), 'cpu', *args)
    expected = numpy_roi_align(x.numpy(), rois.double().numpy(), *args, np.ones((2, 2, 3, 2)))
    np.testing.assert_allclose(output, expected[0], atol=2e-5)
    np.testing.assert_allclose(grad, expected[1], atol=2e-5)


# Much larger than the map of 5 x 4 pixels: 61 x 83, 97 x 3 and 2 x 111 pixels, partly and completely around it.
LARGE_ROIS = torch.tensor(
    [[1, -40.3, -30.2, 42.4, 31.1], [0, 1.1, -50.5, 3.9, 46.2], [1, -100.25, 1.6, 10.4, 3.4], [0, 2.2, 1.1, 93.3, 75.5]]
)


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_of_rois_much_larger_than_the_map(aligned, mode):
    x, grad_output = rounded(torch.float32, 2, 2, 5, 4), rounded(torch.float32, 4, 2, 3, 2, seed=1)
    args = ((3, 2), 1.0, 0, mode, aligned)
    output, grad = run_roi_align(x, LARGE_ROIS, grad_output, 'cpu', *args)
    expected, expected_grad = numpy_roi_align(x.numpy(), LARGE_ROIS.double().numpy(), *args, grad_output.numpy())
    assert expected.any() and expected_grad.any()
    np.testing.assert_allclose(output, expected, atol=2e-5)
    np.testing.assert_allclose(grad, expected_grad, atol=2e-5)


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('side', [1e5, 1e9, 1e30])
def test_roi_align_takes_no_longer_for_larger_rois(side, mode):
    """A map of ones in the middle of a RoI: the mean is the part of the samples that count, the largest sample is 1."""
    x = torch.ones(1, 1, 5, 4)
    rois = torch.tensor([[0, 2 - side, 2.5 - side, 2 + side, 2.5 + side]])
    output, grad = run_roi_align(x, rois, torch.ones(1, 1, 1, 1), 'cpu', 1, 1.0, 0, mode, True)
    expected = 7 * 6 / (2 * side) ** 2 if mode == 'avg' else 1
    # the samples are one pixel apart at most, and some lie right at the border
    assert output.item() == pytest.approx(expected, rel=0.5 if mode == 'avg' else 0)
    assert grad.sum() == pytest.approx(output.item(), rel=1e-5)


@pytest.mark.parametrize(('index', 'text'), [(2, '2'), (-1, '-1'), (NAN, 'nan')])
@pytest.mark.parametrize('name', ['roi_align', 'roi_pool', 'deform_roi_pool'])
def test_roi_of_an_image_that_does_not_exist_is_refused(name, index, text):
    import mmcv.ops

    rois = torch.tensor([[0, 0.0, 0, 4, 4], [index, 0, 0, 4, 4]])
    args = (torch.zeros(2, 1, 5, 5), rois, *([None] if name == 'deform_roi_pool' else []), (2, 2))
    with pytest.raises(ValueError, match=f'must be from 0 to 1, got {text} in RoI 1'):
        getattr(mmcv.ops, name)(*args)


def numpy_roi_pool(x, rois, size, scale, grad_output):
    """Compute the output and the gradient of sum(output * grad_output), bin by bin."""
    output, grad = np.zeros((len(rois), x.shape[1], *size)), np.zeros(x.shape)
    for n, (batch, x1, y1, x2, y2) in enumerate(rois):
        low = np.array([y1, x1]) * scale
        length = (np.array([y2, x2]) + 1) * scale - low
        if length.min() <= 0:
            continue
        for p, q, c in np.ndindex(*size, x.shape[1]):
            first = np.floor(low + np.array([p, q]) * length / size).astype(int).clip(0)
            last = np.ceil(low + np.array([p + 1, q + 1]) * length / size).astype(int)
            window = x[int(batch), c, first[0] : max(last[0], 0), first[1] : max(last[1], 0)]
            if window.size:
                output[n, c, p, q] = window.max()
                row, column = np.unravel_index(window.argmax(), window.shape)
                grad[int(batch), c, first[0] + row, first[1] + column] += grad_output[n, c, p, q]
    return output, grad


@pytest.mark.parametrize('scale', [1.0, 0.5])
@pytest.mark.parametrize('size', [(3, 2), (1, 1)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_roi_pool_matches_numpy_reference(dtype, size, scale):
    from mmcv.ops import roi_pool

    x = rounded(dtype, 2, 2, 9, 13).requires_grad_()
    grad_output = rounded(dtype, len(ROIS), 2, *size, seed=1)
    rois = torch.from_numpy(ROIS).to(dtype)
    output = roi_pool(x, rois, size, scale)
    output.backward(grad_output)
    arrays = (tensor.detach().double().numpy() for tensor in (x, rois, grad_output))
    x_array, rois_array, grad_array = arrays
    expected, expected_grad = numpy_roi_pool(x_array, rois_array, size, scale, grad_array)
    np.testing.assert_array_equal(output.detach().double(), expected)
    epsilon = torch.finfo(dtype).eps
    np.testing.assert_allclose(x.grad.double(), expected_grad, rtol=2 * epsilon, atol=epsilon)


def test_roi_pool_ends_a_roi_behind_its_last_pixel():
    """torchvision rounds 1.6 to 2 and ends at 3; mmcv begins at 1 and ends at 4."""
    from mmcv.ops import roi_pool

    x = torch.tensor([5.0, 4, 3, 2, 1]).view(1, 1, 1, 5)
    assert roi_pool(x, torch.tensor([[0, 1.6, 0, 2.4, 0]]), 1).item() == 4
    assert roi_pool(-x, torch.tensor([[0, 1.6, 0, 2.4, 0]]), 1).item() == -2


@pytest.mark.parametrize(
    'box', [[6, 6, 2, 2], [6, 1, 2, 5], [2.5, 1, 1.2, 3], [-1e9, -1e9, 1e9, 1e9], [30, 30, 40, 40]], ids=str
)
def test_roi_pool_bears_odd_rois(box):
    from mmcv.ops import roi_pool

    x = rounded(torch.float32, 1, 1, 5, 6).requires_grad_()
    output = roi_pool(x, torch.tensor([[0, *box], [0, 1, 1, NAN, 2]], dtype=torch.float32), 1)
    output.sum().backward()
    whole = box[2] == 1e9
    assert output[0].item() == (x.max().item() if whole else 0)
    assert x.grad.sum() == whole
    assert output[1].isnan().all()


def numpy_deform_roi_pool(x, rois, offset, size, scale, sampling_ratio, gamma):
    """Compute the output: RoIAlign of each bin, displaced by its offset."""
    output = np.zeros((len(rois), x.shape[1], *size))
    for n, (batch, x1, y1, x2, y2) in enumerate(rois):
        low = np.array([y1, x1]) * scale - 0.5
        extent = np.array([y2, x2]) * scale - 0.5 - low
        step = extent / size
        samples = [sampling_ratio] * 2 if sampling_ratio else np.maximum(np.ceil(step), 0).astype(int)
        for p, q in np.ndindex(*size):
            shift = gamma * extent * (0 if offset is None else offset[n, ::-1, p, q])
            points = [
                low + shift + (np.array([p, q]) + (np.array([i, j]) + 0.5) / samples) * step
                for i, j in np.ndindex(*samples)
            ]
            if points:
                weights = np.mean([bilinear_weights(*point, *x.shape[2:]) for point in points], axis=0)
                output[n, :, p, q] = (x[int(batch)] * weights).sum((1, 2))
    return output


@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('with_offset', [True, False])
def test_deform_roi_pool_matches_numpy_reference(with_offset, sampling_ratio):
    from mmcv.ops import deform_roi_pool

    x, offset = rounded(torch.float64, 2, 2, 9, 13), rounded(torch.float64, len(ROIS), 2, 3, 2, seed=1)
    offset = offset if with_offset else None
    args = ((3, 2), 0.7, sampling_ratio, 0.3)
    output = deform_roi_pool(x, torch.from_numpy(ROIS), offset, *args)
    expected = numpy_deform_roi_pool(x.numpy(), ROIS, offset.numpy() if with_offset else None, *args)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(output, expected, atol=1e-12)


def test_deform_roi_pool_passes_gradcheck():
    from mmcv.ops import deform_roi_pool

    x, offset = rounded(torch.float64, 2, 2, 5, 6).requires_grad_(), rounded(torch.float64, 3, 2, 2, 2, seed=1)
    rois = torch.tensor([[0, 0.3, 0.2, 4.6, 3.9], [1, -1.5, 1.1, 2.2, 6.3], [1, 5, 4, 1, 2]], dtype=torch.float64)
    for ratio in (0, 2):
        inputs = (x, offset.clone().requires_grad_())
        assert torch.autograd.gradcheck(lambda x, o, r=ratio: deform_roi_pool(x, rois, o, (2, 2), 1.0, r, 0.2), inputs)


def test_deform_roi_pool_bears_odd_rois_and_offsets():
    from mmcv.ops import deform_roi_pool

    x = rounded(torch.float32, 1, 2, 5, 6).requires_grad_()
    rois = torch.tensor([[0, 6, 6, 2, 2], [0, 1, 1, NAN, 5], [0, 1, 1, 4, 4], [0, -1e9, -1e9, 1e9, 1e9]])
    offset = torch.zeros(4, 2, 1, 2)
    offset[2, 1, 0, 0] = NAN
    offset.requires_grad_()
    output = deform_roi_pool(x, rois, offset, (1, 2))
    output.sum().backward()
    assert output.isnan()[:, 0, 0].tolist() == [[False, False], [True, True], [True, False], [False, False]]
    assert not output[0].any() and output[2, :, 0, 1].any()
    assert x.grad.isfinite().all() and offset.grad.isfinite().all()


@pytest.mark.parametrize('name', ['DeformRoIPoolPack', 'ModulatedDeformRoIPoolPack'])
def test_packed_deform_roi_pools_train(name):
    import mmcv.ops

    torch.manual_seed(0)
    pool = getattr(mmcv.ops, name)((2, 2), 2, deform_fc_channels=8, gamma=0.1)
    torch.nn.init.normal_(pool.offset_fc[-1].weight, std=0.2)
    x = rounded(torch.float32, 2, 2, 9, 13).requires_grad_()
    pool(x, torch.from_numpy(ROIS).float()).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()
    assert all(p.grad.isfinite().all() for p in pool.parameters())
    assert pool.offset_fc[-1].weight.grad.any()
