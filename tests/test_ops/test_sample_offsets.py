"""sample_offsets: the plain path against formulas written a second time, and the kernels against the plain path.

The kernels run on a GPU or in Triton's interpreter.
"""

import itertools
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmdefmamba.models import DefMamba
from mmdefmamba.ops import sample_offsets, sample_points, unavailable_reason, use_backend
from mmdefmamba.ops.triton_maps import offset_op
from mmdefmamba.scans import ScanContext
from mmdefmamba.scans.deformable import DeformableScan

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
REASON = unavailable_reason('triton', torch.zeros(1, device=DEVICE))
needs_kernels = pytest.mark.skipif(REASON is not None, reason=str(REASON))
FORMULATIONS = ('paper', 'released')
NAMES = ('result', 'x', 'offsets', 'table')


def limits(height, width, formulation):
    """The largest offset of a network, (y, x)."""
    sides = (height, width) if formulation == 'paper' else (max(height - 1, 1), max(width - 1, 1))
    return 1 / torch.tensor(sides, dtype=torch.float32)


def make_leaves(batch, channels, height, width, table, formulation, scale=1.0, dtype=torch.float32):
    """A channel-last map, offsets up to ``scale`` times their range, and a table of this size, or none."""
    torch.manual_seed(0)
    offsets = (torch.rand(batch, height, width, 2) * 2 - 1) * scale * limits(height, width, formulation)
    leaves = [torch.randn(batch, height, width, channels).to(dtype).permute(0, 3, 1, 2), offsets]
    leaves += [] if table is None else [torch.randn(channels, *table)]
    return [x.to(DEVICE) for x in leaves]


def run(leaves, formulation, backend='triton', dtype=None, weight=None):
    """The result and the gradients of all leaves."""
    leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in leaves]
    with use_backend(backend):
        y = sample_offsets(*leaves, formulation=formulation)
    weight = torch.linspace(-3, 9, y.numel(), device=y.device).view_as(y).sin() if weight is None else weight
    return [y.detach(), *torch.autograd.grad(y, leaves, weight.to(y.dtype))]


def relative(actual, expected, least=1e-12):
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=least)).item()


def compare(leaves, formulation, rounding=0.0, skipped=()):
    """Compare the kernels with the plain path in float64: values and all gradients.

    Args:
        rounding: of the dtype of the map, in which the result and the gradient of the map are stored.
        skipped: those of NAMES that are not compared.
    """
    weight = torch.linspace(-3, 9, leaves[0].numel(), device=DEVICE).view(leaves[0].shape).sin().to(leaves[0].dtype)
    actual, expected = run(leaves, formulation, weight=weight), plain(leaves, formulation, torch.float64, weight)
    single = plain(leaves, formulation, torch.float32, weight)
    for name, leaf, *(got, want, other) in zip(NAMES, leaves[:1] + leaves, actual, expected, single, strict=False):
        assert got.dtype == leaf.dtype and got.shape == want.shape, name
        allowed = max(2e-6, relative(other, want)) + (rounding if name in ('result', 'x') else 0)
        assert relative(got, want) <= allowed or name in skipped, name


def flags_of(leaves, formulation):
    """The flags of the tiles: 1 if a point is far from its token, plus 2 if it is far in the table."""
    x, offsets, table = leaves
    u = x.flatten(2).transpose(1, 2)
    return torch.ops.mmdefmamba.read_at_offsets(u, offsets, table, formulation)[1]


def plain(leaves, formulation, dtype, weight=None):
    """:func:`run` by PyTorch's own operators."""
    return run(leaves, formulation, 'reference', dtype, weight)


def read_by_hand(x, row, column):
    """One channel at a place in pixels, zeros outside."""
    total = 0.0
    for i, j in itertools.product(range(x.shape[0]), range(x.shape[1])):
        total += x[i, j].item() * max(0.0, 1 - abs(row - i)) * max(0.0, 1 - abs(column - j))
    return total


@pytest.mark.parametrize('size', [(3, 4), (1, 5), (1, 1)], ids=str)
def test_paper_reads_at_the_offset_and_the_table_at_half_of_it(size):
    x, offsets, table = (t.double().cpu() for t in make_leaves(1, 1, *size, (4, 5), 'paper', scale=1.5))
    y = sample_offsets(x, offsets, table)[0, 0]
    for i, j in itertools.product(*map(range, size)):
        oy, ox = offsets[0, i, j].tolist()
        expected = read_by_hand(x[0, 0], i + oy * (size[0] - 1) / 2, j + ox * (size[1] - 1) / 2)
        expected += read_by_hand(table[0], 1.5 + oy / 2 * 1.5, 2 + ox / 2 * 2)
        assert y[i, j].item() == pytest.approx(expected, abs=1e-12)


def test_released_reads_half_a_pixel_later_and_the_table_at_half_the_distance_to_the_key():
    height, width = 3, 4
    x, offsets, table = (t.double().cpu() for t in make_leaves(1, 1, height, width, (height, width), 'released'))
    y = sample_offsets(x, offsets, table, formulation='released')[0, 0]
    for i, j in itertools.product(range(height), range(width)):
        place, entry = [], []
        for k, side, offset in zip((i, j), (height, width), offsets[0, i, j].tolist(), strict=True):
            point = 2 * (k + 0.5) / (side - 1) - 1 + offset
            key = 2 * (k * side / (side - 1)) / (side - 1) - 1
            place.append((point + 1) / 2 * (side - 1))
            entry.append(((key - point) / 2 + 1) / 2 * (side - 1))
        # a table of the size of the map is resized to itself
        expected = read_by_hand(x[0, 0], *place) + read_by_hand(table[0], *entry)
        assert y[i, j].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('formulation', FORMULATIONS)
@pytest.mark.parametrize('size', [1, 2, 3, 7, 8], ids=str)
def test_reachable_entries_are_those_that_offsets_can_read(size, formulation):
    for entries in (size,) if formulation == 'released' else (1, 2, 3, 7, 14, 56):
        shares = torch.linspace(-1, 1, 5, dtype=torch.float64) * 0.9999
        offset = shares.view(-1, 1, 1, 1) * limits(size, 1, formulation).double().view(1, 1, 1, 2)
        offset = offset.expand(-1, size, 1, 2).clone()
        offset[..., 1] = 0
        table = torch.zeros(1, entries, 1, dtype=torch.float64, requires_grad=True)
        if formulation == 'paper':
            x = torch.zeros(len(shares), 1, size, 1, dtype=torch.float64)
            y = sample_offsets(x, offset, table)
        else:
            keys = torch.linspace(0, size, size, dtype=torch.float64) / max(size - 1, 1) * 2 - 1
            points = 2 * (torch.arange(size) + 0.5) / max(size - 1, 1) - 1 + offset[:, :, 0, 0]
            at = torch.stack([(keys - points) / 2, torch.zeros_like(points)], -1).unsqueeze(2)
            y = sample_points(table.expand(len(shares), -1, -1, -1), at)
        y.sum().backward()
        read = table.grad[0, :, 0].nonzero().flatten()
        first, count = offset_op.reachable_entries(entries, size, formulation)
        assert (first, first + count - 1) == (int(read[0]), int(read[-1])), (entries, size)


@needs_kernels
@pytest.mark.usefixtures('quick_interpreter')
class TestKernels:
    @pytest.mark.parametrize('formulation', FORMULATIONS)
    @pytest.mark.parametrize(
        ('sizes', 'table'),
        [
            ((2, 3, 5, 9), (5, 9)),  # two tiles along each axis, ragged
            ((1, 40, 3, 4), (7, 7)),  # three blocks of channels
            ((1, 2, 1, 1), (7, 7)),
            ((2, 1, 1, 6), None),
            ((1, 2, 2, 3), (14, 29)),  # a map so small that several windows of the table are reachable
        ],
        ids=str,
    )
    def test_match_the_plain_path(self, sizes, table, formulation, monkeypatch):
        # several programs for the tokens of a table's gradient, and for the channels of the other gradients
        monkeypatch.setattr(offset_op, 'CHUNK', 32)
        monkeypatch.setattr(offset_op, 'BLOCKS_PER_PROGRAM', 2)
        compare(make_leaves(*sizes, table, formulation), formulation)

    @pytest.mark.parametrize('formulation', FORMULATIONS)
    def test_any_offset_is_right(self, formulation):
        """Most points are many pixels away, outside of the map and of the table, too."""
        leaves = make_leaves(1, 3, 2, 9, (2, 9), formulation, scale=12)
        assert flags_of(leaves, formulation).eq(3).all()
        compare(leaves, formulation)

    def test_a_few_far_tokens_are_added_once(self):
        """One far on the map, one far in the table only, one just beyond a neighbour on one axis."""
        leaves = make_leaves(2, 3, 3, 9, (30, 3), 'paper')
        for place, offset in (((1, 1, 3), (0.9, -0.4)), ((1, 2, 8), (0.75, 0.0)), ((0, 1, 4), (0.0, 0.3))):
            leaves[1][place] = torch.tensor(offset)
        assert flags_of(leaves, 'paper').tolist() == [[1, 0], [3, 2]]
        compare(leaves, 'paper')

    @pytest.mark.parametrize('formulation', FORMULATIONS)
    @pytest.mark.parametrize('size', [(4, 7), (1, 50)], ids=str)
    def test_offsets_at_the_ends_of_their_range_are_not_far(self, size, formulation):
        """tanh reaches 1 in float32. Rounding must not send such tokens the slow way."""
        u, _, table = make_leaves(1, 1, *size, size, formulation)
        shares = torch.tensor([[1.0, 1], [-1, -1], [1, -1], [0, 1]], device=DEVICE)
        offsets = shares.repeat(size[0] * size[1] // 4 + 1, 1)[: size[0] * size[1]].view(1, *size, 2)
        offsets = offsets * limits(*size, formulation).to(DEVICE)
        assert flags_of([u, offsets, table], formulation).eq(0).all()
        # at the ends lie pixel centres, where the slope jumps: the gradient of the offsets has two values there
        compare([u, offsets, table], formulation, skipped=('offsets',))

    @pytest.mark.parametrize('formulation', FORMULATIONS)
    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_is_rounded_once(self, dtype, formulation):
        # the interpreter cuts bfloat16 off, where a GPU rounds
        compare(make_leaves(1, 20, 2, 9, (2, 9), formulation, dtype=dtype), formulation, torch.finfo(dtype).eps)

    @pytest.mark.parametrize('formulation', FORMULATIONS)
    def test_nan_and_infinite_places_reach_what_reads_them_and_nothing_else(self, formulation):
        leaves = make_leaves(1, 2, 3, 4, (3, 4), formulation)
        for place, bad in (((0, 1, 1, 0), math.nan), ((0, 0, 3, 1), math.inf), ((0, 2, 0, 0), 1e30)):
            leaves[1][place] = bad
        results, expected = run(leaves, formulation), plain(leaves, formulation, torch.float64)
        lost = results[0].isnan()
        assert lost[0, :, 1, 1].all() and lost[0, :, 0, 3].all() and lost.sum() == 4
        assert torch.equal(lost, expected[0].isnan())
        assert relative(results[0].nan_to_num(), expected[0].nan_to_num()) < 1e-6
        clean = leaves[1].isfinite().all(-1)
        gradient, wanted = results[2][clean], expected[2][clean]
        assert torch.equal(results[2].isnan(), expected[2].isnan()) and relative(gradient, wanted) < 1e-6
        assert results[1].isfinite().all() and results[3].isfinite().all()
        # so does the gradient of such a result
        results = run(leaves, formulation, weight=results[0])
        assert results[1].isfinite().all() and results[3].isfinite().all()

    def test_nan_in_a_gradient_reaches_only_pixels_that_were_read(self):
        leaves = make_leaves(1, 2, 4, 5, None, 'paper')
        leaves[1].fill_(0.05)  # reads the pixel of the token, and those below and to the right
        weight = torch.ones(1, 2, 4, 5, device=DEVICE)
        weight[0, 0, 1, 2] = math.nan
        dx = run(leaves, 'paper', weight=weight)[1]
        expected = torch.zeros(1, 2, 4, 5, dtype=torch.bool, device=DEVICE)
        expected[0, 0, 1:3, 2:4] = True
        assert torch.equal(dx.isnan(), expected)

    def test_results_do_not_depend_on_the_run_nor_on_the_batch(self):
        leaves = make_leaves(2, 3, 1, 9, (1, 9), 'paper', scale=2.5)
        first, second = run(leaves, 'paper'), run(leaves, 'paper')
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        weight = torch.linspace(-3, 9, first[0].numel(), device=DEVICE).view_as(first[0]).sin()
        alone = run([leaves[0][1:2], leaves[1][1:2], leaves[2]], 'paper', weight=weight[1:2])
        assert all(torch.equal(a[1:2], b) for a, b in zip(first[:3], alone[:3], strict=True))

    def test_any_layout_is_read(self):
        """Where a map is stored channel-last it is not copied, be it a slice; the result is stored channel-last."""
        x, offsets, table = make_leaves(2, 3, 4, 5, (4, 5), 'paper')
        expected = run([x, offsets, table], 'paper')
        wide = torch.cat([x.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)], -1)[..., 3:].permute(0, 3, 1, 2)
        flipped = offsets.flip(-1).contiguous().flip(-1), table.transpose(1, 2).contiguous().transpose(1, 2)
        for leaves in ([wide, *flipped], [x.contiguous(), offsets, table]):
            got = run(leaves, 'paper')
            assert got[0].permute(0, 2, 3, 1).is_contiguous()
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))

    @pytest.mark.parametrize(('formulation', 'table'), [('paper', (4, 2)), ('released', None)], ids=str)
    def test_operators_pass_opcheck(self, formulation, table):
        x, offsets, *tables = make_leaves(1, 1, 1, 2, table, formulation)
        table = tables[0] if tables else None
        u = x.flatten(2).transpose(1, 2)
        leaves = [None if t is None else t.detach().requires_grad_() for t in (u, offsets, table)]
        forward, backward = torch.ops.mmdefmamba.read_at_offsets, torch.ops.mmdefmamba.read_at_offsets_backward
        if table is not None:  # this takes seconds
            torch.library.opcheck(forward, (*leaves, formulation))
        u, offsets, table = (None if t is None else t.detach() for t in leaves)
        out, flags, rows = forward(u, offsets, table, formulation)
        arguments = torch.ones_like(out), u, offsets, None if table is None else rows, flags, formulation
        torch.library.opcheck(backward, arguments, test_utils=('test_schema', 'test_faketensor'))

    def test_a_network_gets_the_gradients_of_the_reference(self, record_operators):
        torch.manual_seed(0)
        model = DefMamba(dict(embed_dims=(4,), depths=(1,)), scans=('deformable',), pretrain_img_size=16)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.endswith('A_log'):  # so large that scans and offsets matter
                torch.nn.init.normal_(parameter, std=0.3)
        images, results = torch.randn(1, 3, 8, 12, device=DEVICE), []
        runs = ('triton', torch.float32), ('blockwise', torch.float32), ('reference', torch.float64)
        for backend, dtype in runs:
            model.to(DEVICE, dtype)
            with record_operators() as recorder, use_backend(backend):
                (y,) = model(images.to(dtype))
            assert ('read_at_offsets' in recorder.names) == (backend == 'triton')
            loss = (y * torch.linspace(-1, 1, y.numel(), dtype=dtype, device=DEVICE).view_as(y)).sum()
            results.append([y.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
        # a gradient of a thousandth of the largest is what is left of terms that cancel, and its last digits are chance
        least = 1e-3 * max(want.abs().max() for want in results[2][1:])
        for got, plain_result, want in zip(*results, strict=True):
            assert relative(got, want, least) < max(1e-5, 2 * relative(plain_result, want, least))

    @pytest.mark.parametrize('formulation', FORMULATIONS)
    def test_a_scan_respects_what_users_replaced(self, formulation, record_operators):
        """Rounded points and a hook on the offset bias take the plain path; wider offsets of a subclass are right."""

        class Wide(DeformableScan):
            def constrain(self, raw):
                points, index = super().constrain(raw)
                return 5 * points, index

        context, u = ScanContext(3, 1, (5, 6), formulation), torch.randn(1, 3, 5, 6, device=DEVICE)
        torch.manual_seed(0)
        cases = [(DeformableScan, {}, True, False), (DeformableScan, {}, False, True), (Wide, {}, True, False)]
        cases += [(DeformableScan, dict(point_dtype='float16'), False, False)]
        for kind, options, fused, hooked in cases:
            scan = kind(context, order=False, **options).to(DEVICE)
            torch.nn.init.normal_(scan.offset_network.proj.weight)
            torch.nn.init.normal_(scan.offset_bias.table)
            if hooked:
                scan.offset_bias.register_forward_hook(lambda module, args, out: (2 * out[0], out[1]))
            with record_operators() as recorder, use_backend('triton'):
                y, _ = scan(u)
            assert ('read_at_offsets' in recorder.names) == fused
            with use_backend('reference'):
                expected, _ = scan.double()(u.double())
            assert relative(y, expected) < (1e-2 if options else 1e-5)


@pytest.mark.usefixtures('fake_cuda')
def test_cudnn_samples_nothing(record_operators):
    """cuDNN's sampler returns another layout, cannot be traced for free sizes, and runs in no test without a GPU."""
    with FakeTensorMode(), record_operators() as recorder:
        x, points = torch.empty(2, 3, 4, 5, device='cuda'), torch.empty(2, 4, 5, 2, device='cuda')
        assert sample_points(x, points, x[0], points).shape == x.shape
        assert sample_offsets(x.double(), points.double(), x[0].double()).shape == x.shape
    assert 'grid_sampler_2d' in recorder.names and not [name for name in recorder.names if 'cudnn' in name]


def test_what_does_not_fit_is_refused():
    x, offsets, table = torch.ones(1, 2, 3, 4), torch.zeros(1, 3, 4, 2), torch.ones(2, 5, 5)
    for change, message in (
        (dict(x=x[0]), r'got \(2, 3, 4\) and \(1, 3, 4, 2\)'),
        (dict(offsets=offsets[:, :2]), r'of the same sizes, got \(1, 2, 3, 4\) and \(1, 2, 4, 2\)'),
        (dict(table=table[:1]), r'table must be \(2, height, width\), got \(1, 5, 5\)'),
        (dict(table=table[:, :0]), r'got \(2, 0, 5\)'),
        (dict(x=x.long()), 'x must be a floating point tensor, got torch.int64'),
        (dict(offsets=offsets.int()), 'offsets must be a floating point tensor, got torch.int32'),
        (dict(formulation='authors'), r"formulation must be one of \('paper', 'released'\), got 'authors'"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_offsets(**{'x': x, 'offsets': offsets, 'table': table, **change})


@pytest.mark.parametrize('backend', ['native', 'reference', 'triton'])
def test_no_images_give_an_empty_result(backend):
    with use_backend(backend):
        assert sample_offsets(torch.ones(0, 2, 3, 4), torch.zeros(0, 3, 4, 2), torch.ones(2, 3, 4)).shape == (
            0,
            2,
            3,
            4,
        )
