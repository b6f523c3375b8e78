"""What makes a constant of a free size is mended or refused, before the work begins."""

import pytest
import torch
from torch import nn

from mmdefmamba.export.graph import ExportedPart, trace
from mmdefmamba.export.verification import verify
from mmdefmamba.models import DefMamba

pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
onnxruntime = pytest.importorskip('onnxruntime')


class Resized(nn.Module):
    """A network whose map gets another size."""

    channels = 3

    def __init__(self, resize):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.resize = resize

    def forward(self, images):
        return (self.resize(self.conv(images)),)


@pytest.mark.filterwarnings('ignore:When align_corners')
@pytest.mark.parametrize('aligned', [False, True])
def test_mmseg_resizes_maps_of_any_size(aligned):
    """Upsample is the head of Semantic FPN; resize with aligned corners is in each segmentor that wants them."""
    from mmdefmamba.export.onnx_file import to_onnx

    torch.manual_seed(0)
    wrappers = pytest.importorskip('mmseg.models.utils.wrappers')
    resize = wrappers.Upsample(scale_factor=2, mode='bilinear', align_corners=aligned)
    network = Resized(nn.Sequential(resize, wrappers.Upsample(scale_factor=2, mode='nearest'))).eval()
    options = resize.__dict__.copy(), wrappers.resize.__defaults__
    model = to_onnx(trace(network), ['map0'])
    assert (resize.__dict__, wrappers.resize.__defaults__) == options  # nothing stays changed
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    # small maps: onnxruntime's places between pixels have an error of 1e-7 of the side
    for size in ((2, 3, 17, 23), (1, 3, 8, 30), (1, 3, 1, 1)):
        images = torch.randn(size, generator=torch.Generator().manual_seed(0))
        (found,) = session.run(None, {'images': images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), network(images)[0], rtol=1e-5, atol=5e-6)


def test_a_size_that_becomes_a_constant_is_refused_at_once():
    class Doubled(nn.Module):
        def forward(self, x):
            return nn.functional.interpolate(x, [int(side * 1.5) for side in x.shape[-2:]])

    with pytest.raises(ValueError, match=r'the network makes a constant of a size: .* = \d+\. Export it for one size'):
        trace(Resized(Doubled()))
    trace(Resized(Doubled()), (32, 48))


@pytest.mark.parametrize(
    ('scan', 'message'),
    [
        (
            dict(type='deformable', key_dtype='float16'),
            r"network\.stages\.0\.0\.dssm\.scans\.0 has key_dtype='float16'",
        ),
        (dict(type='deformable', point_dtype='float16'), "has point_dtype='float16', which cannot be exported"),
        (dict(type='deformable_fixed', offsets='random'), "'deformable_fixed' with offsets='random', which cannot"),
    ],
)
def test_scans_that_no_file_can_contain_are_refused(scan, message):
    network = ExportedPart(DefMamba(dict(embed_dims=(8,), depths=(1,)), scans=[scan]), part='backbone')
    for shape in (None, (16, 24)):
        with pytest.raises(ValueError, match=message):
            trace(network, shape)


class WholeStrides(nn.Module):
    """It takes images alone whose sides are multiples of 32, as RTMDet's neck does."""

    channels = 1

    def forward(self, images):
        if any(side % 32 for side in images.shape[-2:]):
            raise RuntimeError('Sizes of tensors must match')
        return (images,)


def test_networks_that_take_few_sizes_are_checked_at_those():
    class File:
        def run(self, images):
            return {'map0': images + 1e-4 * (images.shape[-1] == 96)}, {}, {}

    lines = []
    found = verify(File(), WholeStrides(), [(1, 32, 32), (2, 33, 70)], report=lines.append)
    assert [c.size for c in found.comparisons] == [(1, 32, 32), (2, 64, 96)]
    assert lines[1] == '2 x 33 x 70: the network takes no such images; 2 x 64 x 96 is checked in its place'
    assert len(found.problems) == 1 and found.problems[0].startswith('2 x 64 x 96: map0')
