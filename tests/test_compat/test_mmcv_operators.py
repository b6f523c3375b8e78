"""mmcv's operators for attention, focal losses, CARAFE, PSANet and masked convolution, compared with plain loops.

At the end, tests of all operators: they can be traced, and they create no tensors on the CPU for tensors on a GPU.
"""

import numpy as np
import pytest
import torch

import mmdefmamba  # noqa: F401  mends mmcv


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# Attention


SHAPES = [(4, 3), (2, 5)]


def attention_case():
    """Return value, sampling locations, some out of the maps, and attention weights: 2 images, 3 queries, 2 heads."""
    value, weights = random(2, 22, 2, 3), random(2, 3, 2, 2, 4, seed=1).softmax(-1)
    return value, random(2, 3, 2, 2, 4, 2, seed=2) * 0.7 + 0.5, weights


def numpy_attention(value, locations, weights):
    output = np.zeros((2, 3, 2, 3))
    for n, query, head, level, point in np.ndindex(*weights.shape):
        height, width = SHAPES[level]
        start = sum(h * w for h, w in SHAPES[:level])
        plane = value[n, start : start + height * width, head].reshape(height, width, 3)
        x, y = locations[n, query, head, level, point] * (width, height) - 0.5
        tent = np.maximum(0, 1 - np.abs(y - np.arange(height)))[:, None] * np.maximum(
            0, 1 - np.abs(x - np.arange(width))
        )
        output[n, query, head] += weights[n, query, head, level, point] * (plane * tent[..., None]).sum((0, 1))
    return output.reshape(2, 3, 6)


def attend(value, locations, weights):
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    shapes = torch.tensor(SHAPES)
    return MultiScaleDeformableAttnFunction.apply(value, shapes, torch.tensor([0, 12]), locations, weights, 64)


def test_deformable_attention_matches_numpy_reference():
    tensors = attention_case()
    np.testing.assert_allclose(attend(*tensors), numpy_attention(*(t.numpy() for t in tensors)), atol=1e-12)
    half = attend(*(t.bfloat16() for t in tensors))
    expected = numpy_attention(*(t.bfloat16().double().numpy() for t in tensors))
    assert half.dtype == torch.bfloat16
    np.testing.assert_allclose(half.double(), expected, rtol=torch.finfo(torch.bfloat16).eps, atol=1e-5)


def test_deformable_attention_passes_gradcheck():
    tensors = [
        t[:1, :2].clone().requires_grad_() if i else t[:1].clone().requires_grad_()
        for i, t in enumerate(attention_case())
    ]
    assert torch.autograd.gradcheck(attend, tensors)


def test_attention_to_a_sample_at_exactly_minus_one_has_no_gradient():
    """A map of the two pixels 1 and 4: their centres are at 0.25 and 0.75, and it begins at -0.25, pixel -1."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    value = torch.tensor([1.0, 4]).view(1, 2, 1, 1)
    for x, slope in ((-0.25, 0), (0.125, 2 * 1), (0.5, 2 * 3), (0.875, 2 * -4), (1.25, 0)):
        location = torch.tensor([x, 0.5]).view(1, 1, 1, 1, 1, 2).requires_grad_()
        args = (torch.tensor([[1, 2]]), torch.tensor([0]), location, torch.ones(1, 1, 1, 1, 1), 1)
        MultiScaleDeformableAttnFunction.apply(value, *args).sum().backward()
        assert location.grad.flatten()[0].item() == slope


# Focal losses


def test_sigmoid_focal_loss_is_that_of_the_paper():
    from mmcv.ops import sigmoid_focal_loss

    x, target = random(5, 3).requires_grad_(), torch.tensor([2, 0, 3, -1, 1])  # 3 and -1 are background
    p = x.sigmoid()
    is_class = torch.nn.functional.one_hot(target % 4, 4)[:, :3].bool()
    is_class[3] = False
    loss = torch.where(is_class, -0.3 * (1 - p) ** 1.5 * p.log(), -0.7 * p**1.5 * (1 - p).log())
    (expected,) = torch.autograd.grad(loss.sum(), x)
    for reduction, reduced, scale in (('none', loss, 1), ('sum', loss.sum(), 1), ('mean', loss.sum() / 5, 1 / 5)):
        given = sigmoid_focal_loss(x, target, 1.5, 0.3, None, reduction)
        torch.testing.assert_close(given, reduced)
        (grad,) = torch.autograd.grad(given.sum(), x)
        torch.testing.assert_close(grad, expected * scale)


@pytest.mark.parametrize('name', ['sigmoid_focal_loss', 'softmax_focal_loss'])
def test_focal_losses_pass_gradcheck(name):
    import mmcv.ops

    x, target = random(4, 3).requires_grad_(), torch.tensor([2, 0, 1, 1])
    loss, weight = getattr(mmcv.ops, name), torch.tensor([0.5, 1, 2], dtype=torch.float64)
    for args in ((2.0, 0.25, None, 'mean'), (1.5, 0.3, weight, 'sum')):
        assert torch.autograd.gradcheck(lambda x, a=args: loss(x, target, *a), x)


def test_softmax_focal_loss_is_that_of_the_paper():
    from mmcv.ops import softmax_focal_loss

    x, target = random(4, 3).requires_grad_(), torch.tensor([2, 0, -1, 1])
    weight = torch.tensor([0.5, 1, 2], dtype=torch.float64)
    p = x.softmax(1)[torch.arange(4), target.clamp(min=0)]
    loss = -0.3 * (1 - p) ** 1.5 * p.log() * torch.tensor([1, 1, 0, 1])
    torch.testing.assert_close(softmax_focal_loss(x, target, 1.5, 0.3, None, 'none'), loss)
    total = softmax_focal_loss(x, target, 1.5, 0.3, None, 'sum')
    torch.testing.assert_close(torch.autograd.grad(total, x), torch.autograd.grad(loss.sum(), x))
    known = torch.tensor([0, 1, 3])
    weighted = softmax_focal_loss(x[known], target[known], 1.5, 0.3, weight, 'none')
    torch.testing.assert_close(weighted, (loss[known] * weight[target[known]]).detach())


def test_focal_loss_of_a_certain_error_is_bounded_as_in_mmcv():
    """The logarithm of the smallest float32 is -87.3365."""
    from mmcv.ops import sigmoid_focal_loss

    x = torch.tensor([[200.0], [-200.0]], dtype=torch.float64).requires_grad_()
    loss = sigmoid_focal_loss(x, torch.tensor([1, 0]), 2.0, 0.25, None, 'none')
    np.testing.assert_allclose(loss.detach()[:, 0], [0.75 * 87.336545, 0.25 * 87.336545], rtol=1e-7)
    loss.sum().backward()
    np.testing.assert_allclose(x.grad[:, 0], [0.75, -0.25], rtol=1e-7)


def test_targets_without_a_weight_are_refused():
    import mmcv.ops

    x, weight = torch.zeros(2, 3), torch.ones(3)
    for loss in (mmcv.ops.sigmoid_focal_loss, mmcv.ops.softmax_focal_loss):
        with pytest.raises(ValueError, match='from 0 to 2, got -1'):
            loss(x, torch.tensor([1, -1]), 2.0, 0.25, weight, 'none')
    with pytest.raises(ValueError, match='less than the number of classes, 3, got 3'):
        mmcv.ops.softmax_focal_loss(x, torch.tensor([1, 3]))


# CARAFE


def numpy_carafe(x, masks, kernel, groups, scale):
    batch, channels, height, width = x.shape
    output = np.zeros((batch, channels, height * scale, width * scale))
    for n, c, row, column, i, j in np.ndindex(*output.shape, kernel, kernel):
        y, x_ = row // scale + i - kernel // 2, column // scale + j - kernel // 2
        if 0 <= y < height and 0 <= x_ < width:
            mask = masks[n, (c // (channels // groups) * kernel + i) * kernel + j, row, column]
            output[n, c, row, column] += x[n, c, y, x_] * mask
    return output


@pytest.mark.parametrize(('kernel', 'groups', 'scale'), [(3, 2, 2), (5, 1, 3), (1, 4, 1)])
@pytest.mark.parametrize('name', ['carafe', 'carafe_naive'])
def test_carafe_matches_numpy_reference(name, kernel, groups, scale):
    import mmcv.ops

    x, masks = random(2, 4, 3, 4), random(2, groups * kernel**2, 3 * scale, 4 * scale, seed=1)
    output = getattr(mmcv.ops, name)(x, masks, kernel, groups, scale)
    np.testing.assert_allclose(output, numpy_carafe(x.numpy(), masks.numpy(), kernel, groups, scale), atol=1e-12)


def test_carafe_passes_gradcheck():
    from mmcv.ops import carafe

    x, masks = random(2, 4, 3, 2).requires_grad_(), random(2, 18, 6, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, m: carafe(x, m, 3, 2, 2), (x, masks))


def test_carafe_of_a_view_gives_the_gradient_of_the_view():
    from mmcv.ops import carafe

    x, masks = random(1, 3, 4, 4).permute(0, 3, 2, 1).requires_grad_(), random(1, 9, 8, 6, seed=1)
    masks = masks.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    given = torch.autograd.grad(carafe(x, masks, 3, 1, 2).square().sum(), (x, masks))
    whole = [t.detach().contiguous().requires_grad_() for t in (x, masks)]
    expected = torch.autograd.grad(carafe(*whole, 3, 1, 2).square().sum(), whole)
    torch.testing.assert_close(given, expected)


# PSANet


@pytest.mark.parametrize('mask_size', [(3, 5), (9, 7), (2, 4)], ids=str)
@pytest.mark.parametrize('kind', ['collect', 'distribute'])
def test_psa_mask_matches_numpy_reference(kind, mask_size):
    from mmcv.ops import PSAMask

    height, width, (h_mask, w_mask) = 4, 5, mask_size
    x = random(2, h_mask * w_mask, height, width).requires_grad_()
    expected = np.zeros((2, height, width, height, width))
    grad, grad_output = np.zeros(x.shape), random(2, height * width, height, width, seed=1)
    weights = grad_output.reshape(2, height, width, height, width).numpy()
    for n, h, w, i, j in np.ndindex(2, height, width, h_mask, w_mask):
        y, x_ = h + i - (h_mask - 1) // 2, w + j - (w_mask - 1) // 2
        if 0 <= y < height and 0 <= x_ < width:
            place = (n, y, x_, h, w) if kind == 'collect' else (n, h, w, y, x_)
            expected[place] = x[n, i * w_mask + j, h, w].item()
            grad[n, i * w_mask + j, h, w] = weights[place]
    output = PSAMask(kind, mask_size)(x)
    np.testing.assert_array_equal(output.detach(), expected.reshape(output.shape))
    output.backward(grad_output)
    np.testing.assert_array_equal(x.grad, grad)


# Masked convolution


@pytest.mark.parametrize(('kernel', 'padding'), [(3, 1), ((1, 3), (0, 1)), (5, 2)], ids=str)
def test_masked_convolution_equals_convolution_where_the_mask_is_set(kernel, padding):
    from mmcv.ops import MaskedConv2d

    torch.manual_seed(0)
    layer, x = MaskedConv2d(2, 3, kernel, padding=padding), torch.randn(1, 2, 6, 7)
    mask = torch.rand(1, 6, 7) > 0.6
    expected = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=padding) * mask
    torch.testing.assert_close(layer(x, mask), expected)
    assert not layer(x, torch.zeros(1, 6, 7)).any()


def test_mask_outside_of_the_output_is_refused():
    from mmcv.ops import MaskedConv2d

    layer, mask = MaskedConv2d(1, 1, 3), torch.zeros(1, 6, 7)
    mask[0, 2, 5] = 1
    with pytest.raises(ValueError, match=r'row 2, column 5, but the output has 4 x 5 pixels'):
        layer(torch.zeros(1, 1, 6, 7), mask)


# All operators


def calls():
    """Return a dict: name -> (function of a map, (2, 4, 6, 5), and of the device of the other arguments)."""
    import mmcv.ops
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    def weights(*shape, device):
        return torch.linspace(-1, 1, int(np.prod(shape)), device=device).reshape(shape).requires_grad_()

    def rois(device):
        return torch.tensor([[0, 0.5, 0, 4, 4], [1, 1, 1, 3, 5]], device=device)

    def attention(x, device):
        locations, factors = weights(2, 3, 2, 1, 4, 2, device=device), weights(2, 3, 2, 1, 4, device=device)
        args = (torch.tensor([[6, 5]], device=device), torch.tensor([0], device=device), locations, factors, 64)
        return MultiScaleDeformableAttnFunction.apply(x.reshape(2, 30, 2, 2), *args)

    return dict(
        roi_align=lambda x, device: mmcv.ops.roi_align(x, rois(device), 2),
        roi_align_max=lambda x, device: mmcv.ops.roi_align(x, rois(device), 2, 1.0, 0, 'max'),
        roi_pool=lambda x, device: mmcv.ops.roi_pool(x, rois(device), 2),
        deform_roi_pool=lambda x, device: mmcv.ops.deform_roi_pool(
            x, rois(device), weights(2, 2, 2, 2, device=device), (2, 2)
        ),
        deform_conv=lambda x, device: mmcv.ops.deform_conv2d(
            x, weights(2, 18, 6, 5, device=device), weights(3, 4, 3, 3, device=device), 1, 1
        ),
        modulated_deform_conv=lambda x, device: mmcv.ops.modulated_deform_conv2d(
            x,
            weights(2, 18, 7, 5, device=device),
            weights(2, 9, 7, 5, device=device),
            weights(3, 4, 3, 3, device=device),
            weights(3, device=device),
            1,
            1,
        ),
        carafe=lambda x, device: mmcv.ops.carafe(x, weights(2, 9, 12, 10, device=device), 3, 1, 2),
        carafe_naive=lambda x, device: mmcv.ops.carafe_naive(x, weights(2, 9, 12, 10, device=device), 3, 1, 2),
        psa_mask=lambda x, device: mmcv.ops.PSAMask('collect', (2, 2))(x),
        masked_conv=lambda x, device: mmcv.ops.masked_conv.masked_conv2d(
            x[:1],
            torch.eye(6, 5, device=device)[None],
            weights(3, 4, 3, 3, device=device),
            weights(3, device=device),
            1,
        ),
        sigmoid_focal_loss=lambda x, device: mmcv.ops.sigmoid_focal_loss(
            x.reshape(60, 4), torch.arange(60, device=device) % 5
        ),
        softmax_focal_loss=lambda x, device: mmcv.ops.softmax_focal_loss(
            x.reshape(60, 4), torch.arange(60, device=device) % 4, 2.0, 0.25, weights(4, device=device)
        ),
        attention=attention,
        nms=lambda x, device: mmcv.ops.nms(x[0, 0, :, :4].contiguous(), x[0, 0, :, 4].contiguous(), 0.5)[0],
    )


@pytest.mark.parametrize('name', calls())
@pytest.mark.filterwarnings('ignore')
def test_operators_can_be_traced(name):
    """MMEngine traces a network to count its operations. The tracer knows fewer operators than PyTorch."""
    x = torch.linspace(-1, 1, 240).reshape(2, 4, 6, 5)
    expected = calls()[name](x, 'cpu')  # this also imports torchvision, which mmdet, mmseg and mmpretrain import
    traced = torch.jit.trace(lambda x: calls()[name](x, 'cpu'), x, check_trace=False)
    torch.testing.assert_close(traced(x), expected)


@pytest.mark.parametrize('name', calls())
def test_operators_create_tensors_on_the_device_of_their_arguments(name):
    """The CPU stands for a GPU here: it holds the tensors, and is not the device that PyTorch takes by itself."""
    results = []
    for default in ('cpu', 'meta'):
        x = torch.linspace(-1, 1, 240).reshape(2, 4, 6, 5).requires_grad_()
        with torch.device(default):
            output = calls()[name](x, 'cpu')
            if output.requires_grad and name != 'carafe_naive':  # mmcv itself refuses its gradient on a CPU
                output.backward(output)
        results.append((output.detach(), x.grad))
    torch.testing.assert_close(*results)


class OnGPU(torch.Tensor):
    """A tensor on the CPU that says that it is on a GPU."""

    is_cuda = True


def test_attention_on_a_gpu_gives_what_it_gives_on_a_cpu(monkeypatch):
    from mmcv.ops import multi_scale_deform_attn

    monkeypatch.setattr(multi_scale_deform_attn, 'IS_CUDA_AVAILABLE', True)
    monkeypatch.setattr(multi_scale_deform_attn, 'IS_MLU_AVAILABLE', False)
    torch.manual_seed(0)
    layer = multi_scale_deform_attn.MultiScaleDeformableAttention(8, 2, 2, dropout=0, batch_first=True)
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    value, points = torch.randn(2, 22, 8), torch.rand(2, 22, 2, 2)
    kwargs = dict(reference_points=points, spatial_shapes=torch.tensor(SHAPES), level_start_index=torch.tensor([0, 12]))
    gradients = []
    for tensor in (value, value.as_subclass(OnGPU)):
        layer.zero_grad()
        output = layer(tensor, **kwargs)
        output.square().sum().backward()
        gradients.append([output.detach().as_subclass(torch.Tensor), *(p.grad.clone() for p in layer.parameters())])
    torch.testing.assert_close(*gradients)


def test_focal_loss_of_mmdet_on_a_gpu_gives_what_it_gives_on_a_cpu(monkeypatch):
    from mmdet.models.losses import FocalLoss

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    target = torch.tensor([2, 0, 3, 1])  # 3 is background
    results = []
    for kind in (torch.Tensor, OnGPU):
        x = random(4, 3).float().requires_grad_()
        loss = FocalLoss()(x.as_subclass(kind), target, weight=torch.tensor([1, 0.5, 1, 2]))
        loss.backward()
        results.append((loss.detach().as_subclass(torch.Tensor), x.grad))
    torch.testing.assert_close(*results)
