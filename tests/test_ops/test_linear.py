"""Linear layers on a CPU: oneDNN's product gives what ``F.linear`` gives, and serves only what it can serve."""

import logging
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from mmdefmamba.models.linear_layers import apply_ffn, apply_linear
from mmdefmamba.ops import linear as linear_module
from mmdefmamba.ops.linear import cpu_vendor, linear, linear_backend, linear_gelu, rule, use_linear

pytestmark = pytest.mark.skipif(linear_module._missing() is not None, reason=str(linear_module._missing()))
SHAPES = {'1-D': (7,), '2-D': (5, 7), '3-D': (2, 5, 7), '4-D': (2, 3, 4, 7), 'one row': (1, 7), 'wide': (3, 130)}


@pytest.fixture
def onednn_calls(monkeypatch):
    """The calls of oneDNN's operator: the name of the operation that follows the product."""
    calls = []
    real = torch.ops.mkldnn._linear_pointwise

    def counted(x, weight, bias, after, *rest):
        calls.append(after)
        return real(x, weight, bias, after, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, '_linear_pointwise', counted)
    with use_linear('onednn'):
        yield calls


def case(shape, out_features, bias=True, strided=False):
    torch.manual_seed(0)
    x = torch.randn(shape[::-1]).permute(*reversed(range(len(shape)))) if strided else torch.randn(shape)
    return [x, torch.randn(out_features, shape[-1]), torch.randn(out_features) if bias else None]


def with_gradients(function, inputs, needed=(True, True, True), dtype=None):
    inputs = [x if x is None else x.detach().to(dtype or x.dtype) for x in inputs]
    leaves = [x.requires_grad_() for x, need in zip(inputs, needed, strict=True) if need and x is not None]
    y = function(*inputs)
    return [y, *torch.autograd.grad(y.square().sum(), leaves)]


def assert_near(actual, expected, tolerance=2e-6):
    """Compare with float64, relative to the largest number: sums of other lengths round differently."""
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32 and a.shape == e.shape
        assert (a.double() - e).abs().max() <= tolerance * e.abs().max()


@pytest.mark.parametrize('strided', [False, True], ids=['contiguous', 'strided'])
@pytest.mark.parametrize('bias', [True, False], ids=['bias', 'no bias'])
@pytest.mark.parametrize('out_features', [3, 16, 300])
@pytest.mark.parametrize('shape', SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_agree_with_float64(shape, out_features, bias, strided, onednn_calls):
    inputs = case(shape, out_features, bias, strided)
    for function, reference in ((linear, F.linear), (linear_gelu, lambda *args: F.gelu(F.linear(*args)))):
        expected = with_gradients(reference, inputs, dtype=torch.float64)
        assert_near(with_gradients(function, inputs), expected)
        with torch.no_grad():
            assert_near([function(*inputs)], expected[:1])
    # forward, two gradients; the same with GELU; the product alone, and the product with GELU
    expected = ['none'] * 3 + ['none'] + ['none'] * 3 + ['gelu']
    assert onednn_calls == (expected if len(shape) > 1 else [])


@pytest.mark.parametrize('needed', [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)], ids=str)
def test_only_the_needed_gradients_are_computed(needed, onednn_calls):
    inputs = case((2, 5, 7), 4)
    assert_near(with_gradients(linear, inputs, needed), with_gradients(F.linear, inputs, needed, dtype=torch.float64))
    assert len(onednn_calls) == 1 + needed[0] + needed[1]


def test_second_derivatives_are_those_of_torch(onednn_calls):
    inputs = [x.double().requires_grad_() for x in case((3, 4), 5)]
    exact = [F.linear(*inputs)]
    exact += torch.autograd.grad(exact[0].pow(3).sum(), inputs, create_graph=True)
    exact = torch.autograd.grad(sum(g.square().sum() for g in exact[1:]), inputs)
    inputs = [x.requires_grad_() for x in case((3, 4), 5)]
    first = torch.autograd.grad(linear(*inputs).pow(3).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    # the product, and its two gradients in the second backward pass; the first pass is PyTorch's
    assert onednn_calls == ['none'] * 3
    assert_near(second, exact, 1e-5)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_go_to_torch(dtype, onednn_calls):
    inputs = [x.to(dtype) for x in case((2, 5, 7), 4)]
    assert torch.equal(linear(*inputs), F.linear(*inputs))
    assert torch.equal(linear_gelu(*inputs), F.gelu(F.linear(*inputs)))
    assert onednn_calls == []


class Marked(torch.Tensor):
    """A tensor of another class, as quantised and distributed weights are."""


def own_class(x, weight, bias):
    return linear(x, nn.Parameter(weight.as_subclass(Marked)), bias).as_subclass(torch.Tensor)


def autocast(*args):
    with torch.autocast('cpu', torch.bfloat16):
        y = linear(*args)
    assert y.dtype == torch.bfloat16
    return y.float()


def without_onednn(*args):
    with torch.backends.mkldnn.flags(enabled=False):
        return linear(*args)


def pulled_back(x, *rest):
    y, pull = torch.func.vjp(lambda x: linear(x, *rest), x)
    torch.testing.assert_close(pull(y)[0], y @ rest[0])
    return y


def forward_mode(*args):
    return torch.func.jvp(lambda x: linear(x, *args[1:]), (args[0],), (torch.zeros_like(args[0]),))[0]


def counted_flops(*args):
    with FlopCounterMode(display=False) as counter:
        y = linear(*args)
    assert counter.get_total_flops() == 2 * 5 * 7 * 4
    return y


PLAIN = {
    'autocast': autocast,
    'tensors of another class': own_class,
    'oneDNN switched off': without_onednn,
    'vmap': lambda x, *rest: torch.vmap(lambda row: linear(row[None], *rest)[0])(x),
    'torch.func.vjp': pulled_back,
    'forward mode': forward_mode,
    'FLOP counter': counted_flops,
    'make_fx': lambda *args: make_fx(linear)(*args)(*args),
    'torch.jit.trace': lambda *args: torch.jit.trace(linear, args, check_trace=False)(*args),
    'torch.compile': lambda *args: torch.compile(linear, backend='eager', fullgraph=True)(*args),
    'transposed weight': lambda x, weight, bias: linear(x, weight.t().contiguous().t(), bias),
}


@pytest.mark.parametrize('call', PLAIN.values(), ids=PLAIN)
def test_what_onednn_does_not_serve_goes_to_torch(call, onednn_calls):
    inputs = case((5, 7), 4)
    tolerance = dict(atol=0.05, rtol=0.05) if call is autocast else {}
    torch.testing.assert_close(call(*inputs), F.linear(*inputs), **tolerance)
    assert onednn_calls == []


@pytest.mark.parametrize('shape', [(0, 7), (2, 0, 7)], ids=str)
def test_an_empty_batch_gives_empty_results_and_zero_gradients(shape, onednn_calls):
    y, dx, dweight, dbias = with_gradients(linear, case(shape, 4))
    assert y.shape == (*shape[:-1], 4) and dx.shape == shape
    assert not dweight.any() and not dbias.any()


def test_meta_tensors_have_the_shape_of_the_result(onednn_calls):
    inputs = [x.to('meta') for x in case((2, 5, 7), 4)]
    assert linear(*inputs).shape == (2, 5, 4) and linear(*inputs).is_meta
    assert linear_gelu(*inputs).shape == (2, 5, 4)


def test_shapes_that_do_not_fit_are_the_error_of_torch(onednn_calls):
    with pytest.raises(RuntimeError, match='shapes cannot be multiplied'):
        linear(torch.randn(5, 6), torch.randn(4, 7))


def test_results_are_the_same_each_time(onednn_calls):
    inputs = case((2, 500, 96), 384)
    runs = [with_gradients(linear, inputs) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_the_rule_takes_onednn_on_amd_cores_with_avx512_alone():
    assert rule('AMD', 'AVX512', None)[0] == 'onednn'
    for vendor in ('AMD', 'Intel', None):
        for capability in ('DEFAULT', 'AVX2', 'AVX512'):
            expected = 'onednn' if (vendor, capability) == ('AMD', 'AVX512') else 'torch'
            assert rule(vendor, capability, None)[0] == expected
    assert rule('AMD', 'AVX512', 'it is missing') == ('torch', 'it is missing')


@pytest.mark.parametrize(
    ('text', 'vendor'),
    [('vendor_id\t: AuthenticAMD', 'AMD'), ('vendor_id\t: GenuineIntel', 'Intel'), ('CPU part', None)],
)
def test_the_vendor_is_read_from_cpuinfo(text, vendor, monkeypatch):
    monkeypatch.setattr(linear_module.Path, 'read_text', lambda path: f'processor\t: 0\n{text}\n\nprocessor\t: 1\n')
    assert cpu_vendor() == vendor


def test_the_vendor_is_read_from_the_platform_elsewhere(monkeypatch):
    def no_file(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(linear_module.Path, 'read_text', no_file)
    monkeypatch.setattr(linear_module.platform, 'processor', lambda: 'AMD64 Family 25 Model 97, AuthenticAMD')
    assert cpu_vendor() == 'AMD'


@pytest.fixture
def fresh_choice():
    linear_backend.cache_clear()
    linear_module._log_choice.cache_clear()
    yield
    linear_backend.cache_clear()


@pytest.mark.usefixtures('fresh_choice')
def test_the_choice_is_logged_once_with_its_reason(caplog, monkeypatch):
    monkeypatch.setattr(linear_module, 'cpu_vendor', lambda: 'AMD')
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX512')
    with caplog.at_level(logging.INFO, 'mmdefmamba'):
        for _ in range(2):
            linear(*case((5, 7), 4))
    assert caplog.messages == [
        'linear layers on the CPU: backend onednn (an AMD core with AVX-512, where it is faster than MKL)'
    ]


@pytest.mark.usefixtures('fresh_choice')
@pytest.mark.parametrize('backend', ['onednn', 'torch'])
def test_the_environment_variable_decides(backend, monkeypatch):
    monkeypatch.setenv('MMDEFMAMBA_LINEAR', backend)
    assert linear_backend() == (backend, f'MMDEFMAMBA_LINEAR={backend}')


@pytest.mark.usefixtures('fresh_choice')
def test_an_unknown_backend_is_refused(monkeypatch):
    message = r"backend must be 'auto' or one of \('onednn', 'torch'\), got 'mkl'"
    with pytest.raises(ValueError, match=message), use_linear('mkl'):
        pass
    monkeypatch.setenv('MMDEFMAMBA_LINEAR', 'mkl')
    with pytest.raises(ValueError, match=r"environment variable MMDEFMAMBA_LINEAR must be .* got 'mkl'"):
        linear(*case((5, 7), 4))


@pytest.mark.usefixtures('fresh_choice')
def test_a_pytorch_without_the_operator_takes_its_own_linear(monkeypatch):
    monkeypatch.setattr(linear_module, '_missing', lambda: 'PyTorch 9 has no operator')
    monkeypatch.setattr(linear_module, 'cpu_vendor', lambda: 'AMD')
    inputs = case((5, 7), 4)
    assert torch.equal(linear(*inputs), F.linear(*inputs))
    with pytest.raises(RuntimeError, match='PyTorch 9 has no operator'), use_linear('onednn'):
        pass


# -- Layers.


class LowRank(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + 1


def count_calls(layer):
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    return calls


def make_ffn(approximate='none'):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 28), nn.GELU(approximate), nn.Linear(28, 7))


def test_a_plain_layer_is_computed_by_onednn(onednn_calls):
    layer, ffn, x = nn.Linear(7, 4), make_ffn(), torch.randn(2, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(apply_linear(layer, x), layer(x))
        torch.testing.assert_close(apply_ffn(ffn, x), ffn(x))
    assert onednn_calls == ['none', 'gelu', 'none']


@pytest.mark.parametrize('place', [0, 1, 2, None], ids=str)
def test_hooks_on_layers_are_called(place):
    ffn, x = make_ffn(), torch.randn(2, 7)
    calls = count_calls(ffn if place is None else ffn[place])
    apply_ffn(ffn, x)
    assert calls == [1]
    layer = nn.Linear(7, 4)
    calls = count_calls(layer)
    apply_linear(layer, x)
    assert calls == [1]


def test_hooks_for_all_modules_are_called():
    calls = []
    handle = nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    try:
        apply_linear(nn.Linear(7, 4), torch.randn(2, 7))
    finally:
        handle.remove()
    assert calls == [1]


def quantised(layer):
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)[0]


def pruned(layer):
    torch.manual_seed(0)
    return torch.nn.utils.prune.l1_unstructured(layer, 'weight', amount=0.5)


def with_own_forward(layer):
    layer.forward = lambda x: x.new_zeros(len(x), 7)
    return layer


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning')
@pytest.mark.parametrize(
    'change', [LowRank, quantised, pruned, torch.nn.utils.parametrizations.weight_norm, with_own_forward]
)
def test_layers_that_were_changed_or_replaced_are_called(change, onednn_calls):
    import torch.nn.utils.prune

    ffn, x = make_ffn(), torch.randn(4, 7)
    before = ffn(x)
    ffn[2] = change(ffn[2])
    expected = ffn(x)
    assert not torch.equal(expected, before) or change is torch.nn.utils.parametrizations.weight_norm
    assert torch.equal(apply_ffn(ffn, x), expected)
    wide = torch.randn(4, 28)
    assert torch.equal(apply_linear(ffn[2], wide), ffn[2](wide))
    assert onednn_calls == []


def test_another_gelu_is_not_taken_for_the_exact_one(onednn_calls):
    ffn, x = make_ffn('tanh'), torch.randn(4, 7)
    with torch.no_grad():
        assert torch.equal(apply_ffn(ffn, x), ffn(x))
    assert onednn_calls == []


@pytest.mark.parametrize('backend', ['onednn', 'torch'])
def test_inference_equals_training_and_leaves_its_input_alone(backend):
    ffn, x = make_ffn(), torch.randn(4, 7)
    before = x.clone()
    with use_linear(backend):
        trained = apply_ffn(ffn, x)
        with torch.inference_mode():
            inferred = apply_ffn(ffn, x)
    assert torch.equal(x, before)
    torch.testing.assert_close(inferred, trained.detach())


def test_a_traced_gelu_changes_no_tensor_in_place():
    graph = make_fx(linear_gelu)(*case((5, 7), 4)).code
    assert 'aten.gelu.default' in graph and 'gelu_' not in graph


def test_changed_weights_are_read_anew(onednn_calls):
    layer, x = nn.Linear(7, 4, bias=False), torch.randn(5, 7)
    with torch.no_grad():
        apply_linear(layer, x)
        for change in (lambda: layer.weight.mul_(2), lambda: layer.load_state_dict({'weight': torch.ones(4, 7)})):
            change()
            torch.testing.assert_close(apply_linear(layer, x), x @ layer.weight.t())


def test_a_forked_worker_computes():
    code = """
import os, torch
from mmdefmamba.ops.linear import linear, use_linear
x, weight = torch.ones(64, 96), torch.ones(32, 96)
with use_linear('onednn'):
    linear(x, weight)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os._exit(0 if (linear(x, weight) == 96).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run(
        [sys.executable, '-c', code], check=True, timeout=60, env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    )
