"""mamba-ssm's functions on every backend, against a loop in float64 that is written here."""

import pytest
import torch
import torch.nn.functional as F

from mmdefmamba.ops import mamba_interface, selective_scan_fn, unavailable_reason, use_backend
from mmdefmamba.ops.mamba_interface import bimamba_inner_fn, mamba_inner_fn, mamba_inner_fn_no_out_proj

NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias')
FORMS = ('constant', 'per batch', 'grouped')
CPU_BACKENDS = ('reference', 'blockwise', 'native', 'triton')


def make(b=2, d=6, l=7, n=3, B='per batch', C='per batch', g=2, gC=None, D=True, z=True, bias=True, seed=0):  # noqa: E741
    """Return float64 inputs by name; None for those that are left out."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def weights(form, groups):
        return randn(*{'constant': (d, n), 'per batch': (b, n, l), 'grouped': (b, groups, n, l)}[form])

    values = [randn(b, d, l), randn(b, d, l), -randn(d, n).exp(), weights(B, g), weights(C, gC or g)]
    values += [randn(d) if D else None, randn(b, d, l) if z else None, randn(d) if bias else None]
    return dict(zip(NAMES, values, strict=True))


def loop(u, delta, A, B, C, D, z, delta_bias, softplus):
    """The definition in float64, channel by channel and token by token; returns y and the last state."""
    b, d, length = u.shape

    def of(x, channel, t):  # (b, n) or (n,)
        if x.ndim == 2:
            return x[channel]
        return x[:, :, t] if x.ndim == 3 else x[:, channel // (d // x.shape[1]), :, t]

    y, states = [], []
    for channel in range(d):
        step = delta[:, channel] if delta_bias is None else delta[:, channel] + delta_bias[channel]
        step = torch.log1p(step.exp()) if softplus else step
        h, row = u.new_zeros(b, A.shape[1]), []
        for t in range(length):
            drive = (step[:, t] * u[:, channel, t])[:, None] * of(B, channel, t)
            h = torch.exp(step[:, t, None] * A[channel]) * h + drive
            out = (h * of(C, channel, t)).sum(-1)
            out = out if D is None else out + D[channel] * u[:, channel, t]
            row.append(out if z is None else out * z[:, channel, t] / (1 + torch.exp(-z[:, channel, t])))
        y.append(torch.stack(row, -1))
        states.append(h)
    return torch.stack(y, 1), torch.stack(states, 1)


def leaves(inputs, dtype=torch.float64):
    return {k: x if x is None else x.to(dtype).detach().requires_grad_() for k, x in inputs.items()}


def losses(y, state):
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (y, state)]
    return sum((x.double() * w).sum() for x, w in zip((y, state), weights, strict=True))


def relative(actual, expected):
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-9)).item()


def compare(inputs, softplus, dtype, limit, backend=None, change=lambda x: x):
    """Compare y, the last state, and the gradients of both with those of the loop, for the same rounded inputs."""
    if not softplus:
        inputs = {**inputs, 'delta': inputs['delta'].abs()}
        inputs['delta_bias'] = None if inputs['delta_bias'] is None else inputs['delta_bias'].abs()
    actual, given = leaves(inputs, dtype), {}
    exact = leaves({k: x if x is None else x.detach() for k, x in actual.items()})
    given = {k: x if x is None else change(x) for k, x in actual.items()}
    y, state = loop(*exact.values(), softplus)
    found_y, found_state = call(given, softplus, backend)
    assert found_y.dtype == dtype and found_state.dtype == torch.promote_types(dtype, torch.float32)
    assert found_y.shape == y.shape and found_state.shape == state.shape
    assert relative(found_y, y) < limit, backend
    assert relative(found_state, state) < limit, backend
    names = [k for k, x in exact.items() if x is not None]
    wanted = torch.autograd.grad(losses(y, state), [exact[k] for k in names])
    found = torch.autograd.grad(losses(found_y, found_state), [actual[k] for k in names])
    for name, got, want in zip(names, found, wanted, strict=True):
        assert got.dtype == dtype
        assert relative(got, want) < limit, (backend, name)


def call(inputs, softplus, backend, last=True):
    """Positional, in the order of mamba-ssm."""
    args = (*inputs.values(), softplus, last)
    if backend is None:
        return selective_scan_fn(*args)
    with use_backend(backend):
        return selective_scan_fn(*args)


@pytest.mark.parametrize('C', FORMS)
@pytest.mark.parametrize('B', FORMS)
def test_b_and_c_in_each_form_give_the_scan_its_last_state_and_all_gradients(B, C):
    compare(make(B=B, C=C), True, torch.float64, 1e-12)


@pytest.mark.parametrize(
    'case',
    [
        dict(l=1),
        dict(l=1, n=1, d=1, g=1, B='grouped'),
        dict(l=33, n=5, D=False),
        dict(z=False, bias=False),
        dict(d=12, B='grouped', C='grouped', g=4, gC=6),  # twelve groups of one channel
        dict(B='constant', C='grouped', D=False, z=False, bias=False),
        dict(d=6, B='grouped', C='grouped', g=6),
    ],
    ids=str,
)
@pytest.mark.parametrize('softplus', [False, True])
def test_other_sizes_and_missing_inputs(case, softplus):
    compare(make(**case), softplus, torch.float64, 1e-12)


@pytest.mark.usefixtures('quick_interpreter')
@pytest.mark.parametrize('forms', [('per batch', 'per batch'), ('grouped', 'constant')], ids=str)
@pytest.mark.parametrize('backend', CPU_BACKENDS)
def test_each_backend_computes_it_in_float32(backend, forms):
    reason = unavailable_reason(backend, torch.empty(1))
    if reason:
        pytest.skip(reason)
    inputs = make(d=4, B=forms[0], C=forms[1], l=5)
    for softplus in (True, False):
        compare(inputs, softplus, torch.float32, 2e-5, backend)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('backend', ['mamba_ssm', 'triton'])
def test_each_backend_of_a_gpu(backend):
    inputs = leaves(make(d=4, B='grouped', l=33), torch.float32)
    reason = unavailable_reason(backend, torch.empty(1, device='cuda'))
    if reason:
        pytest.skip(reason)
    y, state = loop(*(x.double() for x in inputs.values()), True)
    found = call({k: x.cuda() for k, x in inputs.items()}, True, backend)
    assert relative(found[0].cpu(), y) < 2e-5 and relative(found[1].cpu(), state) < 2e-5


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_rounds_the_result_once_and_keeps_the_state_in_float32(dtype):
    inputs = {k: x.to(dtype) for k, x in make(l=33).items()}
    exact_y, exact_state = loop(*(x.double() for x in inputs.values()), True)
    y, state = call(inputs, True, None)
    assert y.dtype == dtype and state.dtype == torch.float32
    torch.testing.assert_close(y, exact_y.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-5)
    assert relative(state, exact_state) < 1e-5
    # parameters in float32, as models that run in half precision give them
    mixed = {k: x.float() if k in ('A', 'D', 'delta_bias') else x for k, x in inputs.items()}
    assert torch.equal(call(mixed, True, None)[0], y)
    limit = 4 * torch.finfo(dtype).eps
    compare({k: x.double() for k, x in inputs.items()}, True, dtype, limit)


def test_float64_input_takes_parameters_of_float32():
    inputs = make()
    mixed = {k: x.float() if k in ('A', 'D', 'delta_bias') else x for k, x in inputs.items()}
    expected = loop(*(x.double() for x in mixed.values()), True)
    for got, want in zip(call(mixed, True, None), expected, strict=True):
        assert got.dtype == torch.float64 and relative(got, want) < 1e-12


def test_strides_do_not_matter():
    def elsewhere(x):  # tokens before channels, as after a linear layer
        return x.transpose(1, -1).contiguous().transpose(1, -1) if x.ndim > 2 else x

    compare(make(l=9), True, torch.float32, 2e-5, change=elsewhere)


def test_autocast_changes_no_bit():
    inputs = leaves(make(), torch.float32)
    expected = call(inputs, True, None)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = call(inputs, True, None)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_without_last_state_the_result_is_one_tensor_with_the_same_bits():
    inputs = make()
    for last in (False, None):
        assert torch.equal(call(inputs, True, None, last), call(inputs, True, None)[0])


def test_a_bias_of_any_size_leaves_the_last_state_alone():
    """The appended tokens must not move the state, also where a bias is larger than their time step is low."""
    inputs = make(z=False)
    inputs['delta_bias'] = torch.full_like(inputs['delta_bias'], 3e4)
    inputs['u'][..., :-1] = 0  # the last token alone drives the state; softplus(x) = x there
    expected = (inputs['delta'][..., -1] + 3e4) * inputs['u'][..., -1]
    state = call(inputs, True, None)[1]
    assert relative(state, expected[..., None] * inputs['B'][..., -1][:, None]) < 1e-12


def test_ordinary_shapes_take_the_compiled_kernels(monkeypatch):
    if unavailable_reason('native', torch.empty(1)):
        pytest.skip('the kernels are not compiled')
    seen = []
    from mmdefmamba.ops.native import library

    run = library.Library.run
    monkeypatch.setattr(
        library.Library, 'run', lambda self, kernel, *rest: seen.append(kernel) or run(self, kernel, *rest)
    )
    u = torch.randn(1, 8, 6, requires_grad=True)
    BC = torch.randn(1, 4, 6)
    selective_scan_fn(u, u, -torch.ones(8, 4), BC, BC, torch.ones(8), None, torch.ones(8), True, None).sum().backward()
    assert seen == ['scan_forward', 'scan_backward']


@pytest.mark.parametrize(
    ('change', 'error', 'text'),
    [
        (dict(A=torch.ones(6, 3, dtype=torch.complex64)), TypeError, r'A is complex \(torch.complex64\)'),
        (dict(B=torch.ones(2, 3, 6, dtype=torch.complex64)), TypeError, 'B is complex'),
        (dict(B=torch.ones(2, 4, 3, 7).double()), ValueError, r'g groups that divide d = 6, got \(2, 4, 3, 7\)'),
        (dict(C=torch.ones(3, 6).double()), ValueError, r'C must be \(d, n\) = \(6, 3\).* got \(3, 6\)'),
        (dict(C=torch.ones(2, 3, 8).double()), ValueError, r'\(b, n, l\) = \(2, 3, 7\)'),
        (dict(z=torch.ones(2, 6, 1).double()), ValueError, r'z must have the shape of u \(2, 6, 7\), got \(2, 6, 1\)'),
        (dict(D=torch.ones(5)), ValueError, r'D must be \(6,\)'),
        (dict(delta=torch.ones(2, 6, 7)), TypeError, 'float64'),
        (dict(u=torch.ones(6, 7).double()), ValueError, r'u must be \(b, d, l\)'),
    ],
    ids=str,
)
def test_wrong_inputs_are_refused_with_their_value(change, error, text):
    with pytest.raises(error, match=text):
        call({**make(), **change}, True, None)


def inner_by_hand(p, A, A_b=None):
    """Mamba's block between its projections, from the loop above."""
    x, z = p['xz'].chunk(2, 1)
    width = p['conv'].shape[-1]
    padded = F.pad(x, (width - 1, 0))
    x = sum(p['conv'][:, 0, i, None] * padded[..., i : i + x.shape[-1]] for i in range(width)) + p['conv_bias'][:, None]
    x = x * torch.sigmoid(x)
    projected = torch.einsum('rd,bdl->brl', p['x_proj'], x)
    rank, n = p['dt_proj'].shape[1], A.shape[1]
    delta = torch.einsum('dr,brl->bdl', p['dt_proj'], projected[:, :rank])
    B, C = projected[:, rank : rank + n], projected[:, rank + n :]
    if 'B_norm' in p:
        norm = [(B, 'B_norm'), (C, 'C_norm'), (delta, 'dt_norm')]
        B, C, delta = (v / (v.square().mean(1, keepdim=True) + 1e-6).sqrt() * p[key][:, None] for v, key in norm)
    y, _ = loop(x, delta, A, B, C, p['D'], z, p['bias'], True)
    if A_b is not None:
        flipped = (v.flip(-1) for v in (x, delta, B, C, z))
        x, delta, B, C, z = flipped
        y = y + loop(x, delta, A_b, B, C, p['D'], z, p['bias'], True)[0].flip(-1)
    return y


def inner_inputs(norms=False):
    generator = torch.Generator().manual_seed(0)
    sizes = dict(xz=(2, 8, 5), conv=(4, 1, 3), conv_bias=(4,), x_proj=(8, 4), dt_proj=(4, 2), out=(5, 4), out_bias=(5,))
    sizes |= dict(D=(4,), bias=(4,), A=(4, 3), A_b=(4, 3))
    sizes |= dict(B_norm=(3,), C_norm=(3,), dt_norm=(4,)) if norms else {}
    p = {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in sizes.items()}
    p['A'], p['A_b'] = -p['A'].exp(), -p['A_b'].exp()
    return {k: x.requires_grad_() for k, x in p.items()}


@pytest.mark.parametrize('name', ['mamba', 'mamba with norms', 'no_out_proj', 'bimamba'])
def test_inner_functions_of_mamba_and_vim(name):
    p = inner_inputs('norms' in name)
    first = (p['xz'], p['conv'], p['conv_bias'], p['x_proj'], p['dt_proj'])
    if name == 'no_out_proj':
        found = mamba_inner_fn_no_out_proj(*first, p['A'], None, None, p['D'], delta_bias=p['bias'])
        expected = inner_by_hand(p, p['A'])
    else:
        both = name == 'bimamba'
        function = bimamba_inner_fn if both else mamba_inner_fn
        norms = (
            dict(b_rms_weight=p['B_norm'], c_rms_weight=p['C_norm'], dt_rms_weight=p['dt_norm'])
            if 'norms' in name
            else {}
        )
        rates = (p['A'], p['A_b']) if both else (p['A'],)
        found = function(*first, p['out'], p['out_bias'], *rates, None, None, p['D'], delta_bias=p['bias'], **norms)
        expected = inner_by_hand(p, *rates).transpose(1, 2) @ p['out'].T + p['out_bias']
    assert found.shape == expected.shape and relative(found, expected) < 1e-12
    weight = torch.randn(found.shape, dtype=torch.float64)
    used = [
        x
        for k, x in p.items()
        if not (k == 'A_b' and name != 'bimamba') and not (k.startswith('out') and name == 'no_out_proj')
    ]
    wanted = torch.autograd.grad((expected * weight).sum(), used)
    for got, want in zip(torch.autograd.grad((found * weight).sum(), used), wanted, strict=True):
        assert relative(got, want) < 1e-11


def test_reference_function_takes_the_reference(monkeypatch):
    seen = []
    monkeypatch.setattr(mamba_interface, 'selective_scan', lambda u, *rest, backend, **kw: seen.append(backend) or u)
    inputs = make(z=False)
    for function in (mamba_interface.selective_scan_ref, selective_scan_fn):
        function(*inputs.values())
    assert seen == ['reference', 'auto']
