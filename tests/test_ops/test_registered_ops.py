"""What torch.compile is told of each operator is what the kernels return: shape, strides and dtype.

The calls are those of a training step, recorded: with one scan and several, in any layout, with and without the
optional inputs, and with more scans than one launch takes, which leaves one scan for the last launch.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mmdefmamba.models import DefMamba
from mmdefmamba.ops import TokenOrder, merge_scans, multi_scan
from mmdefmamba.ops.triton_scan import grouped_scan_triton, multi_scan_triton, unavailable_reason

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
REASON = unavailable_reason(torch.zeros(1, device=DEVICE))
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures('quick_interpreter'),
]
BATCH, LENGTH, CHANNELS, STATES = 2, 3, 4, 2


class Recorder(TorchDispatchMode):
    """Within the block: every call of an operator of ours, as (operator, arguments)."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == 'mmdefmamba':
            assert not kwargs
            self.calls.append((function, args))
        return function(*args, **(kwargs or {}))


def randn(*shape, strided, dtype=torch.float32):
    """A leaf of the step. ``strided``: stored the other way round, as a view of a larger tensor may be."""
    x = torch.randn(*shape[::-1]).permute(*reversed(range(len(shape)))) if strided else torch.randn(*shape)
    return x.to(DEVICE, dtype).requires_grad_()


def record_step(scans, strided=False, optional=True, dtype=torch.float32, grouped=False):
    """The calls of one training step of K scans and their merge; the last scan has a learned order."""
    torch.manual_seed(0)
    delta = randn(BATCH, scans, LENGTH, CHANNELS, strided=strided, dtype=dtype)
    A = -randn(scans * CHANNELS, STATES, strided=strided).exp()
    B, C = (randn(BATCH, scans, LENGTH, STATES, strided=strided, dtype=dtype) for _ in range(2))
    D, bias = (randn(scans * CHANNELS, strided=strided) if optional else None for _ in range(2))
    gate = randn(BATCH, LENGTH, CHANNELS, strided=strided, dtype=dtype)
    with Recorder() as recorder:
        if grouped:
            u = randn(BATCH, scans, LENGTH, CHANNELS, strided=strided, dtype=dtype)
            y = grouped_scan_triton(u, delta, A, B, C, D, bias, True)
        else:
            u = randn(BATCH, LENGTH, CHANNELS, strided=strided, dtype=dtype)
            order = TokenOrder.from_order(torch.stack([torch.randperm(LENGTH, device=DEVICE) for _ in range(BATCH)]))
            y = multi_scan_triton([u] * scans, delta, A, B, C, D, bias, [None] * (scans - 1) + [order])
        merge_scans(y, gate, backend='triton').square().sum().backward()
    return recorder.calls


CASES = {
    **{f'K{scans}': dict(scans=scans) for scans in (1, 2, 3, 5)},
    **{f'K{scans} strided': dict(scans=scans, strided=True) for scans in (1, 3, 5)},
    **{f'K{scans} bare': dict(scans=scans, optional=False) for scans in (1, 2)},
    'K1 strided bare': dict(scans=1, strided=True, optional=False),
    'K1 bfloat16': dict(scans=1, dtype=torch.bfloat16),
    'K2 strided float16': dict(scans=2, strided=True, dtype=torch.float16),
    **{f'K{scans} grouped': dict(scans=scans, strided=True, grouped=True) for scans in (1, 2, 5)},
}
# opcheck takes some seconds for a case
CHECKED = ['K1', 'K2 bare', 'K3 strided', 'K1 strided bare']
LAUNCHES = {5: 2}  # more scans than one launch takes


def layout(x):
    return tuple(x.shape), x.stride(), x.dtype, x.device


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_results_are_laid_out_as_the_fake_kernel_promises(case):
    calls = record_step(**case)
    names = [function._opname for function, _ in calls]
    launches = LAUNCHES.get(case['scans'], 1)
    assert (
        names
        == ['multi_scan'] * launches + ['merge_scans', 'merge_scans_backward'] + ['multi_scan_backward'] * launches
    )
    for function, args in calls:
        real = function(*args)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            promised = function(*tree_map_only(torch.Tensor, mode.from_tensor, args))
        real, promised = ((x,) if isinstance(x, torch.Tensor) else x for x in (real, promised))
        assert [layout(x) for x in real] == [layout(x) for x in promised], function
        assert all(x.stride() == torch.empty(x.shape).stride() for x in real), function


@pytest.mark.parametrize('case', [CASES[name] for name in CHECKED], ids=CHECKED)
def test_operators_pass_opcheck(case):
    def leaf(x):
        return x.detach().requires_grad_(x.is_floating_point() and not backward)

    for function, args in record_step(**case):
        backward = function._opname.endswith('_backward')
        torch.library.opcheck(function, tree_map_only(torch.Tensor, leaf, args))


@pytest.fixture
def fresh_compiler():
    """torch.compile remembers the sizes that it has seen of a function, and takes another size for a dynamic one."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures('fresh_compiler')
@pytest.mark.parametrize(
    'scans',
    [
        ('raster',),
        ('deformable',),
        # the last launch has one scan, or three
        *(pytest.param(('raster',) * scans, marks=pytest.mark.sweep) for scans in (5, 8, 15)),
    ],
    ids=lambda scans: f'{len(scans)} {scans[0]}',
)
def test_a_backbone_compiles_and_trains_whatever_the_number_of_scans(scans):
    torch.manual_seed(0)
    arch = {'embed_dims': (4,), 'depths': (1,)}
    model = DefMamba(arch, scans=scans, pretrain_img_size=8, scan_backend='triton').to(DEVICE)
    images = torch.randn(2, 3, 8, 5, device=DEVICE)
    results = []
    for network in (torch.compile(model, fullgraph=True, backend='aot_eager'), model):
        (y,) = network(images)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_one_scan_gets_the_gradients_of_the_reference():
    torch.manual_seed(0)
    inputs = [
        randn(BATCH, LENGTH, CHANNELS, strided=True),
        randn(BATCH, 1, LENGTH, CHANNELS, strided=True),
        (-torch.rand(CHANNELS, STATES, device=DEVICE) - 0.1).requires_grad_(),
        *(randn(BATCH, 1, LENGTH, STATES, strided=True) for _ in range(2)),
        *(randn(CHANNELS, strided=False) for _ in range(2)),
    ]
    results = []
    for backend, dtype in (('triton', torch.float32), ('reference', torch.float64)):
        u, *rest = (x.detach().to(dtype).requires_grad_() for x in inputs)
        y = multi_scan([u], *rest, [None], backend=backend)
        results.append([y, *torch.autograd.grad(y.square().sum(), [u, *rest])])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
