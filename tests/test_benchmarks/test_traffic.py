"""The bytes and kernel launches of the backbone, counted on fake CUDA tensors, and whether they are counted right."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmdefmamba.models import DefMamba

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
triton = pytest.importorskip('triton')


@pytest.fixture
def traffic(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('traffic')


@pytest.mark.usefixtures('fake_cuda')
def test_bytes_and_launches_of_the_backbone_stay_below_their_bounds():
    """DefMamba-S, batch 128, 224 x 224, bfloat16: the table of docs/benchmarks.md."""
    # a process of its own: the network keeps constants of a map size, which are fake tensors here
    command = [sys.executable, BENCHMARKS / 'traffic.py', '--json']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout.splitlines()[-1])
    inference, training = totals['inference'], totals['training']
    assert 100 < inference['MB per image'] <= 190
    assert 300 < training['MB per image'] <= 609
    assert 10 < inference['forward launches of the block with most'] <= 35


def test_a_strided_tensor_counts_the_sectors_that_it_touches(traffic):
    rows = torch.empty(100, 40, dtype=torch.bfloat16)  # rows of 80 bytes
    assert traffic.moved_bytes(rows) == 8000
    assert traffic.moved_bytes(rows.t()) == 8000
    assert traffic.moved_bytes(rows[:, :16]) == 100 * 32
    assert traffic.moved_bytes(rows[:, :17]) == 100 * 64
    assert traffic.moved_bytes(rows[:, :1]) == 100 * 32
    assert traffic.moved_bytes(rows[:, ::2]) == 99 * 80 + 78  # the gaps are smaller than a sector
    assert traffic.moved_bytes(rows[:1].expand(100, 40)) == 80
    assert traffic.moved_bytes(rows[:0]) == 0


@pytest.mark.usefixtures('fake_cuda')
def test_kernels_are_counted_inside_of_custom_operators(traffic):
    """The merge of three scans reads y and z once and writes once. A gate without unit stride is copied, too."""
    batch, scans, length, channels = 2, 3, 64, 32
    with traffic.fake_gpu():
        y = torch.empty(batch, scans, length, channels, device='cuda', dtype=torch.bfloat16)
        z = torch.empty(batch, length, 2 * channels, device='cuda', dtype=torch.bfloat16)[..., channels:]
        with traffic.Traffic().counting() as counted, torch.no_grad():
            torch.ops.mmdefmamba.merge_scans(y, z)
            torch.ops.mmdefmamba.merge_scans(y, torch.empty(batch, channels, length, device='cuda', dtype=y.dtype).mT)
    size = batch * length * channels * 2
    names = [(x.kernel, x.read, x.written) for x in counted.launches]
    assert names[0] == ('merge_forward', 4 * size, size)
    # the second gate has no unit stride
    assert names[1:] == [('clone', size, size), ('merge_forward', 4 * size, size)]


def test_what_pytorch_launches_several_times_counts_several_times(traffic):
    with traffic.fake_gpu(), traffic.Traffic().counting() as counted:
        x = torch.empty(2, 8, 4, 4, device='cuda')
        F.conv2d(x, torch.empty(8, 1, 3, 3, device='cuda'), torch.empty(8, device='cuda'), padding=1, groups=8)
        x.view(2, 128).sort(stable=True)
        x.add_(1)
        x.fill_(0)
        x.expand(3, 2, 8, 4, 4).sum()
        x * x
    size = 4 * 256
    assert [(x.kernel, x.read, x.written) for x in counted.launches] == [
        ('convolution', size + 4 * 72, size),
        ('convolution', size + 4 * 8, size),  # the bias
        ('sort', size, size),  # a copy of the keys
        ('sort', 0, 2 * size),  # their places, int64
        ('sort', 3 * size, 3 * size),
        ('add_', size, size),
        ('fill_', 0, size),
        ('sum', size, 4),
        ('mul', size, size),
    ]


@pytest.mark.usefixtures('fake_cuda')
def test_the_gradient_of_a_convolution_has_the_layout_that_cudnn_gives_it(traffic):
    """PyTorch asks cuDNN for channels last if the map or the weights are stored so; its fake kernel says otherwise."""
    with traffic.fake_gpu(), traffic.Traffic().counting():
        grad, x, weight = torch.empty(2, 4, 5, 5), torch.empty(2, 3, 5, 5, device='cuda'), torch.empty(4, 3, 3, 3)
        options = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False])
        for layout in (torch.channels_last, torch.contiguous_format):
            tensors = (grad.cuda(), x.contiguous(memory_format=layout), weight.cuda())
            dx, *_ = torch.ops.aten.convolution_backward(*tensors, *options)
            assert dx.shape == x.shape and dx.is_contiguous(memory_format=layout)


def test_reads_and_writes_of_a_kernel_are_taken_from_its_source(traffic):
    from launches import accesses

    from mmdefmamba.ops.triton_scan import launch, merge_kernels

    tensors = [*(f'u{i}' for i in range(4)), *(f'rows{i}' for i in range(4)), 'delta', 'dt_weight', 'A', 'D', 'bias']
    tensors += ['order', 'starts', 'y', 'states']
    read, written = accesses(launch.scan_forward)
    assert [name for name in tensors if name in read] == tensors[:-2]
    # states of which there are more than registers wait in the place where the scan starts from
    assert [name for name in tensors if name in written] == ['starts', 'y', 'states']
    read, written = accesses(launch.pass_carries)  # in place
    assert 'ends' in read and 'ends' in written and 'A' in read and 'A' not in written
    read, written = accesses(merge_kernels.merge_backward)
    assert {'dout', 'y', 'z'} <= read and {'dy', 'dz'} <= written and not {'dy', 'dz'} & read
    assert not {'dout', 'y', 'z'} & written


def test_the_counted_backward_is_that_of_pytorch(traffic):
    """It is walked without PyTorch's engine, which refuses fake tensors. On real tensors both give the same bits."""
    torch.manual_seed(0)
    model = DefMamba({'embed_dims': (8,), 'depths': (2,)}, out_indices=(0,), pretrain_img_size=16, drop_path_rate=0.5)
    (out,) = model.train()(torch.randn(2, 3, 16, 16))
    gradient = torch.randn_like(out)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(out, parameters, gradient, retain_graph=True)
    with torch.no_grad():
        found = traffic.Traffic().differentiate(out, gradient)
    assert set(found) == set(parameters)
    for parameter, value in zip(parameters, expected, strict=True):
        assert torch.equal(found[parameter], value)
