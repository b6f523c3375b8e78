import numpy as np
import pytest
import torch

from mmdefmamba.models import DefMamba
from mmdefmamba.visualization import draw_digits, trace_deformable

ARCH = {'embed_dims': (8, 16), 'depths': (1, 2)}


def test_trace_is_what_the_scan_did():
    torch.manual_seed(0)
    model = DefMamba(ARCH, out_indices=(1,)).eval()
    images = torch.randn(2, 3, 20, 24)
    result, traces = trace_deformable(model, images)
    assert torch.equal(result[0], model(images)[0])
    assert [trace.name for trace in traces] == [f'stages.{s}.{b}.dssm.scans.2' for s, b in ((0, 0), (1, 0), (1, 1))]
    assert [trace.map_size for trace in traces] == [(5, 6), (3, 3), (3, 3)]

    # the first scan by hand
    block = model.stages[0][0]
    x = block.norm1(model.stem(images.permute(0, 2, 3, 1)))
    u, _ = block.dssm.in_proj(x).chunk(2, dim=-1)
    u = torch.nn.functional.silu(block.dssm.conv(u.permute(0, 3, 1, 2)))
    point_offset, index_offset = block.dssm.scans[2].offsets(u)
    torch.testing.assert_close(traces[0].point_offset, point_offset)
    expected = (torch.linspace(-1, 1, 30) + index_offset).argsort(dim=-1, stable=True)
    assert torch.equal(traces[0].order, expected)


def test_nothing_to_trace_is_said():
    with pytest.raises(ValueError, match='DefMamba has no deformable scan'):
        trace_deformable(DefMamba(ARCH, scans=('raster',), out_indices=(1,)), torch.zeros(1, 3, 8, 8))


def test_draw_digits_refuses_a_trace_without_order(tmp_path):
    scans = [{'type': 'deformable', 'order': False}]
    _, traces = trace_deformable(DefMamba(ARCH, scans=scans, out_indices=(1,)), torch.zeros(1, 3, 32, 32))
    assert traces[0].order is None
    with pytest.raises(ValueError, match='there is no learned order to draw'):
        draw_digits(tmp_path / 'x.png', np.zeros((1, 8, 8)), [1], [1], traces[0])
