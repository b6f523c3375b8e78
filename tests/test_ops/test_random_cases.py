"""Every backend against the reference and against its formula, for ``--cases N`` random shapes and values."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefmamba.models import DefMamba
from mmdefmamba.ops import TokenOrder, gated_multi_scan, multi_scan, selective_scan, unavailable_reason
from mmdefmamba.ops.native import library
from mmdefmamba.ops.sequence_scan import use_backend


def check_all(check, strategy, request, share=1):
    """Run ``check`` on ``--cases`` / ``share`` cases. They are the same in each run."""
    count = max(3, request.config.getoption('--cases') // share)
    settings(max_examples=count, deadline=None, database=None, derandomize=True)(given(strategy)(check))()


@st.composite
def scans(draw):
    """Inputs of a selective scan in float32 or float64, of tiny to large magnitude, any size and layout."""
    batch, groups = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    channels, states, length = draw(st.integers(1, 6)), draw(st.integers(1, 17)), draw(st.integers(1, 100))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    magnitude = st.sampled_from([0.0, 1e-6, 1.0, 1e3])

    def randn(*shape):
        x = torch.randn(*shape, generator=generator, dtype=torch.float64)
        if len(shape) > 2 and draw(st.booleans()):  # stored with the tokens before the channels
            x = x.transpose(1, -1).contiguous().transpose(1, -1)
        return x

    dims = groups * channels
    softplus = draw(st.booleans())
    inputs = dict(
        u=randn(batch, dims, length) * draw(magnitude),
        delta=randn(batch, dims, length) * draw(st.sampled_from([0.1, 1.0, 10.0])),
        A=-(randn(dims, states) * draw(st.sampled_from([0.1, 3.0]))).exp(),
        B=randn(batch, groups, states, length) * draw(magnitude),
        C=randn(batch, groups, states, length) * draw(magnitude),
        D=randn(dims) * draw(magnitude) if draw(st.booleans()) else None,
        delta_bias=randn(dims) if draw(st.booleans()) else None,
    )
    if not softplus:
        inputs['delta'] = inputs['delta'].abs()
        inputs['delta_bias'] = None if inputs['delta_bias'] is None else inputs['delta_bias'].abs()
    return {name: x if x is None else x.to(dtype) for name, x in inputs.items()}, softplus


def with_export(u, delta, A, B, C, D, delta_bias, softplus):
    """Append one token per state with time step 0, which reads this state alone. So y ends with the last state."""
    states = A.shape[1]
    if softplus:
        still = delta.new_full((1,), -1e4)
    else:
        still = delta.new_zeros(1) if delta_bias is None else -delta_bias.unsqueeze(-1)
    still = still.expand(*delta.shape[:2], states)
    read = torch.eye(states, dtype=C.dtype).expand(*C.shape[:2], states, states)
    return dict(
        u=F.pad(u, (0, states)),
        delta=torch.cat([delta, still], dim=-1),
        A=A,
        B=F.pad(B, (0, states)),
        C=torch.cat([C, read], dim=-1),
        D=D,
        delta_bias=delta_bias,
    )


def last_state(u, delta, A, B, delta_bias, softplus):
    """Return the state after the last token as a sum over tokens, and the scale of its rounding errors.

    Both are (batch, channels, N) in float64. The relative error of an exponential is the absolute error of its
    exponent.
    """
    u, delta, A, B = (x.double() for x in (u, delta, A, B))
    if delta_bias is not None:
        delta = delta + delta_bias.double().unsqueeze(-1)
    if softplus:
        delta = F.softplus(delta)
    # time from each token to the end; summed from the end, because subtracting a large step would lose the small ones
    later = F.pad(delta.flip(-1).cumsum(-1)[..., :-1], (1, 0)).flip(-1)
    exponent = later.unsqueeze(2) * A.view(1, *A.shape, 1)
    B = B.repeat_interleave(u.shape[1] // B.shape[1], dim=1)
    terms = (delta * u).unsqueeze(2) * B * exponent.exp()
    return terms.sum(-1), (terms * (1 - exponent)).abs().sum(-1)  # exponents are negative


def leaf(x):
    return None if x is None else x.detach().clone().requires_grad_()


def magnitudes(inputs, softplus):
    """Return y as if no terms cancelled, the scale of its rounding errors, and the leaves from which it is computed.

    Both scales are (batch, channels, length). The second counts each term of a state with its exponent, as
    :func:`last_state` does. A time step appears twice among the inputs, where it decays a state and where it drives
    it: the two parts of its gradient have opposite signs, and neither cancels in itself.
    """
    u, B, C, D = (leaf(None if x is None else x.abs()) for x in (inputs[name] for name in ('u', 'B', 'C', 'D')))
    A = leaf(inputs['A'])
    leaves = {'u': [u], 'A': [A], 'B': [B], 'C': [C], 'D': [D], 'delta': [], 'delta_bias': []}
    steps = []
    for _ in ('decays', 'drives'):
        delta, bias = leaf(inputs['delta']), leaf(inputs['delta_bias'])
        leaves['delta'].append(delta)
        leaves['delta_bias'].append(bias)
        step = delta if bias is None else delta + bias.unsqueeze(-1)
        steps.append(F.softplus(step) if softplus else step)
    B, C = (x.repeat_interleave(u.shape[1] // x.shape[1], dim=1) for x in (B, C))
    state = weighted = torch.zeros(*u.shape[:2], A.shape[1], dtype=u.dtype)
    sums, scales = [], []
    for t in range(u.shape[-1]):
        exponent = steps[0][..., t, None] * A
        driven = (steps[1] * u)[..., t, None] * B[..., t]
        weighted = exponent.exp() * (weighted + exponent.abs() * state)
        state = exponent.exp() * state + driven
        sums.append((state * C[..., t]).sum(-1))
        scales.append((weighted * C[..., t]).sum(-1))
    y = torch.stack(sums, dim=-1)
    if D is not None:
        y = y + D.unsqueeze(-1) * u
    return y, (y + torch.stack(scales, dim=-1)).detach(), leaves


def test_scan_and_its_last_state_match_the_reference(request):
    def check(case):
        inputs, softplus = case
        inputs = with_export(**inputs, softplus=softplus)
        leaves = {name: x.requires_grad_() for name, x in inputs.items() if x is not None}
        states, length = inputs['A'].shape[1], inputs['u'].shape[-1] - inputs['A'].shape[1]
        exact = {name: x if x is None else x.detach().double().requires_grad_() for name, x in inputs.items()}
        expected = selective_scan(**exact, delta_softplus=softplus, backend='reference')
        total, scale, parts = magnitudes(exact, softplus)
        with torch.no_grad():
            state, state_scale = last_state(*(exact[name] for name in ('u', 'delta', 'A', 'B', 'delta_bias')), softplus)
        assert_close_to(expected[..., length:], state, state_scale, 64 * torch.finfo(torch.float64).eps)
        weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(states), dtype=torch.float64)
        wanted = torch.autograd.grad(expected, [exact[name] for name in leaves], weight)
        total.backward(weight.abs())
        eps = torch.finfo(inputs['u'].dtype).eps
        for backend in backends_for(inputs['u']):
            actual = selective_scan(**inputs, delta_softplus=softplus, backend=backend)
            assert_close_to(actual, expected, scale, 64 * eps)
            found = torch.autograd.grad(actual, list(leaves.values()), weight.to(actual.dtype))
            for name, got, want in zip(leaves, found, wanted, strict=True):
                most = sum(part.grad.abs() for part in parts[name]).max()
                error = (got.double() - want).abs().max()
                allowed = 1e3 * eps * most.clamp(min=1e-30)
                assert error <= allowed, f'{backend}, {name}: off by {error}, {error / most / eps} roundings'

    check_all(check, scans(), request)


def backends_for(u):
    """The backends for a CPU beside the reference: the C kernels compute in float32."""
    return ['blockwise', *(['native'] if unavailable_reason('native', u) is None else [])]


def assert_close_to(actual, expected, scale, tolerance):
    error = (actual.double() - expected).abs()
    allowed = tolerance * scale.abs().clamp(min=torch.finfo(torch.float32).tiny)
    assert (error <= allowed).all(), f'off by {(error / allowed).max():.1f} times what is allowed'


@st.composite
def walks(draw):
    """Inputs of a multi-scan in float64: shared maps and separate maps, orders of every kind."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 70))
    channels, states = draw(st.integers(1, 5)), draw(st.integers(1, 16))
    kinds = draw(st.lists(st.sampled_from(['forward', 'backward', 'static', 'learned']), min_size=1, max_size=5))
    sources = [draw(st.integers(0, len(kinds) - 1)) for _ in kinds]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    def order(kind):
        if kind == 'forward':
            return None
        if kind == 'backward':
            return TokenOrder.from_order(torch.arange(length).flip(0), backwards=True)
        permutations = [torch.randperm(length, generator=generator) for _ in range(batch)]
        return TokenOrder.from_order(permutations[0] if kind == 'static' else torch.stack(permutations))

    distinct = [randn(batch, length, channels) for _ in kinds]
    rows, scans = len(kinds) * channels, len(kinds)
    others = [
        randn(batch, scans, length, channels),
        -randn(rows, states).exp().detach().requires_grad_(),
        randn(batch, scans, length, states),
        randn(batch, scans, length, states),
        randn(rows),
        randn(rows),
    ]
    return distinct, sources, others, [order(kind) for kind in kinds]


def test_multi_scan_matches_the_reference(request):
    def check(case):
        distinct, sources, others, orders = case
        leaves = [distinct[i] for i in sorted(set(sources))] + [x for x in others if x.requires_grad]
        results = []
        for backend in ('reference', 'blockwise'):
            y = multi_scan([distinct[i] for i in sources], *others, orders, backend=backend)
            weight = torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
            results.append([y.detach(), *torch.autograd.grad(y, leaves, weight)])
        for expected, actual in zip(*results, strict=True):
            assert (actual - expected).abs().max() <= 1e-10 * expected.abs().max()

    check_all(check, walks(), request, share=2)


@pytest.mark.skipif(library.LIBRARY is None, reason=str(library.REASON))
def test_kernels_match_the_reference_alone_and_with_the_gate(request):
    """The multi-scan, and the walk that projects the time steps and merges, in float32 against float64."""

    def check(case):
        distinct, sources, (delta, A, B, C, D, bias), orders = case
        channels, used = distinct[0].shape[-1], sorted(set(sources))
        z = torch.cos(torch.arange(distinct[0].numel())).view_as(distinct[0])
        results = {}
        # `terms` are the reference's results as if no terms of u, B, C, D or the gate cancelled: the scale of roundings
        for name, dtype in (('terms', torch.float64), ('reference', torch.float64), ('native', torch.float32)):
            backend, sign = ('reference', torch.abs) if name == 'terms' else (name, torch.clone)
            given = [*map(sign, distinct), delta, A, *map(sign, (B, C, D)), bias]
            given = [x.detach().to(dtype).requires_grad_() for x in given]
            maps, (delta_, A_, B_, C_, D_, bias_) = [given[i] for i in sources], given[len(distinct) :]
            # a rank of one channel: its weight is 1, so that the time step of each channel is the projected number
            weight = torch.ones(len(maps), channels, 1, dtype=dtype)
            projected = torch.cat([delta_[..., :1], B_, C_], dim=-1).unbind(1)
            y = multi_scan(maps, delta_, A_, B_, C_, D_, bias_, orders, backend=backend)
            gate = sign(z).to(dtype)
            gated = gated_multi_scan(maps, projected, weight, A_, D_, bias_, gate, orders, backend=backend)
            leaves = [given[i] for i in used] + given[len(distinct) :]
            results[name] = []
            for result in (y, gated):
                weights = sign(torch.sin(torch.arange(result.numel()))).view_as(result).to(dtype)
                results[name] += [result.detach(), *torch.autograd.grad(result, leaves, weights)]
        for actual, expected, terms in zip(*map(results.get, ('native', 'reference', 'terms')), strict=True):
            assert (actual - expected).abs().max() <= 3e-6 * terms.abs().max()

    check_all(check, walks(), request, share=2)


@st.composite
def images(draw):
    shape = draw(st.integers(1, 3)), 3, draw(st.integers(1, 80)), draw(st.integers(1, 80))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return torch.randn(shape, generator=generator, dtype=torch.float64) * draw(st.sampled_from([0.0, 1e-4, 1.0, 1e4]))


def test_backbone_matches_the_reference(request):
    torch.manual_seed(0)
    models = {
        formulation: DefMamba(dict(embed_dims=(4, 6), depths=(1, 1)), formulation, out_indices=(0, 1)).double().eval()
        for formulation in ('paper', 'released')
    }

    def check(case):
        for model in models.values():
            actual = model(case)
            with use_backend('reference'):
                expected = model(case)
            for found, wanted in zip(actual, expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)

    check_all(check, images(), request, share=10)
