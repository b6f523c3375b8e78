"""gradcheck of every operator, opcheck of every registered one. A test checks that no operator is missing here."""

import pytest
import torch
from torch.utils._pytree import tree_map_only

from mmdefmamba import ops
from mmdefmamba.ops import TokenOrder
from mmdefmamba.ops.native import library
from mmdefmamba.ops.native.scan_calls import BACKWARDS, ORDER_SHIFT
from mmdefmamba.ops.triton_scan import merge_op, op, unavailable_reason

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
BATCH, SCANS, CHANNELS, STATES, HEIGHT, WIDTH = 2, 2, 3, 2, 2, 3
LENGTH = HEIGHT * WIDTH


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def randn(*shape, dtype=torch.float64, device='cpu'):
    return torch.randn(*shape, dtype=torch.float64).to(device, dtype).requires_grad_()


def learned():
    return TokenOrder.from_order(torch.stack([torch.randperm(LENGTH) for _ in range(BATCH)]))


def multi_scan_inputs(**kind):
    rows = SCANS * CHANNELS
    return [
        randn(BATCH, LENGTH, CHANNELS, **kind),
        randn(BATCH, SCANS, LENGTH, CHANNELS, **kind),
        (-randn(rows, STATES, **kind).exp()).detach().requires_grad_(),
        randn(BATCH, SCANS, LENGTH, STATES, **kind),
        randn(BATCH, SCANS, LENGTH, STATES, **kind),
        randn(rows, **kind),
        randn(rows, **kind),
    ]


def multi_scan():
    order = learned()
    return lambda u, *rest: ops.multi_scan([u, u], *rest, [None, order]), multi_scan_inputs()


def selective_scan():
    rows = SCANS * CHANNELS
    A = (-randn(rows, STATES).exp()).detach().requires_grad_()
    B, C = randn(BATCH, SCANS, STATES, LENGTH), randn(BATCH, SCANS, STATES, LENGTH)
    return ops.selective_scan, [
        randn(BATCH, rows, LENGTH),
        randn(BATCH, rows, LENGTH),
        A,
        B,
        C,
        randn(rows),
        randn(rows),
    ]


def permutation(function):
    order = learned()
    return lambda x: function(x, order), [randn(BATCH, LENGTH, CHANNELS)]


def learned_order():
    # the gradient of the offsets is a surrogate: test_token_order.py checks it by hand
    offset, order = torch.zeros(BATCH, LENGTH, dtype=torch.float64), learned()
    return lambda x: ops.learned_order(x, offset, order), [randn(BATCH, CHANNELS, HEIGHT, WIDTH)]


def sample_points():
    points = (torch.rand(BATCH, 3, 4, 2, dtype=torch.float64) * 2.4 - 1.2).requires_grad_()
    return ops.sample_points, [randn(BATCH, CHANNELS, 4, 3), points]


def sample_offsets():
    inputs = [randn(BATCH, CHANNELS, 4, 3), randn(BATCH, 4, 3, 2), randn(CHANNELS, 5, 2)]
    return lambda x, offsets, table: ops.sample_offsets(x, offsets / 8, table, formulation='released'), inputs


def gated_multi_scan():
    order, rank = learned(), 2
    u, _, A, _, _, D, bias = multi_scan_inputs()
    projected = randn(BATCH, LENGTH, SCANS * (rank + 2 * STATES))
    inputs = [u, projected, randn(SCANS, CHANNELS, rank), A, D, bias, randn(BATCH, LENGTH, CHANNELS)]

    def run(u, projected, *rest):
        return ops.gated_multi_scan([u, u], projected.chunk(SCANS, dim=-1), *rest, [None, order])

    return run, inputs


def selective_scan_fn():
    # as mamba-ssm's function: B constant, C per batch, with gate, bias, softplus and the last state
    A = (-randn(CHANNELS, STATES).exp()).detach().requires_grad_()
    inputs = [randn(BATCH, CHANNELS, LENGTH), randn(BATCH, CHANNELS, LENGTH), A, randn(CHANNELS, STATES)]
    inputs += [randn(BATCH, STATES, LENGTH), randn(CHANNELS), randn(BATCH, CHANNELS, LENGTH), randn(CHANNELS)]

    def run(*tensors):
        result, last_state = ops.selective_scan_fn(*tensors, delta_softplus=True, return_last_state=True)
        return torch.cat([result.flatten(), last_state.flatten()])

    return run, inputs


CASES = {
    'gated_multi_scan': gated_multi_scan,
    'learned_order': learned_order,
    'merge_scans': lambda: (
        ops.merge_scans,
        [randn(BATCH, SCANS, LENGTH, CHANNELS), randn(BATCH, LENGTH, CHANNELS)],
    ),
    'multi_scan': multi_scan,
    'permute_tokens': lambda: permutation(ops.permute_tokens),
    'restore_tokens': lambda: permutation(ops.restore_tokens),
    'sample_offsets': sample_offsets,
    'sample_points': sample_points,
    'selective_scan': selective_scan,
    'selective_scan_fn': selective_scan_fn,
}


def test_every_operator_has_a_case():
    choice_of_backend = {'BACKENDS', 'auto_backend', 'unavailable_reason', 'use_backend'}
    assert set(CASES) == set(ops.__all__) - choice_of_backend - {'TokenOrder'}
    names = [name.split('::') for name in torch._C._dispatch_get_all_op_names()]
    registered = {name for space, name in names if space == 'mmdefmamba'}
    # in the tests of the kernels
    with_backward = {'add_norm', 'bias_gelu', 'channel_attention', 'depthwise_conv', 'offset_head', 'read_at_offsets'}
    elsewhere = {
        'multi_scan',
        'merge_scans',
        'order_gradient',
        'sum_maps',
        'bias_gelu_',
        *with_backward,
        *(f'{name}_backward' for name in with_backward),
    }
    assert registered == {*elsewhere, *REGISTERED, *NATIVE, *EXPORTED}


@pytest.mark.parametrize('deterministic', [False, True], ids=['', 'deterministic'])
@pytest.mark.parametrize('name', CASES)
def test_gradcheck(name, deterministic):
    function, inputs = CASES[name]()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        assert torch.autograd.gradcheck(function, inputs)
    finally:
        torch.use_deterministic_algorithms(before)


def nodes_of(tensor):
    """All nodes of the graph that made a tensor."""
    found, waiting = [], [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.append(node)
            waiting += [before for before, _ in node.next_functions]
    return found


def tensors_in(value):
    """Tensors among a value and what it contains."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def check_nodes(y):
    """What a node keeps beside its saved tensors stays alive under activation checkpointing."""
    nodes = nodes_of(y)
    assert nodes
    for node in nodes:
        assert tensors_in(getattr(node, '__dict__', {})) == [], f'{node} keeps tensors of its own'


@pytest.mark.parametrize('name', CASES)
def test_operators_keep_tensors_only_through_autograd(name):
    function, inputs = CASES[name]()
    y = function(*inputs)
    check_nodes(y)
    y.sum().backward()
    assert [x._version for x in inputs] == [0] * len(inputs), 'an operator changes its inputs'


def registered_multi_scan():
    u, *rest = multi_scan_inputs(dtype=torch.float32, device=DEVICE)
    order = learned().order.unsqueeze(0).int().to(DEVICE)
    delta, A, B, C, *parameters = rest
    rows = [x.detach().requires_grad_() for x in torch.cat([B, C], dim=-1).unbind(1)]
    return [[u.unsqueeze(1)], rows, delta, None, A, *parameters], [order, [4, 1 << 3], True, False, 0]


def of_multi_scan_backward():
    inputs, options = registered_multi_scan()
    y, states = torch.ops.mmdefmamba.multi_scan(*inputs, *options, True)
    tensors = tree_map_only(torch.Tensor, torch.Tensor.detach, [torch.randn_like(y), states, *inputs])
    return op._multi_scan_backward, [*tensors, *options]


def merge_inputs():
    kind = dict(dtype=torch.float32, device=DEVICE)
    return [randn(BATCH, SCANS, LENGTH, CHANNELS, **kind), randn(BATCH, LENGTH, CHANNELS, **kind)]


def of_merge_backward():
    y, z = (x.detach() for x in merge_inputs())
    return merge_op._merge_backward, [torch.randn_like(z), y, z]


REGISTERED = {
    'multi_scan_backward': of_multi_scan_backward,
    'merge_scans_backward': of_merge_backward,
}


@pytest.mark.skipif(unavailable_reason(torch.zeros(1, device=DEVICE)) is not None, reason='no Triton')
@pytest.mark.usefixtures('quick_interpreter')
@pytest.mark.parametrize('name', REGISTERED)
def test_opcheck(name):
    function, inputs = REGISTERED[name]()
    torch.library.opcheck(function, inputs)


def of_native_scan():
    u, *rest = multi_scan_inputs(dtype=torch.float32)
    return [[u], *rest, [learned().order], [0, 1 << ORDER_SHIFT], True]


def of_native_gated_scan():
    order, rank = learned().order, 2
    u, _, A, _, _, D, bias = multi_scan_inputs(dtype=torch.float32)
    kind = dict(dtype=torch.float32)
    projected = [randn(BATCH, LENGTH, rank + 2 * STATES, **kind) for _ in range(SCANS)]
    weight, z = randn(SCANS, CHANNELS, rank, **kind), randn(BATCH, LENGTH, CHANNELS, **kind)
    return [[u], projected, weight, A, D, bias, z, [order], [BACKWARDS, 1 << ORDER_SHIFT]]


def of_native_sample(table=True):
    kind = dict(dtype=torch.float32)
    u, points = randn(BATCH, HEIGHT, WIDTH, CHANNELS, **kind), (randn(BATCH, 5, 2, **kind) for _ in range(2))
    return [u, next(points), randn(4, 3, CHANNELS, **kind), next(points)] if table else [u, next(points), None, None]


def detached(inputs):
    return [[y.detach() for y in x] if isinstance(x, list) and isinstance(x[0], torch.Tensor) else
            x.detach() if isinstance(x, torch.Tensor) else x for x in inputs]  # fmt: skip


def backward_of(name, inputs, *options):
    """The inputs of a backward operator: the gradient of the result, what the forward keeps, and its inputs."""
    result = getattr(torch.ops.mmdefmamba, name)(*inputs, *options)
    y, *kept = [result] if isinstance(result, torch.Tensor) else result
    return [torch.randn_like(y), *(x.detach() for x in kept), *detached(inputs)]


NATIVE = {
    'native_scan': lambda: [*of_native_scan(), True],
    'native_scan_backward': lambda: backward_of('native_scan', of_native_scan(), True),
    'native_gated_scan': lambda: [*of_native_gated_scan(), True],
    'native_gated_scan_backward': lambda: backward_of('native_gated_scan', of_native_gated_scan(), True),
    'native_sample': of_native_sample,
    'native_sample_backward': lambda: backward_of('native_sample', of_native_sample()),
}


@pytest.mark.skipif(library.LIBRARY is None, reason=str(library.REASON))
@pytest.mark.parametrize('name', NATIVE)
def test_opcheck_of_the_compiled_kernels(name):
    torch.library.opcheck(getattr(torch.ops.mmdefmamba, name).default, NATIVE[name]())


@pytest.mark.skipif(library.LIBRARY is None, reason=str(library.REASON))
def test_opcheck_of_sampling_without_a_table():
    inputs = of_native_sample(table=False)
    torch.library.opcheck(torch.ops.mmdefmamba.native_sample.default, inputs)
    torch.library.opcheck(torch.ops.mmdefmamba.native_sample_backward.default, backward_of('native_sample', inputs))


#: The operators of an exported graph, which have no gradient.
EXPORTED = {
    'argsort': lambda: (torch.randn(BATCH, LENGTH),),
    'sample_points': lambda: (torch.randn(BATCH, CHANNELS, 4, 3), torch.rand(BATCH, 2, 5, 2)),
    'selective_scan': lambda: (
        torch.randn(BATCH, SCANS, LENGTH, CHANNELS),
        torch.rand(BATCH, SCANS, LENGTH, CHANNELS),
        -torch.rand(SCANS, STATES, CHANNELS),
        torch.randn(BATCH, SCANS, LENGTH, STATES),
        torch.randn(BATCH, SCANS, LENGTH, STATES),
    ),
}


@pytest.mark.parametrize('name', EXPORTED)
def test_opcheck_of_the_operators_of_an_exported_graph(name):
    torch.library.opcheck(getattr(torch.ops.mmdefmamba, name).default, EXPORTED[name]())
