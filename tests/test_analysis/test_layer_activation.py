"""Activation maps of any layer, by gradients."""

from importlib import import_module

import pytest
import torch
from torch import nn

from mmdefmamba.analysis import activation_map, activation_maps, layer_activation_maps, trace_blocks
from mmdefmamba.models import DefMamba
from mmdefmamba.ops import TokenOrder, permute_tokens, restore_tokens, selective_scan

# Swin's mask is -100 before the softmax: what it hides keeps a factor of exp(-100), 4e-44.
MASKED = 1e-30
SCANS = ('raster', 'raster_reverse', 'deformable')


def backbone(library, name, **options):
    # the library is imported after mmdefmamba, which mends it
    model = getattr(import_module(f'{library}.models.backbones'), name)(**options)
    return with_random_weights(model)


def noise(*size):
    torch.manual_seed(0)
    return torch.randn(1, 3, *size, dtype=torch.float64)


def with_random_weights(model):
    """Initial weights are so small, or zero, that blocks hardly differ from their skip connection."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.double().train()  # the maps are those of the eval mode
    return model


def box(size, rows, columns):
    """Return where a map of this size has the given rows and columns."""
    inside = torch.zeros(size, dtype=torch.bool)
    inside[rows[0] : rows[1], columns[0] : columns[1]] = True
    return inside


def test_map_of_linear_layers_is_known():
    found = layer_activation_maps(nn.Identity(), noise(8, 12), '', [(2, 3), (-1, -1)])
    assert (found.map_size, found.tokens) == ((8, 12), ((2, 3), (7, 11)))
    assert torch.equal(
        found.maps, torch.stack([box((8, 12), (r, r + 1), (c, c + 1)) for r, c in found.tokens]).double()
    )
    # 4 channels of the result, each from 3 of the input
    conv = nn.Conv2d(3, 4, (3, 5), padding=(1, 2), dtype=torch.float64)
    maps = layer_activation_maps(conv, noise(8, 12), '', [(4, 6), (0, 0)]).maps
    kernel = conv.weight.detach().abs().sum(1).mean(0)
    expected = torch.zeros(2, 8, 12, dtype=torch.float64)
    expected[0, 3:6, 4:9] = kernel
    expected[1, :2, :3] = kernel[1:, 2:]
    torch.testing.assert_close(maps, expected)


def test_tokens_lie_on_the_output_and_influences_on_the_input():
    conv = nn.Conv2d(3, 2, 2, stride=2, dtype=torch.float64)
    model = nn.Sequential(nn.ReLU(inplace=True), conv)
    found = layer_activation_maps(model, noise(8, 12).abs(), '1', [(1, 4)], 'channels_first')
    assert found.map_size == (4, 6)
    expected = torch.zeros(1, 8, 12, dtype=torch.float64)
    expected[0, 2:4, 8:10] = conv.weight.detach().abs().sum(1).mean(0)
    torch.testing.assert_close(found.maps, expected)
    # a layer that changes its input in place
    found = layer_activation_maps(model, noise(8, 12), '0', [(1, 4)])
    assert torch.equal(found.maps[0], box((8, 12), (1, 2), (4, 5)) * (noise(8, 12)[0, :, 1, 4] > 0).double().mean())


def test_reach_of_convnext_grows_with_its_blocks():
    arch = dict(depths=[1, 2, 1, 1], channels=[4, 6, 8, 10])
    model = nn.ModuleDict({'backbone': backbone('mmpretrain', 'ConvNeXt', arch=arch)})
    for layer, reach in (('0', 3), ('1', 3), ('0.depthwise_conv', 3), ('', 6)):
        name = f'backbone.stages.1.{layer}'.rstrip('.')
        found = layer_activation_maps(model, noise(160, 176), name, [(9, 10)])
        assert found.map_size == (20, 22)
        inside = box((20, 22), (9 - reach, 10 + reach), (10 - reach, 11 + reach))
        assert torch.equal(found.maps[0] > 0, inside), layer
    # of a depthwise convolution, channels do not mix: the mean of its kernels
    conv = model['backbone'].stages[1][0].depthwise_conv
    maps = layer_activation_maps(model, noise(160, 176), 'backbone.stages.1.0.depthwise_conv', [(9, 10)]).maps
    torch.testing.assert_close(maps[0, 6:13, 7:14], conv.weight.detach()[:, 0].abs().mean(0))
    assert model.training


@pytest.mark.parametrize('library', ['mmpretrain', 'mmdet', 'mmseg'])
@pytest.mark.parametrize('with_cp', [False, True])
def test_a_swin_block_sees_its_window(library, with_cp):
    sizes = dict(embed_dims=4, depths=[2, 1, 1, 1], num_heads=[2, 2, 2, 2])
    if library == 'mmpretrain':
        sizes = dict(arch=sizes, img_size=56, pad_small_map=True)
    model = backbone(library, 'SwinTransformer', **sizes, with_cp=with_cp, drop_path_rate=0.5)
    # a map of 14 x 21 tokens, with windows of 7, and shifted by 3 in the second block
    for block, rows, columns in ((0, (7, 14), (0, 7)), (1, (3, 10), (3, 10))):
        for part in ('', '.attn'):
            found = layer_activation_maps(model, noise(56, 84), f'stages.0.blocks.{block}{part}', [(8, 3)])
            assert found.map_size == (14, 21)
            assert torch.equal(found.maps[0] > MASKED, box((14, 21), rows, columns))
    # the corner of the shifted blocks: a window is cut where the map ends
    found = layer_activation_maps(model, noise(56, 84), 'stages.0.blocks.1.attn', [(0, 0), (13, 0)])
    assert torch.equal(found.maps > MASKED, torch.stack([box((14, 21), rows, (0, 3)) for rows in ((0, 3), (10, 14))]))
    assert model.stages[0].blocks[0].with_cp == with_cp


class HeldScans(nn.Module):
    """The mean of the scans of a traced block of which all but the values is constant, from (1, H, W, C) maps."""

    def __init__(self, trace, scans, sequence=False):
        super().__init__()
        self.trace, self.scans, self.sequence = trace, scans, sequence

    def forward(self, x):
        trace, total = self.trace, 0
        for k in self.scans:
            order = TokenOrder.from_order(trace.orders[k])
            places = (x.reshape(1, -1, x.shape[-1]), trace.delta[:, k], trace.B[:, k], trace.C[:, k])
            u, delta, B, C = (permute_tokens(part, order).transpose(1, 2) for part in places)
            scan = dict(delta_softplus=False, backend='reference')
            y = selective_scan(u, delta, trace.A[k], B[:, None], C[:, None], None, None, **scan)
            total = total + restore_tokens(y.transpose(1, 2), order) / len(self.scans)
        return total if self.sequence else total.view(x.shape)


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    model = DefMamba({'embed_dims': (8, 16), 'depths': (1, 2)}, scans=SCANS, out_indices=-1).double().eval()
    for stage in model.stages:
        nn.init.normal_(stage[0].dssm.x_proj_weight)
    return model


@pytest.fixture(scope='module')
def trace(network):
    return trace_blocks(network, noise(18, 24), stages=0)[1][0]


@pytest.mark.parametrize('scan', [0, 1, 2, None])
def test_gradient_form_equals_the_scan_form_where_both_are_defined(trace, scan):
    held = HeldScans(trace, range(3) if scan is None else [scan])
    model = nn.Sequential(nn.AdaptiveAvgPool2d((5, 6)), nn.Conv2d(3, 8, 1).double(), Last(), held)
    tokens = [(0, 0), (2, 3), (4, 5)]
    found = layer_activation_maps(model, noise(18, 24), '3', tokens, layout='channels_last')
    expected = activation_maps(trace, tokens, scan=scan)
    assert (found.map_size, found.tokens) == (expected.map_size, expected.tokens)
    assert (expected.maps[1] > 1e-12).double().mean() > 0.3
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-9, atol=1e-14)


class Last(nn.Module):
    """Channels last, as maps or as a sequence of tokens."""

    def __init__(self, sequence=False):
        super().__init__()
        self.sequence = sequence

    def forward(self, x):
        return x.flatten(2).transpose(1, 2) if self.sequence else x.permute(0, 2, 3, 1)


def test_a_sequence_of_tokens_is_a_map_of_the_given_size(trace):
    # a selective scan over (1, L, C), as Vim and the blocks of mamba_ssm have
    model = nn.Sequential(
        nn.AdaptiveAvgPool2d((5, 6)), nn.Conv2d(3, 8, 1).double(), Last(True), HeldScans(trace, [0], sequence=True)
    )
    found = layer_activation_maps(model, noise(18, 24), '3', [(2, 3)], map_size=(5, 6))
    torch.testing.assert_close(found.maps[0], activation_map(trace, (2, 3), scan=0), rtol=1e-9, atol=1e-14)
    # 8 channels could also be 2 x 4 tokens of (1, C, L)
    with pytest.raises(ValueError, match=r'shape \(1, 30, 8\).* several sizes are possible: .*give its map_size'):
        layer_activation_maps(model, noise(18, 24), '3', [(2, 3)])
    with pytest.raises(ValueError, match=r'map_size must be \(H, W\) with H \* W = 30, .*got \(5, 7\)'):
        layer_activation_maps(model, noise(18, 24), '3', [(2, 3)], map_size=(5, 7))


def test_maps_of_a_block_of_defmamba_are_its_jacobian(network):
    found = layer_activation_maps(nn.ModuleDict({'backbone': network}), noise(18, 24), 'backbone.stages.1.1', [(1, 2)])
    assert found.map_size == (3, 3)
    seen = []
    hook = network.stages[1][1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    network(noise(18, 24))
    hook.remove()
    jacobian = torch.autograd.functional.jacobian(lambda x: network.stages[1][1](x)[0, 1, 2], seen[0])
    torch.testing.assert_close(found.maps[0], jacobian[:, 0].abs().sum(-1).mean(0), rtol=1e-9, atol=1e-14)
    assert (found.maps[0] > 0).all()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_tokens_in_one_call_equal_calls_for_each(network, trace):
    tokens = [(0, 5), (-1, 0), (2, 2)]
    for maps in (
        lambda tokens: activation_maps(trace, tokens),
        lambda tokens: layer_activation_maps(network, noise(18, 24), 'stages.0.0.dssm', tokens, 'channels_last'),
    ):
        together = maps(tokens)
        assert together.tokens == ((0, 5), (4, 0), (2, 2))
        for i, token in enumerate(tokens):
            assert torch.equal(maps([token]).maps[0], together.maps[i])
        assert not torch.equal(together.maps[0], together.maps[1])
        assert maps(None).tokens == ((2, 3),)
    assert torch.equal(activation_maps(trace, tokens).maps[2], activation_map(trace, (2, 2)))


class Odd(nn.Module):
    """Layers whose results are no maps."""

    def __init__(self):
        super().__init__()
        self.twice, self.pair, self.unused = nn.ReLU(), Pair(), nn.ReLU()
        self.pool, self.detached, self.constant = nn.Flatten(), Detached(), Constant()
        self.windows = Windows()

    def forward(self, x):
        self.twice(self.twice(x)), self.pair(x), self.pool(x), self.detached(x), self.constant(x), self.windows(x)
        return x


class Pair(nn.Module):
    def forward(self, x):
        return x, 2 * x


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x):
        return self.weight.expand_as(x)


class Windows(nn.Module):
    def forward(self, x):
        return x.unfold(2, 4, 4).flatten(0, 0).permute(2, 0, 1, 3, 4).flatten(1, 2)


@pytest.mark.parametrize(
    ('layer', 'options', 'message'),
    [
        ('twic', {}, r"Odd has no layer 'twic', did you mean 'twice'\? The names are those of model.named_modules"),
        ('twice', {}, r'twice \(ReLU\) ran 2 times for one image, expected once'),
        ('unused', {}, r'unused \(ReLU\) ran 0 times'),
        ('pair', {}, r'pair must return one tensor, it returns tuple with 2 tensors'),
        ('pool', {}, r'the output of pool is no map of one image: it has the shape \(1, 288\)'),
        ('windows', {}, r'the output of windows is no map of one image: it has the shape \(2, 3, 12, 4\)'),
        ('detached', {}, 'the output of detached has no gradient'),
        ('constant', {}, 'the output of constant does not depend on its input'),
        ('', {'tokens': [(0, 0), (8, 0)]}, r'token must be \(row, column\) on a map of 8 x 12 tokens.*got \(8, 0\)'),
        ('', {'tokens': (1, 2)}, r'tokens must be pairs \(row, column\), at least one, got \[1, 2\]'),
        ('', {'tokens': []}, 'at least one'),
        ('', {'layout': 'NCHW'}, "layout must be one of .* or None, got 'NCHW'"),
    ],
)
def test_what_is_no_map_is_refused(layer, options, message):
    with pytest.raises(ValueError, match=message):
        layer_activation_maps(Odd(), noise(8, 12), layer, **options)


def test_a_layout_that_is_not_certain_is_asked_for():
    # as many channels as columns: (1, 12, 12, 12) could be either
    model = nn.Conv2d(3, 12, 1, dtype=torch.float64)
    wide = nn.Sequential(model, nn.Identity())
    with pytest.raises(
        ValueError, match=r"input of 1 has the shape \(1, 12, 12, 12\).*give its layout, one of \['chann"
    ):
        layer_activation_maps(wide, noise(12, 12), '1', [(1, 2)])
    for layout in ('channels_first', 'channels_last'):
        maps = layer_activation_maps(wide, noise(12, 12), '1', [(1, 2)], layout).maps
        assert torch.equal(maps[0], box((12, 12), (1, 2), (2, 3)).double())
    # 8 channels of 5 x 6 tokens could be 5 channels of 6 x 8: a stride of 4 or 3 on an image of 18 x 24
    small = nn.Sequential(nn.AdaptiveAvgPool2d((5, 6)), nn.Conv2d(3, 8, 1).double(), Last(), nn.Identity())
    with pytest.raises(ValueError, match=r'\(1, 5, 6, 8\), .* several sizes are possible: \[\(5, 6\), \(6, 8\)\]'):
        layer_activation_maps(small, noise(18, 24), '3')
    with pytest.raises(ValueError, match=r'inputs must be one image, .* got \(2, 3, 8, 8\)'):
        layer_activation_maps(wide, torch.zeros(2, 3, 8, 8), '1')
