"""Every backend of the selective scan against the reference, and the reference against a loop written here."""

import logging
import math
import sys
import types

import pytest
import torch

from mmdefmamba.ops import selective_scan
from mmdefmamba.ops.sequence_scan import BACKENDS, blockwise, interface, mamba_ssm, unavailable_reason, use_backend
from mmdefmamba.ops.triton_scan import op as triton_op

# batch, groups, channels per group, states, length
SHAPES = {
    'L1': (2, 3, 4, 5, 1),
    'L7': (1, 1, 3, 2, 7),
    'L63': (2, 3, 5, 4, 63),
    'L130': (3, 2, 4, 3, 130),
    'N1': (1, 2, 1, 1, 9),
}


def make_inputs(shape, dtype=torch.float64, device='cpu', seed=0):
    batch, groups, channels, states, length = shape
    generator = torch.Generator().manual_seed(seed)

    def randn(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    dims = groups * channels
    tensors = {
        'u': randn(batch, dims, length),
        'delta': randn(batch, dims, length),
        'A': -randn(dims, states).exp(),
        'B': randn(batch, groups, states, length),
        'C': randn(batch, groups, states, length),
        'D': randn(dims),
        'delta_bias': randn(dims),
    }
    return {name: x.to(device, dtype).requires_grad_() for name, x in tensors.items()}


def gradients(y, inputs, seed=1):
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss = (y * weight.to(y.device, y.dtype)).sum()
    return dict(zip(inputs, torch.autograd.grad(loss, list(inputs.values())), strict=True))


def relative(actual, expected):
    return ((actual.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-12)).item()


def by_hand(u, delta, A, B, C, D, delta_bias):
    """The formulas of the selective scan, computed number by number."""
    batch, dims, length = u.shape
    groups, states = B.shape[1], A.shape[1]
    y = torch.zeros_like(u)
    for b in range(batch):
        for d in range(dims):
            k = d // (dims // groups)
            h = [0.0] * states
            for t in range(length):
                dt = math.log1p(math.exp(float(delta[b, d, t] + delta_bias[d])))
                for n in range(states):
                    h[n] = math.exp(dt * float(A[d, n])) * h[n] + dt * float(B[b, k, n, t]) * float(u[b, d, t])
                y[b, d, t] = sum(float(C[b, k, n, t]) * h[n] for n in range(states)) + float(D[d] * u[b, d, t])
    return y


@pytest.fixture
def logged():
    """What the package's logger receives: (level, text) pairs."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append((record.levelname, record.getMessage()))
    logger = logging.getLogger('mmdefmamba')
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.setLevel(level)
    logger.removeHandler(handler)


def test_reference_matches_a_loop_over_single_numbers():
    inputs = {name: x.detach() for name, x in make_inputs((2, 2, 3, 2, 5)).items()}
    assert relative(selective_scan(**inputs, backend='reference'), by_hand(**inputs)) < 1e-12


@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_blockwise_matches_reference(shape, monkeypatch):
    # several parts and several blocks, the last one shorter, at small sizes
    monkeypatch.setattr(blockwise, 'STATE_ELEMENTS', 24)
    monkeypatch.setattr(blockwise, 'BLOCK_ELEMENTS', 24 * 8)
    inputs = make_inputs(shape)
    expected = selective_scan(**inputs, backend='reference')
    actual = selective_scan(**inputs, backend='blockwise')
    assert relative(actual, expected) < 1e-12
    expected_gradients = gradients(expected, inputs)
    for name, gradient in gradients(actual, inputs).items():
        assert relative(gradient, expected_gradients[name]) < 1e-11, name


def test_blockwise_matches_reference_without_optional_inputs():
    inputs = {name: x for name, x in make_inputs(SHAPES['L63']).items() if name not in ('D', 'delta_bias')}
    inputs['delta'] = inputs['delta'].detach().abs().requires_grad_()
    expected = selective_scan(**inputs, delta_softplus=False, backend='reference')
    actual = selective_scan(**inputs, delta_softplus=False, backend='blockwise')
    assert relative(actual, expected) < 1e-12
    expected_gradients = gradients(expected, inputs)
    for name, gradient in gradients(actual, inputs).items():
        assert relative(gradient, expected_gradients[name]) < 1e-11, name


@pytest.mark.parametrize(('load', 'expected'), [(0.1, 2), (1e3, 1)], ids=['idle', 'busy'])
def test_blockwise_takes_one_thread_on_a_busy_machine(load, expected, monkeypatch, logged):
    monkeypatch.setattr(blockwise.os, 'getloadavg', lambda: (load, 0, 0))
    monkeypatch.setattr(blockwise, '_logged', set())
    seen, time_step = [], blockwise._Problem.time_step
    monkeypatch.setattr(
        blockwise._Problem, 'time_step', lambda *args: (seen.append(torch.get_num_threads()), time_step(*args))[1]
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inputs = make_inputs(SHAPES['L7'])
        y = selective_scan(**inputs, backend='blockwise')
        y.sum().backward()
        assert set(seen) == {expected} and len(seen) > 1 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert ['takes 1 of 2 threads' in text for _, text in logged] == [True] * (expected == 1)


def test_the_number_of_threads_changes_no_bit_of_blockwise():
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            inputs = make_inputs((2, 2, 40, 16, 130), torch.float32)
            y = selective_scan(**inputs, backend='blockwise')
            results.append([y, *torch.autograd.grad(y.square().sum(), list(inputs.values()))])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_blockwise_gradcheck(monkeypatch):
    monkeypatch.setattr(blockwise, 'MAX_BLOCK_TOKENS', 3)
    inputs = make_inputs((2, 2, 2, 2, 7))
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, backend='blockwise'), tuple(inputs.values()))


def test_strides_do_not_matter():
    inputs = make_inputs(SHAPES['L63'])
    strided = {
        name: x.detach().transpose(1, -1).contiguous().transpose(1, -1) if x.ndim > 2 else x.detach()
        for name, x in inputs.items()
    }
    assert strided['u'].stride() != inputs['u'].stride()
    for backend in ('reference', 'blockwise'):
        torch.testing.assert_close(
            selective_scan(**strided, backend=backend), selective_scan(**inputs, backend=backend)
        )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_keeps_the_state_in_float32(dtype):
    # slow decay: the state sums 500 products of about 1, which half precision cannot do
    inputs = {name: x.detach().to(dtype) for name, x in make_inputs((1, 1, 4, 4, 500)).items()}
    inputs['A'] = inputs['A'] * 1e-3
    exact = selective_scan(**{name: x.double() for name, x in inputs.items()}, backend='reference')
    for backend in ('reference', 'blockwise'):
        y = selective_scan(**inputs, backend=backend)
        assert y.dtype == dtype
        assert relative(y, exact) < 2 * torch.finfo(dtype).eps


def test_autocast_does_not_lower_the_precision():
    inputs = make_inputs(SHAPES['L63'], torch.float32)
    expected = selective_scan(**inputs, backend='blockwise')
    expected_gradients = gradients(expected, inputs)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        actual = selective_scan(**inputs, backend='blockwise')
        actual_gradients = gradients(actual, inputs)
    assert torch.equal(actual, expected)
    assert all(torch.equal(actual_gradients[name], g) for name, g in expected_gradients.items())


def test_no_backend_runs_under_autocast():
    seen = []
    inputs = make_inputs(SHAPES['L7'], torch.float32)
    with torch.autocast('cpu', dtype=torch.bfloat16), use_backend(lambda u, *rest: seen.append(is_autocast()) or u):
        assert is_autocast()
        selective_scan(**inputs)
    assert seen == [False]


def is_autocast():
    return torch.is_autocast_enabled('cpu')


def test_large_inputs_stay_finite():
    inputs = make_inputs(SHAPES['L63'], torch.float32)
    for name in ('u', 'delta'):
        inputs[name] = (inputs[name].detach() * 1e4).requires_grad_()
    y = selective_scan(**inputs, backend='blockwise')
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(y, inputs).values())


def test_nan_is_not_hidden():
    inputs = {name: x.detach().clone() for name, x in make_inputs(SHAPES['L7']).items()}
    inputs['u'][0, 1, 3] = float('nan')
    for backend in ('reference', 'blockwise'):
        y = selective_scan(**inputs, backend=backend)
        assert y[0, 1, 3:].isnan().all()
        assert y[0, 1, :3].isfinite().all() and y[0, [0, 2]].isfinite().all()


def test_training_keeps_the_inputs_and_one_state_per_block():
    """Not one state per token. All of it passes through autograd's hooks, which can move it or drop it."""
    saved = []
    inputs = make_inputs((1, 1, 8, 16, 2048), torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        selective_scan(**inputs, backend='blockwise')
    states = 2048 // blockwise.MAX_BLOCK_TOKENS * 8 * 16
    assert sum(saved) == sum(x.numel() for x in inputs.values()) + states


# -- The choice of a backend.


def test_auto_in_float64_on_a_cpu_is_blockwise_and_logged_once(monkeypatch, logged):
    monkeypatch.setattr(interface, '_logged_choices', set())
    inputs = make_inputs(SHAPES['L7'])
    y = [selective_scan(**inputs) for _ in range(2)]
    assert torch.equal(y[0], selective_scan(**inputs, backend='blockwise'))
    why = 'tensors on cpu; native cannot run: it computes in float32, these are float64'
    assert logged == [('INFO', f'selective_scan: backend blockwise ({why})')]


def test_blockwise_on_cuda_is_logged_as_a_warning(monkeypatch, logged):
    monkeypatch.setattr(interface, '_logged_choices', set())
    monkeypatch.setattr(mamba_ssm, 'INSTALLED', False)
    on_cuda = OnCuda(dtype=torch.float64)
    assert [interface.choose_backend('auto', on_cuda) for _ in range(2)] == ['blockwise', 'blockwise']
    [(level, text)] = logged
    assert level == 'WARNING' and text.startswith('selective_scan: backend blockwise (slow on CUDA; ')


def test_named_backend_that_cannot_run_says_why():
    with pytest.raises(RuntimeError, match=r"'mamba_ssm' cannot run: it needs CUDA tensors, these are on cpu"):
        selective_scan(**make_inputs(SHAPES['L7']), backend='mamba_ssm')
    assert unavailable_reason('blockwise', torch.zeros(1)) is None


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match=r"one of .*'blockwise'.* got 'cuda'"):
        selective_scan(**make_inputs(SHAPES['L7']), backend='cuda')


def test_use_backend_overrides_and_restores():
    inputs = make_inputs(SHAPES['L7'])
    with use_backend(lambda u, *rest: u * 0 + 7):
        assert (selective_scan(**inputs, backend='reference') == 7).all()
    with pytest.raises(ZeroDivisionError), use_backend('reference'):
        raise ZeroDivisionError
    assert not (selective_scan(**inputs) == 7).any()


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        ({'u': torch.zeros(2, 15, dtype=torch.float64)}, ValueError, r'u must be .* got \(2, 15\)'),
        ({'u': torch.zeros(2, 15, 0, dtype=torch.float64)}, ValueError, r'all of them at least 1, got \(2, 15, 0\)'),
        ({'delta': torch.zeros(2, 15, 62, dtype=torch.float64)}, ValueError, r'delta must be \(2, 15, 63\).*got'),
        ({'B': torch.zeros(2, 4, 4, 63, dtype=torch.float64)}, ValueError, r'C must be \(2, 4, 4, 63\)'),
        ({'A': torch.zeros(15, dtype=torch.float64)}, ValueError, r'A must be \(channels, N\)'),
        ({'D': torch.zeros(14, dtype=torch.float64)}, ValueError, r'D must be \(15,\)'),
        ({'u': torch.zeros(2, 15, 63, dtype=torch.int64)}, TypeError, 'u must be a floating point tensor'),
        ({'A': None}, TypeError, 'A must be a floating point tensor, got None'),
        ({'B': [0.0]}, TypeError, 'B must be a floating point tensor, got a list'),
        ({'u': torch.zeros(2, 15, 63)}, TypeError, r"\['u'\] are not"),
        ({'B': torch.zeros(2, 3, 4, 63, device='meta', dtype=torch.float64)}, ValueError, 'B is on meta, u is on cpu'),
    ],
    ids=['ndim', 'empty', 'length', 'groups', 'A', 'D', 'integer', 'None', 'list', 'mixed', 'device'],
)
def test_wrong_inputs_are_refused_with_their_name(change, error, message):
    with pytest.raises(error, match=message):
        selective_scan(**{**make_inputs(SHAPES['L63']), **change})


def test_groups_must_divide_the_channels():
    inputs = make_inputs((1, 1, 5, 2, 3))
    inputs['B'] = inputs['C'] = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match='5 channels of u cannot be divided equally among the 2 groups'):
        selective_scan(**inputs)


# -- The adapter to mamba-ssm, with a stand-in for its extension that checks the demands of the kernel.


@pytest.fixture
def kernel(monkeypatch):
    """A stand-in for selective_scan_cuda with the signature and demands of the kernel and the reference's numbers."""
    calls = []

    def check(u, delta, A, B, C, D, delta_bias):
        assert u.dtype == delta.dtype == B.dtype == C.dtype
        assert all(x.stride(-1) == 1 for x in (u, delta, B, C))
        assert all(x is None or x.dtype == torch.float32 for x in (A, D, delta_bias))
        assert A.shape[1] <= 256 and u.shape[1] % B.shape[1] == 0
        calls.append((len(u), u.shape[-1]))

    def fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        assert z is None
        check(u, delta, A, B, C, D, delta_bias)
        y = selective_scan(u, delta, A, B, C, D, delta_bias, delta_softplus=delta_softplus, backend='reference')
        return [y, u.new_empty(0)]

    def bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
        check(u, delta, A, B, C, D, delta_bias)
        assert (z, out, dz, recompute_out_z) == (None, None, None, False) and dout.stride(-1) == 1
        inputs = [t.detach().requires_grad_() if t is not None else None for t in (u, delta, A, B, C, D, delta_bias)]
        with torch.enable_grad():
            y = selective_scan(*inputs, delta_softplus=delta_softplus, backend='reference')
        given = [t for t in inputs if t is not None]
        grads = dict(zip(map(id, given), torch.autograd.grad(y, given, dout), strict=True))
        du, ddelta, dA, dB, dC, dD, dbias = (grads.get(id(t), torch.empty(0)) for t in inputs)
        return [du, ddelta, dA, dB.float(), dC.float(), dD, dbias]

    monkeypatch.setitem(sys.modules, mamba_ssm.EXTENSION, types.SimpleNamespace(fwd=fwd, bwd=bwd))
    return calls


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('optional', [True, False], ids=['full', 'bare'])
def test_mamba_ssm_adapter_matches_reference(kernel, dtype, optional):
    inputs = make_inputs(SHAPES['L63'], dtype)
    if not optional:
        inputs['D'] = inputs['delta_bias'] = None
    expected = selective_scan(**inputs, backend='reference')
    actual = mamba_ssm.selective_scan_mamba_ssm(*inputs.values(), True)
    given = {name: x for name, x in inputs.items() if x is not None}
    tolerance = 16 * torch.finfo(dtype).eps
    assert actual.shape == expected.shape and actual.dtype == dtype
    assert relative(actual, expected) < tolerance
    expected_gradients = gradients(expected, given)
    for name, gradient in gradients(actual, given).items():
        assert gradient.dtype == dtype
        assert relative(gradient, expected_gradients[name]) < tolerance, name
    assert kernel == [(2, 128), (2, 128)], 'the kernel was not called once each way on its even path'


def test_mamba_ssm_adapter_converts_strides_and_dtypes_for_the_kernel(kernel):
    """Under autocast some inputs are in half precision and others are not; all are channel-last."""
    inputs = {name: x.detach() for name, x in make_inputs((1, 2, 3, 4, 128), torch.float32).items()}
    expected = selective_scan(**inputs, backend='reference')
    for name in ('u', 'delta', 'B', 'C'):
        inputs[name] = inputs[name].transpose(1, -1).contiguous().transpose(1, -1)
    inputs['B'] = inputs['B'].bfloat16()
    actual = mamba_ssm.selective_scan_mamba_ssm(*inputs.values(), True)
    assert actual.dtype == torch.float32 and relative(actual, expected) < 0.01
    assert kernel == [(1, 128)]


def test_mamba_ssm_adapter_refuses_too_many_states(kernel):
    with pytest.raises(ValueError, match='at most 256 states, got 300'):
        mamba_ssm.selective_scan_mamba_ssm(*make_inputs((1, 1, 1, 300, 2), torch.float32).values(), True)


def test_mamba_ssm_keeps_the_nan_of_an_image_to_itself(kernel):
    """Values and gradients of the other images are as without it: each image is a sequence of its own."""
    inputs = make_inputs((3, 2, 2, 2, 9), torch.float32)
    expected = mamba_ssm.selective_scan_mamba_ssm(*inputs.values(), True)
    wanted = torch.autograd.grad(expected.sum(), inputs['u'])[0]
    with torch.no_grad():
        inputs['u'][1, 0, 3] = float('nan')
    actual = mamba_ssm.selective_scan_mamba_ssm(*inputs.values(), True)
    assert actual[1, 0, 3:].isnan().all() and torch.equal(actual[::2], expected[::2])
    gradient = torch.autograd.grad(actual.sum(), inputs['u'])[0]
    assert torch.equal(gradient[::2], wanted[::2])


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class OnCuda(types.SimpleNamespace):
    """A stand-in for a CUDA tensor: the choice of a backend reads its device and dtype alone."""

    is_cuda, device = True, torch.device('cuda')


def test_auto_on_cuda_takes_what_is_preferred_and_can_run(monkeypatch):
    monkeypatch.setattr(mamba_ssm, 'INSTALLED', True)
    monkeypatch.setattr(triton_op, 'INSTALLED', True)
    u = OnCuda(dtype=torch.bfloat16)
    assert interface.auto_backend(u) == ('mamba_ssm', 'tensors on cuda')
    monkeypatch.setattr(interface, 'ON_CUDA', ('triton', 'mamba_ssm'))
    assert interface.auto_backend(u) == ('triton', 'tensors on cuda')
    assert interface.auto_backend(OnCuda(dtype=torch.float64))[0] == 'blockwise'


def test_auto_on_cuda_is_deterministic_where_that_is_asked_for(monkeypatch, deterministic):
    monkeypatch.setattr(mamba_ssm, 'INSTALLED', True)
    monkeypatch.setattr(triton_op, 'INSTALLED', True)
    u = OnCuda(dtype=torch.bfloat16)
    why = 'tensors on cuda; mamba_ssm cannot run: its gradients are not deterministic, and '
    assert interface.auto_backend(u) == ('triton', why + 'torch.use_deterministic_algorithms is on')
    monkeypatch.setattr(triton_op, 'INSTALLED', False)
    assert interface.auto_backend(u)[0] == 'blockwise'


def test_mamba_ssm_says_that_its_gradients_are_not_deterministic(kernel, deterministic):
    inputs = make_inputs(SHAPES['L7'], torch.float32)
    y = mamba_ssm.selective_scan_mamba_ssm(*inputs.values(), True)
    with pytest.raises(RuntimeError, match=r"is not deterministic, it adds with atomics.*scan_backend='triton'"):
        y.sum().backward()
    torch.use_deterministic_algorithms(True, warn_only=True)
    with pytest.warns(UserWarning, match='the backward of mamba_ssm is not deterministic'):
        mamba_ssm.selective_scan_mamba_ssm(*inputs.values(), True).sum().backward()


@pytest.mark.parametrize(
    ('length', 'padded'), [(1, 128), (49, 128), (196, 256), (784, 1024), (2048, 2048), (3136, 4096), (64000, 65536)]
)
def test_padded_lengths_need_no_bounds_checks(length, padded):
    assert mamba_ssm.padded_length(length) == padded


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('backend', [name for name in BACKENDS if name != 'reference'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('shape', [*SHAPES.values(), (2, 3, 96, 16, 784)], ids=str)
def test_backend_matches_reference_on_cuda(backend, dtype, shape):
    inputs = make_inputs(shape, dtype, 'cuda')
    reason = unavailable_reason(backend, inputs['u'])
    if reason:
        pytest.skip(reason)
    exact = {name: x.detach().double().cpu().requires_grad_() for name, x in inputs.items()}
    expected = selective_scan(**exact, backend='reference')
    actual = selective_scan(**inputs, backend=backend)
    tolerance = 1e-4 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    assert relative(actual.cpu(), expected) < tolerance
    expected_gradients = gradients(expected, exact)
    for name, gradient in gradients(actual, inputs).items():
        assert relative(gradient.cpu(), expected_gradients[name]) < 4 * tolerance, name
