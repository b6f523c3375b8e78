import pytest
import torch
from torch import nn

from mmdefmamba.analysis import trace_blocks
from mmdefmamba.models import DefMamba
from mmdefmamba.ops import TokenOrder, merge_scans, permute_tokens, restore_tokens, selective_scan
from mmdefmamba.ops.reference_points import reference_points

ARCH = {'embed_dims': (8, 16), 'depths': (1, 2)}
SCANS = ('raster', 'raster_reverse', dict(type='local', window=2, reverse=True), 'deformable')


def backbone(scans=SCANS, **options):
    torch.manual_seed(0)
    return DefMamba(ARCH, scans=scans, out_indices=(1,), **options).eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 20, 25)


@pytest.mark.parametrize('formulation', ['paper', 'released'])
def test_result_of_a_block_follows_from_its_trace(images, formulation):
    model = backbone(formulation=formulation).double()
    images = images.double()
    calls = []
    for stage in model.stages:
        for block in stage:
            block.dssm.register_forward_hook(lambda dssm, inputs, output: calls.append((dssm, inputs[0], output)))
    result, traces = trace_blocks(model, images)
    assert [(trace.stage, trace.block, trace.label) for trace in traces] == [
        (0, 0, 'stages.0.0'),
        (1, 0, 'stages.1.0'),
        (1, 1, 'stages.1.1'),
    ]
    assert [trace.map_size for trace in traces] == [(5, 7), (3, 4), (3, 4)]
    for trace, (dssm, x, output) in zip(traces, calls, strict=True):
        assert trace.scans == ('raster', 'raster_reverse', 'local reversed', 'deformable')
        assert dict(model.named_modules())[trace.name] is dssm
        y = []
        for k, order in enumerate(map(TokenOrder.from_order, trace.orders)):
            tokens = (trace.maps[k], trace.delta[:, k], trace.B[:, k], trace.C[:, k])
            u, delta, B, C = (permute_tokens(x, order).transpose(1, 2) for x in tokens)
            D = dssm.D.unflatten(0, (len(SCANS), -1))[k]
            y_k = selective_scan(
                u, delta, trace.A[k], B[:, None], C[:, None], D, None, delta_softplus=False, backend='reference'
            )
            y.append(restore_tokens(y_k.transpose(1, 2), order))
        gate = dssm.in_proj(x).chunk(2, dim=-1)[1].flatten(1, 2)
        merged = dssm.out_proj(merge_scans(torch.stack(y, 1), gate)).unflatten(1, trace.map_size)
        torch.testing.assert_close(merged, output, rtol=1e-10, atol=1e-12)
    assert torch.equal(result[0], model(images)[0])


def test_trace_has_orders_and_points_of_the_scans(images):
    model = backbone()
    _, (trace, *_) = trace_blocks(model, images)
    dssm = model.stages[0][0].dssm
    x = model.stages[0][0].norm1(model.stem(images.permute(0, 2, 3, 1)))
    u = nn.functional.silu(dssm.conv(dssm.in_proj(x).chunk(2, dim=-1)[0].permute(0, 3, 1, 2)))
    point_offset, index_offset = dssm.scans[3].offsets(u)
    torch.testing.assert_close(trace.point_offset, point_offset)
    torch.testing.assert_close(trace.reference, reference_points(5, 7, 'paper', torch.float32, 'cpu'))
    torch.testing.assert_close(trace.points, trace.reference + point_offset)
    learned = (torch.linspace(-1, 1, 35) + index_offset).argsort(dim=-1, stable=True)
    assert torch.equal(trace.orders[3], learned)
    assert torch.equal(trace.orders[0], torch.arange(35).expand(2, -1))
    assert torch.equal(trace.orders[1], torch.arange(34, -1, -1).expand(2, -1))
    assert torch.equal(trace.orders[2][1], dssm.scans[2].order(5, 7).flip(0))
    torch.testing.assert_close(trace.maps[0], u.flatten(2).transpose(1, 2))
    assert trace.maps[0] is trace.maps[2]  # scans that share a map also share it in the trace
    torch.testing.assert_close(trace.maps[3], dssm.scans[3].sample(u, point_offset).flatten(2).transpose(1, 2))


def test_ranks_are_the_steps_at_which_places_are_visited(images):
    _, (trace, *_) = trace_blocks(backbone(), images, stages=0, state_space=False)
    ranks = trace.ranks(1)
    assert ranks.shape == (5, 7)
    assert all(ranks.flatten()[place] == step for step, place in enumerate(trace.orders[3][1].tolist()))
    assert torch.equal(trace.ranks(0, 'raster_reverse').flatten(), torch.arange(34, -1, -1))


def test_stages_and_blocks_can_be_chosen(images):
    def labels(**chosen):
        return [trace.label for trace in trace_blocks(backbone(), images, **chosen)[1]]

    assert labels(stages=-1, blocks=-1) == ['stages.1.1']
    assert labels(stages=(0, 1), blocks=0) == ['stages.0.0', 'stages.1.0']
    assert labels(stages=0) == ['stages.0.0']
    with pytest.raises(ValueError, match=r'stages of DefMamba must be from -2 to 1, counted from 0, got \(2,\)'):
        labels(stages=2)
    with pytest.raises(ValueError, match=r'blocks of stage 0 must be from -1 to 0, counted from 0, got \(1,\)'):
        labels(blocks=1)


def test_model_with_a_backbone_is_traced_without_a_change(images):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone()

        def forward(self, images, mode):
            return mode, self.backbone(images)[0].mean((2, 3))

    model = Classifier()
    before = model(images, mode='tensor')
    (mode, features), traces = trace_blocks(model, images, mode='tensor', state_space=False)
    assert mode == 'tensor'
    assert torch.equal(features, before[1])
    assert traces[0].name == 'backbone.stages.0.0.dssm'
    assert traces[0].maps is traces[0].delta is traces[0].A is traces[0].B is traces[0].C is None
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match='images must be'):
        trace_blocks(model, images[0], mode='tensor')
    assert not any(module._forward_hooks for module in model.modules())


def test_under_autocast_traces_are_float32(images):
    with torch.autocast('cpu', dtype=torch.bfloat16):
        _, traces = trace_blocks(backbone(), images)
    for trace in traces:
        assert {x.dtype for x in (*trace.maps, trace.delta, trace.A, trace.B, trace.C)} == {torch.float32}
        assert trace.points.dtype == torch.float32


@pytest.mark.parametrize('scan', ['raster', dict(type='deformable', points=False, offset_bias=False)])
def test_scans_without_points_have_no_points_in_the_trace(images, scan):
    _, traces = trace_blocks(backbone(['spanning_tree', scan]), images)
    assert traces[0].points is traces[0].point_offset is None
    assert traces[0].scans[0] == 'spanning_tree'
    # the two images have different orders
    assert not torch.equal(*traces[0].orders[0])


def test_select_gives_the_trace_of_the_selected_images(images):
    _, (whole, *_) = trace_blocks(backbone(), images)
    _, (alone, *_) = trace_blocks(backbone(), images[1:])
    chosen = whole.select([1])
    for name in ('point_offset', 'delta', 'B', 'C'):
        torch.testing.assert_close(getattr(chosen, name), getattr(alone, name))
    for name in ('orders', 'maps'):
        torch.testing.assert_close(getattr(chosen, name), getattr(alone, name))
    assert chosen.label == whole.label


def test_scans_are_found_by_name_and_index(images):
    _, (trace, *_) = trace_blocks(backbone(['raster', 'deformable', 'raster']), images, state_space=False)
    assert [trace.scan_index(scan) for scan in (None, 'deformable', 2)] == [1, 1, 2]
    with pytest.raises(ValueError, match=r"must be one of \['raster', 'deformable', 'raster'\] .* got 'hilbert'"):
        trace.scan_index('hilbert')
    with pytest.raises(ValueError, match='the name of 2 scans: give the index'):
        trace.scan_index('raster')
    _, (trace, *_) = trace_blocks(backbone(['hilbert']), images, state_space=False)
    assert trace.scan_index() == 0


def test_model_without_defmamba_is_refused():
    with pytest.raises(ValueError, match='Linear has no DefMamba backbone'):
        trace_blocks(nn.Linear(1, 1), torch.zeros(1))
