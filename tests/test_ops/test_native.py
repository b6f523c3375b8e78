"""The compiled kernels against the reference in float64, with each instruction set that can run here."""

import multiprocessing
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from mmdefmamba.models import DefMamba
from mmdefmamba.ops import TokenOrder, gated_multi_scan, multi_scan, sample_points, selective_scan, use_backend
from mmdefmamba.ops.native import compile as kernel_compiler
from mmdefmamba.ops.native import library
from mmdefmamba.ops.sequence_scan import interface

RUNNABLE = library.LEVELS.get(torch.backends.cpu.get_cpu_capability(), {})
BUILT = {level: lanes for level, lanes in RUNNABLE.items() if (library.LIBRARIES / f'kernels_{level}.so').exists()}
pytestmark = pytest.mark.skipif(not BUILT, reason=f'no kernels: {library.REASON}')
Y_TOLERANCE, GRADIENT_TOLERANCE = 5e-7, 1e-6


@pytest.fixture(params=BUILT)
def level(request, monkeypatch):
    """One instruction set after the other."""
    loaded = library.Library(library.LIBRARIES / f'kernels_{request.param}.so', BUILT[request.param])
    monkeypatch.setattr(library, 'LIBRARY', loaded)
    return request.param


@pytest.fixture
def threads():
    """Sets the number of threads; the test after this one has its own again."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def relative(actual, expected):
    """The largest error, relative to the largest value."""
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


def make_order(kind, batch, length):
    if kind == 'forward':
        return None
    if kind == 'backward':
        return TokenOrder.from_order(torch.arange(length).flip(0), backwards=True)
    orders = torch.stack([torch.randperm(length) for _ in range(batch)])
    return TokenOrder.from_order(orders[0] if kind == 'static' else orders)


def make_inputs(kinds, sources, batch, length, channels, states, step=0.0):
    """Distinct maps, the other inputs of a multi-scan, and orders, float32. ``step``: mean of the raw time step."""
    torch.manual_seed(0)
    scans = len(kinds)
    rows = scans * channels
    maps = [torch.randn(batch, length, channels) for _ in range(max(sources) + 1)]
    others = [
        torch.randn(scans, batch, length, channels).transpose(0, 1) + step,
        -torch.rand(rows, states) * states - 0.1,
        torch.randn(batch, scans, length, states),
        torch.randn(batch, scans, length, states),
        torch.randn(rows),
        torch.randn(rows),
    ]
    return maps, others, [make_order(kind, batch, length) for kind in kinds]


def compare(function, leaves, names):
    """Compare a function of float32 tensors with itself on the reference backend in float64: value and gradients."""
    given = [x.clone().requires_grad_() for x in leaves]
    exact = [x.double().requires_grad_() for x in leaves]
    with use_backend('native'):
        actual = function(*given)
    with use_backend('reference'):
        expected = function(*exact)
    assert actual.dtype == torch.float32 and actual.shape == expected.shape
    assert relative(actual, expected) <= Y_TOLERANCE
    weight = torch.randn(actual.shape)
    gradients = torch.autograd.grad(actual, given, weight)
    wanted = torch.autograd.grad(expected, exact, weight.double())
    for name, got, want in zip(names, gradients, wanted, strict=True):
        assert relative(got, want) <= GRADIENT_TOLERANCE, name


PAPER = ['forward', 'backward', 'learned']
CASES = {
    'as the paper': (PAPER, [0, 0, 1], (2, 37, 24, 16)),
    'L1': (['learned', 'backward'], [0, 1], (2, 1, 3, 16)),
    'K1, one channel, one state': (['forward'], [0], (1, 16, 1, 1)),
    'one block and one token': (PAPER, [0, 1, 2], (1, 17, 16, 5)),
    'channels of one vector and one more': (PAPER, [0, 0, 1], (1, 33, 17, 16)),
    'K9': (['static', 'learned', 'forward'] * 3, [*range(9)], (2, 35, 5, 4)),
    'many states': (['backward'], [0], (1, 20, 8, 100)),
    'many channels': (PAPER, [0, 0, 1], (1, 18, 300, 16)),
}


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_multi_scan_matches_the_reference(case, level):
    kinds, sources, sizes = case
    maps, others, orders = make_inputs(kinds, sources, *sizes)

    def run(*leaves):
        return multi_scan([leaves[i] for i in sources], *leaves[len(maps) :], orders)

    names = [*(f'map {i}' for i in range(len(maps))), 'delta', 'A', 'B', 'C', 'D', 'delta_bias']
    compare(run, [*maps, *others], names)


@pytest.mark.parametrize('step', [-14.0, -4.0, 3.0, 30.0])
def test_small_and_large_time_steps_keep_their_digits(step, level):
    maps, others, orders = make_inputs(PAPER, [0, 0, 1], 1, 50, 20, 16, step=step)

    def run(*leaves):
        return multi_scan([leaves[0], leaves[0], leaves[1]], *leaves[2:], orders)

    compare(run, [*maps, *others], ['shared', 'sampled', 'delta', 'A', 'B', 'C', 'D', 'delta_bias'])


@pytest.mark.parametrize('softplus', [True, False])
@pytest.mark.parametrize('optional', [True, False])
def test_selective_scan_matches_the_reference(softplus, optional, level):
    torch.manual_seed(0)
    leaves = [torch.randn(2, 6, 21), torch.rand(2, 6, 21), -torch.rand(6, 3), *torch.randn(2, 2, 2, 3, 21).unbind()]
    leaves += [torch.randn(6), torch.rand(6)] if optional else []
    names = ['u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias'][: len(leaves)]
    compare(lambda *x: selective_scan(*x, delta_softplus=softplus), leaves, names)


def gated_inputs(kinds, sources, batch, length, channels, states, rank):
    maps, (_, A, _, _, D, bias), orders = make_inputs(kinds, sources, batch, length, channels, states)
    scans = len(kinds)
    # as the network has it: each scan's projections are a part of a wider product
    projected = torch.randn(batch, length, scans * (rank + 2 * states))
    gate = torch.randn(batch, length, 2 * channels)
    return maps, [projected, torch.randn(scans, channels, rank), A, D, bias, gate], orders


@pytest.mark.parametrize(
    ('kinds', 'sources', 'sizes'),
    [
        (PAPER, [0, 0, 1], (2, 37, 24, 16, 2)),
        (['learned'], [0], (1, 1, 5, 3, 1)),
        (['static', 'learned', 'forward', 'backward', 'static'], [0, 1, 0, 2, 0], (2, 19, 17, 4, 3)),
        (PAPER, [0, 0, 1], (1, 16, 270, 16, 17)),
    ],
    ids=['as the paper', 'L1', 'K5', 'many channels'],
)
def test_gated_scan_matches_the_reference(kinds, sources, sizes, level):
    maps, others, orders = gated_inputs(kinds, sources, *sizes)
    channels, scans = sizes[2], len(kinds)

    def run(*leaves):
        maps_, (projected, weight, A, D, bias, gate) = leaves[: len(maps)], leaves[len(maps) :]
        parts = projected.chunk(scans, dim=-1)
        z = gate[..., channels:]
        return gated_multi_scan([maps_[i] for i in sources], parts, weight, A, D, bias, z, orders)

    names = [*(f'map {i}' for i in range(len(maps))), 'projected', 'dt_weight', 'A', 'D', 'delta_bias', 'z']
    compare(run, [*maps, *others], names)


@pytest.mark.parametrize('with_table', [False, True])
@pytest.mark.parametrize('size', [(5, 7), (1, 6), (1, 1)], ids=str)
def test_sampling_matches_pytorch(size, with_table, level):
    """Points inside, outside, and exactly on pixels and borders; channels that fill no vector."""
    torch.manual_seed(0)
    points = torch.rand(2, 3, 11, 2) * 2.6 - 1.3
    points[0, 0, :3] = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    leaves = [torch.randn(2, 19, *size), points]
    if with_table:
        leaves += [torch.randn(19, 4, 3), torch.rand(2, 3, 11, 2) - 0.5]
    compare(sample_points, leaves, ['x', 'points', 'table', 'table_points'][: len(leaves)])


@pytest.mark.parametrize('formulation', ['paper', 'released'])
def test_backbone_matches_the_reference(formulation, level):
    torch.manual_seed(0)
    model = DefMamba(dict(embed_dims=(24, 40), depths=(1, 2)), formulation, pretrain_img_size=32)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.endswith('A_log'):  # so large that scans and offsets matter
            torch.nn.init.normal_(parameter, std=0.1)
    images, results = torch.randn(2, 3, 37, 50), []
    for backend, dtype in (('native', torch.float32), ('reference', torch.float64)):
        model.to(dtype)
        with use_backend(backend):
            maps = model(images.to(dtype))
        loss = sum((x * torch.linspace(-1, 1, x.numel(), dtype=dtype).view_as(x)).sum() for x in maps)
        results.append([*maps, *torch.autograd.grad(loss, list(model.parameters()))])
    errors = [relative(actual, expected) for actual, expected in zip(*results, strict=True)]
    assert max(errors[:2]) < 2e-6 and max(errors) < 1e-5  # float32 anywhere else in the network errs as much


@pytest.mark.parametrize('reach', [(-1.4, 1.4), (-1.0, -1.0), (1.0, 1.0), (-0.02, 0.03), (1.2, 1.4)], ids=str)
def test_a_table_is_read_wherever_points_reach(reach, level):
    """The kernels copy the part of the table that the points reach: all of it, a corner, its middle, none of it."""
    torch.manual_seed(0)
    points = torch.rand(2, 3, 5, 2) - 0.5
    table_points = torch.rand(2, 3, 5, 2) * (reach[1] - reach[0]) + reach[0]
    leaves = [torch.randn(2, 3, 4, 6), points, torch.randn(3, 9, 14), table_points]
    compare(sample_points, leaves, ['x', 'points', 'table', 'table_points'])


def scan_once():
    maps, others, orders = make_inputs(PAPER, [0, 0, 1], 2, 40, 24, 16)
    leaves = [x.requires_grad_() for x in (*maps, *others)]
    y = multi_scan([leaves[0], leaves[0], leaves[1]], *leaves[2:], orders, backend='native')
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]


def test_the_number_of_threads_changes_no_bit_of_a_result(threads):
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append([gated_value(), *scan_once()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0][:2], other[:2], strict=True))  # y and the gated mean
        for a, b in zip(results[0], other, strict=True):  # gradients are sums over groups of channels, which differ
            assert relative(a, b.double()) <= GRADIENT_TOLERANCE


def gated_value():
    maps, (projected, weight, A, D, bias, gate), orders = gated_inputs(PAPER, [0, 0, 1], 2, 40, 24, 16, 2)
    parts = projected.chunk(3, dim=-1)
    return gated_multi_scan([maps[0], maps[0], maps[1]], parts, weight, A, D, bias, gate[..., :24], orders)


def test_results_are_the_same_in_each_run():
    first, second = scan_once(), scan_once()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _scan_in_child(queue):
    queue.put(scan_once()[0].sum().item())


def test_a_forked_worker_does_not_wait_for_threads_that_it_does_not_have(threads):
    threads(2)
    expected = scan_once()[0].sum().item()  # the parent's threads exist now
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    child = context.Process(target=_scan_in_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=60) == pytest.approx(expected, rel=1e-6)
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(dtype):
    maps, others, orders = make_inputs(['learned', 'backward'], [0, 0], 1, 20, 24, 16)
    u, delta, B, C = (x.to(dtype) for x in (maps[0], others[0], others[2], others[3]))
    A, D, bias = others[1], *others[4:]
    y = multi_scan([u, u], delta, A, B, C, D, bias, orders, backend='native')
    exact = [x.double() for x in (delta, A, B, C, D, bias)]
    expected = multi_scan([u.double(), u.double()], *exact, orders, backend='reference')
    assert y.dtype == dtype and relative(y, expected) < torch.finfo(dtype).eps


@pytest.mark.parametrize('name', ['u', 'delta', 'B', 'C'])
def test_nan_stays_nan_and_stays_in_its_image(name, level):
    maps, others, orders = make_inputs(['forward'], [0], 2, 20, 24, 16)
    inputs = dict(zip(['u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias'], [maps[0], *others], strict=True))
    inputs[name][0, ..., 7, 3] = float('nan')
    u, *rest = inputs.values()
    y = multi_scan([u], *rest, orders, backend='native')
    expected = multi_scan([u], *rest, orders, backend='reference')
    assert y[0].isnan().any() and not y[1].isnan().any()
    assert torch.equal(y.isnan(), expected.isnan())


def test_nan_at_a_pixel_or_a_point_reaches_what_reads_it(level):
    x, points = torch.randn(1, 3, 4, 4), torch.full((1, 2, 2, 2), -0.9)
    x[0, :, 0, 0] = float('nan')
    points[0, 1, 1] = 0.9
    points[0, 0, 1, 0] = float('nan')
    with use_backend('native'):
        out = sample_points(x, points)[0, 0]
    assert out.isnan().tolist() == [[True, True], [True, False]]
    clean = x.nan_to_num().requires_grad_()
    with use_backend('native'):
        (gradient,) = torch.autograd.grad(sample_points(clean, points).sum(), clean)
    assert gradient.isfinite().all(), 'a point that is NaN reads no pixel'
    outside = torch.full((1, 1, 1, 2), 1.2)  # reads zeros beside the last pixel, not the NaN of the first one
    with use_backend('native'):
        assert sample_points(x, outside).isfinite().all()


def test_numbers_near_zero_do_not_slow_down_the_caller_nor_change_its_settings():
    """The kernels treat numbers below 1e-38 as 0 while they run. After them PyTorch keeps such numbers."""
    scan_once()
    tiny = torch.full((8,), 1e-39)
    assert (tiny * 1 == tiny).all() and (tiny != 0).all()


@pytest.mark.parametrize('places', [[0, 1, 5], [-1, 0, 1]], ids=str)
def test_places_outside_of_the_map_are_refused(places):
    """A scan of one's own may return them. The kernels would read and write outside of their tensors."""
    maps, others, _ = make_inputs(['forward'], [0], 1, 3, 4, 2)
    order = TokenOrder(torch.tensor(places), torch.arange(3))
    with pytest.raises(ValueError, match=rf'places from 0 to 2, got places from {min(places)} to {max(places)}'):
        multi_scan(maps, *others, [order], backend='native')


def test_orders_may_have_32_bits():
    maps, others, _ = make_inputs(['forward'], [0], 1, 9, 4, 2)
    order = TokenOrder.from_order(torch.randperm(9))
    narrow = TokenOrder(order.order.int(), order.inverse.int())
    y = [multi_scan(maps, *others, [each], backend='native') for each in (order, narrow)]
    assert torch.equal(*y)


def test_more_maps_than_a_byte_counts():
    maps, others, orders = make_inputs(['forward'] * 260, [*range(260)], 1, 2, 1, 1)
    actual = multi_scan(maps, *others, orders, backend='native')
    expected = multi_scan([x.double() for x in maps], *(x.double() for x in others), orders, backend='reference')
    assert relative(actual, expected) < Y_TOLERANCE


def test_strided_inputs_are_read_where_they_lie_or_copied():
    maps, others, orders = make_inputs(PAPER, [0, 1, 2], 2, 21, 18, 6)
    expected = multi_scan(maps, *others, orders, backend='native')
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in maps]
    rest = [torch.stack([x, -x], dim=-1)[..., 0] for x in others]
    assert torch.equal(multi_scan(strided, *rest, orders, backend='native'), expected)


def test_changed_weights_are_never_read_from_a_copy():
    torch.manual_seed(0)
    model = DefMamba(dict(embed_dims=(8,), depths=(1,)), pretrain_img_size=16).eval()
    images = torch.randn(1, 3, 16, 16)
    dssm = model.stages[0][0].dssm
    with torch.no_grad():
        model(images)
        for name in ('A_log', 'D', 'dt_proj_weight', 'dt_proj_bias', 'x_proj_weight'):
            getattr(dssm, name).add_(0.5)  # in place, as an optimizer, load_state_dict and EMA do
            with use_backend('reference'):
                (expected,) = model(images)
            torch.testing.assert_close(model(images)[0], expected, rtol=1e-5, atol=1e-5)


def test_gradients_of_orders_are_those_of_the_reference():
    maps, others, _ = gated_inputs(['forward', 'learned'], [0, 1], 2, 9, 6, 3, 2)
    keys = torch.randn(2, 9)
    order = TokenOrder.from_order(keys.argsort(stable=True))

    def run(keys_, projected, weight, A, D, bias, gate):
        parts, z = projected.chunk(2, dim=-1), gate[..., :6]
        tokens = [x.to(keys_.dtype) for x in maps]
        return gated_multi_scan(tokens, parts, weight, A, D, bias, z, [None, TokenOrder(order.order, keys=keys_)])

    given = [x.clone().requires_grad_() for x in (keys, *others)]
    exact = [x.double().requires_grad_() for x in (keys, *others)]
    with use_backend('reference'):
        (expected,) = torch.autograd.grad(run(*exact).square().sum(), exact[0])
    (actual,) = torch.autograd.grad(run(*given).square().sum(), given[0])
    assert expected.abs().min() > 0 and relative(actual, expected) < 1e-5


def test_the_network_compiles_and_trains_with_the_kernels():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = DefMamba(dict(embed_dims=(8, 12), depths=(1, 1)), pretrain_img_size=32, scan_backend='native')
    images, results = torch.randn(2, 3, 24, 31), []
    for network in (torch.compile(model, fullgraph=True, backend='aot_eager'), model):
        maps = network(images)
        results.append([*maps, *torch.autograd.grad(sum(x.square().sum() for x in maps), list(model.parameters()))])
    torch._dynamo.reset()
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


# -- The choice of the backend.


def test_auto_takes_the_kernels_on_a_cpu_and_says_why_it_does_not():
    x = torch.zeros(1)
    assert interface.auto_backend(x) == ('native', 'tensors on cpu')
    for u, states, reason in (
        (x.double(), 16, 'native cannot run: it computes in float32, these are float64'),
        (x, 300, 'native cannot run: it takes at most 256 states, got 300'),
    ):
        assert interface.auto_backend(u, states) == ('blockwise', f'tensors on cpu; {reason}')
    y = selective_scan(torch.randn(1, 2, 5), torch.randn(1, 2, 5), -torch.rand(2, 300), *torch.randn(2, 1, 1, 300, 5))
    assert y.isfinite().all()


@pytest.fixture
def empty_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(library, 'LIBRARIES', tmp_path)
    return tmp_path


def test_kernels_that_were_not_built_leave_their_reason(empty_folder, monkeypatch):
    assert 'no kernels for' in library.find()[1] and 'docs/install.md' in library.find()[1]
    monkeypatch.setattr(kernel_compiler.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(RuntimeError, match='pip install ziglang'):
        kernel_compiler.compile_all(empty_folder)
    assert library.find() == (None, 'the kernels were not built: the C compiler is not installed: pip install ziglang')


def test_a_library_of_other_sources_is_refused(empty_folder, monkeypatch):
    level = next(iter(BUILT))
    original = kernel_compiler.LIBRARIES / f'kernels_{level}.so'
    (empty_folder / original.name).write_bytes(original.read_bytes())
    monkeypatch.setattr(library, 'Call', library.Job)
    assert 'was compiled from other sources' in library.find()[1]


def test_a_broken_library_is_refused(empty_folder):
    (empty_folder / f'kernels_{next(iter(BUILT))}.so').write_bytes(b'not a library')
    assert 'cannot be loaded' in library.find()[1]


def test_a_cpu_without_kernels_is_named(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'ZVECTOR')
    assert library.find() == (None, 'there are no kernels for a CPU with the capability ZVECTOR')


def test_the_kernels_run_where_pytorch_was_not_imported_first():
    code = 'from mmdefmamba.ops.native import library; assert library.REASON is None, library.REASON'
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120)


def test_softplus_of_the_kernels_is_pytorchs(level):
    """One token, A = 0 and B = C = u = 1: y is the time step itself."""
    raw = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([-1e4, -88.0, 19.99, 20.01, 1e4])])
    ones = torch.ones(1, 1, 1, 1)
    zero = torch.zeros(len(raw))
    inputs = raw.view(1, 1, 1, -1), torch.zeros(len(raw), 1), ones, ones, zero, zero
    y = multi_scan([torch.ones(1, 1, len(raw))], *inputs, [None], backend='native')
    expected = F.softplus(raw.double())
    assert ((y.flatten() - expected).abs() <= 2.5e-7 * expected + 2e-38).all()
    assert (y.flatten()[raw <= -88] == 0).all()


@pytest.mark.parametrize('rate, step', [(-1.0, -1e4), (-1e3, 20.0), (-130.0, 1.0)], ids=str)
def test_what_is_below_every_float_is_zero(rate, step, level):
    """Softplus of -1e4, e^-2e4 and e^-171 times a state of 1e12, read by the second token alone: 1e-38 would show."""
    u, B = torch.tensor([[[1e6, 0.0]]]), torch.tensor([[[[1e6, 0.0]]]])
    delta = torch.tensor([[[1e-3, step]]], requires_grad=True)
    A = torch.tensor([[rate]], requires_grad=True)
    C = torch.tensor([[[[0.0, 1.0]]]])
    y = selective_scan(u, delta, A, B, C, delta_softplus=True, backend='native')
    decay = 1.0 if step < 0 else 0.0
    driven = F.softplus(torch.tensor(1e-3)).item() * 1e12
    torch.testing.assert_close(y[0, 0], torch.tensor([0.0, decay * driven]), rtol=1e-6, atol=0)
    y[..., 1].sum().backward()
    assert A.grad == 0 and delta.grad[..., 1] == 0
