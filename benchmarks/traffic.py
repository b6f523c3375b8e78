"""Count the bytes that the backbone moves per image, by part, and its kernel launches per block. It needs no GPU.

The backbone runs once on fake CUDA tensors, which have shapes and strides but no memory, so no time is measured. The
rules of the count:

- A launch reads each byte of its inputs once and writes each byte of its outputs once, however often it comes back to
  it. So caches are taken to be perfect within one launch, and useless between two launches. An in-place operation reads
  and writes. Dimensions that are expanded (stride 0) count once, and so does a tensor that is given twice.
- Memory moves in sectors of 32 bytes: a strided slice counts all sectors that it touches.
- A custom operator of this package counts what its implementation does, not what its schema says: each launch of a
  Triton kernel, and each PyTorch operation around it, such as a copy or the sum of partial results. Whether a kernel
  reads or writes an argument is taken from its source (``launches.accesses``). Temporary buffers count like all others.
- PyTorch operations count as one launch, apart from those of ``SEVERAL``, which are known to launch more, with the
  bytes of each. Views count as nothing. Filling a constant is a launch.
- cuDNN adds the bias of a convolution in a second launch, which reads and writes the result. Its own changes of layout
  are not counted, nor are the workspaces of cuBLAS.
- The optimizer, and the loss, are left out. What a block keeps from one call to the next (constants of a map size) is
  left out as well: the count is that of a second call.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from launches import accesses, recorded_launches
from timing import print_table
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import mmdefmamba
from mmdefmamba.models import ARCHITECTURES, DefMamba
from mmdefmamba.ops import TokenOrder
from mmdefmamba.ops.token_order import index_dtype
from mmdefmamba.scans.base import StaticScan

PACKAGE = Path(mmdefmamba.__file__).parent
SECTOR = 32
#: The chunks of a scan depend on the number of multiprocessors. This is that of an H100 and of an H200.
MULTIPROCESSORS = 132
#: Where an operation belongs: the innermost of these functions that called it.
PARTS = {
    ('models/defmamba.py', 'DefMamba.forward'): 'stem and downsampling',
    ('models/defmamba.py', 'DefMamba.stage_maps'): 'output norm',
    ('models/stem.py', 'ConvNorm.forward'): 'stem and downsampling',
    ('models/dm_block.py', 'DMBlock.forward'): 'norms and residual additions',
    ('models/dm_block.py', 'DMBlock.forward_and_norm'): 'norms and residual additions',
    ('models/dssm.py', 'DSSM.forward'): '3x3 convolution and SiLU',
    ('models/dssm.py', 'DSSM._project'): 'x and time-step projections',
    ('models/linear_layers.py', 'apply_ffn'): 'FFN',
    ('models/linear_layers.py', 'apply_linear'): 'in and out projections',
    ('ops/fan_out.py', 'fan_out'): 'sums of gradients of a map',
    ('ops/map_scan/gated.py', 'split_projections'): 'x and time-step projections',
    ('ops/map_scan/gated.py', 'gated_multi_scan'): 'scan',
    ('ops/map_scan/multi.py', 'multi_scan'): 'scan',
    ('ops/merge.py', 'merge_scans'): 'merge and gate',
    ('scans/deformable.py', 'DeformableScan.offsets'): 'offset network',
    ('scans/deformable.py', 'OffsetNetwork.offsets_and_keys'): 'offset network',
    ('scans/deformable.py', 'DeformableScan.sample'): 'sampling and offset bias',
    ('scans/deformable.py', 'DeformableScan.token_order'): 'order',
    ('scans/deformable.py', 'DeformableScan.forward'): 'order',
    ('scans/base.py', 'StaticScan.forward'): 'order',
}
BLOCK = 'DMBlock.forward'
NO_LAUNCH = {'empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided', '_unsafe_view', 'device'}
#: In-place operations that do not read what they overwrite.
OVERWRITING = {'copy_', 'fill_', 'zero_', 'normal_', 'uniform_', 'bernoulli_'}


@dataclasses.dataclass(frozen=True)
class Launch:
    """One kernel launch: its part of the network, its pass, its block (None outside of blocks), and its bytes."""

    part: str
    backward: bool
    block: object
    kernel: str
    read: int
    written: int
    shapes: str


def moved_bytes(x):
    """Return the bytes of all sectors that hold elements of a tensor."""
    dims = sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1 and stride)
    run = 1  # elements that lie without a gap
    while dims and dims[0][0] == run:
        run *= dims.pop(0)[1]
    runs = math.prod(size for _, size in dims)
    each = -(-run * x.element_size() // SECTOR) * SECTOR if dims else run * x.element_size()
    span = (run + sum(stride * (size - 1) for stride, size in dims)) * x.element_size()
    return 0 if 0 in x.shape else min(runs * each, span)


@functools.cache
def _has_kernel(name):
    # CPU: a build of PyTorch without CUDA knows no other
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in ('CPU', 'CUDA'))


@functools.cache
def _path_in_package(filename):
    path = Path(filename)
    return path.relative_to(PACKAGE).as_posix() if PACKAGE in path.parents else None


def _tensors(values):
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _total(tensors):
    """Return the bytes of tensors on the GPU; the same memory counts once."""
    seen = {}
    for x in tensors:
        if x.is_cuda:
            key = (x.untyped_storage()._cdata, x.storage_offset(), tuple(x.shape), x.stride())
            seen[key] = moved_bytes(x)
    return sum(seen.values())


def _convolution(args, out):
    x, weight, bias = args[:3]
    launches = [([x, weight], [out])]
    return launches if bias is None else [*launches, ([out, bias], [out])]


def _convolution_backward(args, out):
    grad, x, weight = args[:3]
    dx, dweight, dbias = out
    launches = [] if dx is None else [([grad, weight], [dx])]
    launches += [] if dweight is None else [([grad, x], [dweight])]
    return launches if dbias is None else [*launches, ([grad], [dbias])]


def _layer_norm_backward(args, out):
    grad, x, _, mean, rstd, weight = args[:6]
    dx, *dparameters = out
    launches = [] if dx is None else [([grad, x, mean, rstd, weight], [dx])]
    dparameters = [d for d in dparameters if d is not None]
    return [*launches, ([grad, x, mean, rstd], dparameters)] if dparameters else launches


def _sort(args, out):
    keys = next(x for x in args if isinstance(x, torch.Tensor))
    values, places = out
    # PyTorch copies the keys, fills in the places, and sorts both in place: in one launch up to 4096 keys, else in
    # radix passes of 8 bits, here taken to be one for each byte of a key
    passes = 1 if keys.shape[-1] <= 4096 else keys.element_size()
    return [([keys], [values]), ([], [places]), *([([values, places], [values, places])] * passes)]


def _argsort(args, out):
    keys = next(x for x in args if isinstance(x, torch.Tensor))
    return _sort(args, (torch.empty_like(keys), out))


def _part_backward(args, out):  # of a slice: zeros, and a copy into a part of them
    return [([], [out]), ([args[0]], [args[0]])]


#: name -> function (args, out) that returns what each launch reads and writes
SEVERAL = {
    'convolution': _convolution,
    'convolution_backward': _convolution_backward,
    'native_layer_norm_backward': _layer_norm_backward,
    'sort': _sort,
    'argsort': _argsort,
    'slice_backward': _part_backward,
    'select_backward': _part_backward,
}


class Traffic(TorchDispatchMode):
    """Record the launches of everything that runs within the block, as :class:`Launch`.

    Args:
        on_kernel: a function (kernel, args, kwargs) that is called for each Triton kernel, or None.
    """

    def __init__(self, on_kernel=None):
        super().__init__()
        self.on_kernel = on_kernel
        self.launches = []
        self.node = None  # that of the backward which runs
        self.places = {}  # number of an autograd node -> (part, block) of the forward operation that made it

    @contextlib.contextmanager
    def counting(self):
        """Count within the block."""
        with self, recorded_launches(self._count_kernel):
            yield self

    def differentiate(self, out, gradient):
        """Run the backward of ``out``, as PyTorch's engine does.

        The engine itself refuses fake CUDA tensors where there is no driver.

        Returns:
            A dict: parameter -> its gradient.
        """
        found = {}
        pending = {out.grad_fn: {out.output_nr: gradient}}
        while pending:
            # a node is made after those whose results it takes, so the latest has all its gradients
            node = self.node = max(pending, key=lambda node: node._sequence_nr())
            gradients = pending.pop(node)
            inputs = [self._fitted(gradients.get(i), like) for i, like in enumerate(node._input_metadata)]
            results = node.apply(*inputs) if isinstance(node, BackwardCFunction) else node(*inputs)
            results = results if isinstance(results, tuple) else (results,)
            edges = node.next_functions
            if isinstance(node, BackwardCFunction):  # it has a result for every input, but an edge only for tensors
                edges = [edge for edge in edges if edge[0] is not None]
                results = [x for x, needed in zip(results, node.needs_input_grad, strict=True) if needed]
            for (following, i), result in zip(edges, results, strict=False):
                if result is None or following is None:
                    continue
                if hasattr(following, 'variable'):  # the end of the graph
                    sums, key = found, following.variable
                    result = self._fitted(result, key)
                else:
                    sums, key = pending.setdefault(following, {}), i
                sums[key] = result if key not in sums else sums[key] + result
        self.node = None
        return found

    def _fitted(self, gradient, like):
        """Return a gradient in the shape and dtype of the result that it belongs to, as the engine does."""
        if gradient is None:
            return None
        return gradient.sum_to_size(like.shape).to(like.dtype)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        place = self._place()
        if self.node is None:
            self.places.setdefault(torch._C._autograd._get_sequence_nr() - 1, place)
        namespace, _, name = function._schema.name.partition('::')
        if namespace == 'mmdefmamba':
            with self:
                return OPDEFS[f'{namespace}::{name}']._init_fn(*args, **kwargs)
        # within a custom operator PyTorch does not take composite operations apart: `contiguous` would hide a copy
        if namespace == 'aten' and not _has_kernel(function.name()):
            with self:
                out = function.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = self._run(function, name, args, kwargs)
        if name in NO_LAUNCH or self._is_view(function):
            return out
        if name in SEVERAL:
            launches = SEVERAL[name](args, out)
        else:
            launches = [self._reads_and_writes(function, name, args, kwargs, out)]
        for reads, writes in launches:
            self._add(name, reads, writes)
        return out

    def _run(self, function, name, args, kwargs):
        if name == 'convolution':
            return _empty_convolution(*args[:9])
        if name == 'convolution_backward':
            out = function(*args, **kwargs)
            return _in_layout_of_cudnn(out[0], *args[1:3]), *out[1:]
        if name == 'cudnn_grid_sampler':  # it has no fake kernel
            x, grid = args
            return x.new_empty(*x.shape[:2], *grid.shape[1:3])
        if name == 'cudnn_grid_sampler_backward':
            return tuple(x.new_empty(x.shape) for x in args[:2])
        return function(*args, **kwargs)

    def _is_view(self, function):
        aliases = [result.alias_info for result in function._schema.returns]
        return bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)

    def _reads_and_writes(self, function, name, args, kwargs, out):
        reads, writes = [], []
        for argument, value in zip(function._schema.arguments, args, strict=False):
            changed = argument.alias_info is not None and argument.alias_info.is_write
            writes += _tensors([value]) if changed else []
            reads += [] if changed and name in OVERWRITING else _tensors([value])
        out_argument = kwargs.get('out')
        reads += _tensors(value for key, value in kwargs.items() if key != 'out')
        writes += _tensors([out if out_argument is None else out_argument])
        return reads, writes

    def _count_kernel(self, kernel, args, kwargs):
        if self.on_kernel is not None:
            self.on_kernel(kernel, args, kwargs)
        given = dict(zip(kernel.arg_names, args, strict=False), **kwargs)
        given = {name: x for name, x in given.items() if isinstance(x, torch.Tensor)}
        read, written = accesses(kernel)
        reads, writes = ([x for name, x in given.items() if name in names] for names in (read, written))
        self._add(kernel.__name__, reads, writes)

    def _add(self, name, reads, writes):
        if any(x.is_cuda and x.numel() for x in (*reads, *writes)):
            shapes = ', '.join(f'{tuple(x.shape)} {str(x.dtype)[6:]}' for x in (*reads[:3], *writes[:2]))
            part, block = self._place()
            self.launches.append(
                Launch(part, self.node is not None, block, name, _total(reads), _total(writes), shapes)
            )

    def _place(self):
        if self.node is not None:
            return self.places.get(self.node._sequence_nr(), ('other', None))
        part = block = None
        frame = sys._getframe(1)
        while frame is not None:
            path = _path_in_package(frame.f_code.co_filename)
            if path is not None:
                owner = frame.f_locals.get('self')
                name = frame.f_code.co_name if owner is None else f'{type(owner).__name__}.{frame.f_code.co_name}'
                part = part or PARTS.get((path, name))
                if name == BLOCK:
                    block = id(owner)
                    break
            frame = frame.f_back
        return part or 'other', block


def _empty_convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    """Return the empty result of a convolution, in the layout that cuDNN gives it on a GPU."""
    sizes = [
        (size + 2 * p - d * (kernel - 1) - 1) // s + 1
        for size, kernel, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    shape = (x.shape[0], weight.shape[0], *sizes)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout_of_cudnn(x, weight))


def _layout_of_cudnn(*tensors):
    """Return the layout in which cuDNN writes: channel-last if one of the tensors that it reads is stored so."""
    for tensor in tensors:
        if not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
    return torch.contiguous_format


def _in_layout_of_cudnn(dx, *tensors):
    """Return an empty gradient in the layout that cuDNN gives it; the fake kernel promises another."""
    return None if dx is None else torch.empty_like(dx, memory_format=_layout_of_cudnn(*tensors))


@contextlib.contextmanager
def fake_gpu():
    """Make fake CUDA tensors usable within the block on a machine without a GPU; yield their mode."""
    properties = SimpleNamespace(multi_processor_count=MULTIPROCESSORS)

    def checked_order(scan, height, width, device):
        with _disable_current_modes():  # real numbers: an order is checked when it is made
            order = original(scan, height, width, torch.device('cpu'))
        if order is None:
            return None
        index = torch.empty(order.order.shape, dtype=index_dtype(device), device=device)
        return TokenOrder(index, torch.empty_like(index), order.backwards)

    original = StaticScan._checked_order
    with (
        mock.patch.object(torch.cuda, 'get_device_properties', lambda device=None: properties),
        mock.patch.object(torch.cuda, 'device_of', lambda x: contextlib.nullcontext()),
        mock.patch.object(StaticScan, '_checked_order', checked_order),
        FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False) as mode,
    ):
        yield mode


def count(arch, batch, dtype, size, passes=('inference', 'training'), backend='triton', on_kernel=None, **options):
    """Count the launches of an inference, and of a forward and backward in training.

    Args:
        arch, backend, options: as of ``DefMamba``.
        batch, size: number of images, and their side in pixels.
        dtype: of the activations; parameters and images are float32, as under autocast.
        passes: which of 'inference' and 'training' are counted.
        on_kernel: see :class:`Traffic`.

    Returns:
        A dict: pass -> list of :class:`Launch`.
    """
    if torch.__version__ < (2, 11) and not torch.cuda.is_available():
        raise RuntimeError(
            f'PyTorch {torch.__version__} needs a GPU for CUDA tensors without memory. Take 2.11 or newer'
        )
    with torch.device('meta'):
        model = DefMamba(arch, out_indices=(-1,), scan_backend=backend, **options)
    launches = {}
    with fake_gpu(), torch.device('cuda'), autocast(dtype):
        for module in model.modules():
            for store in (module._parameters, module._buffers):
                for name, x in store.items():
                    if x is not None:
                        fake = torch.empty_like(x, device='cuda')
                        store[name] = torch.nn.Parameter(fake, x.requires_grad) if x.requires_grad else fake
        images = torch.empty(batch, 3, size, size)
        with Traffic().counting(), torch.no_grad():
            model.eval()(images)  # fills the caches of constants
        for name in passes:
            torch.clear_autocast_cache()
            traffic = Traffic(on_kernel)
            with traffic.counting(), torch.set_grad_enabled(name == 'training'):
                (out,) = model.train(name == 'training')(images)
            if name == 'training':
                gradient = torch.empty_like(out)
                with autocast(torch.float32), traffic.counting(), torch.no_grad():
                    traffic.differentiate(out, gradient)
            launches[name] = traffic.launches
    return launches


@contextlib.contextmanager
def autocast(dtype):
    """Switch autocast on CUDA on; ``torch.autocast`` would leave it off where there is no GPU."""
    before = torch.is_autocast_enabled('cuda'), torch.get_autocast_dtype('cuda')
    torch.set_autocast_enabled('cuda', dtype != torch.float32)
    torch.set_autocast_dtype('cuda', dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled('cuda', before[0])
        torch.set_autocast_dtype('cuda', before[1])
        torch.clear_autocast_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--arch', default='small', choices=ARCHITECTURES)
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--dtype', default='bfloat16', choices=['float32', 'bfloat16', 'float16'])
    parser.add_argument('--passes', nargs='+', default=['inference', 'training'], choices=['inference', 'training'])
    parser.add_argument('--formulation', default='paper', choices=['paper', 'released'])
    parser.add_argument('--launches', metavar='PART', help="list the launches of a part, or of 'all'")
    parser.add_argument('--json', action='store_true', help='print the totals only, as JSON')
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    counted = count(args.arch, args.batch, dtype, args.size, args.passes, formulation=args.formulation)
    totals = {name: summary(launches, args.batch) for name, launches in counted.items()}
    if args.json:
        print(json.dumps(totals))
        return
    for name, launches in counted.items():
        what = f'{args.arch}, batch {args.batch}, {args.size} x {args.size}, {args.dtype}, {name}; MB per image'
        print(f'{what}\n')
        if args.launches:
            print_launches(launches, args.launches, args.batch)
        else:
            print_table(*by_part(launches, args.batch))
        print('\n' + '; '.join(f'{name}: {value:.4g}' for name, value in totals[name].items()) + '\n')


def summary(launches, batch):
    """Return the totals: MB per image, launches in all, and those of the block that has most of them in the forward."""
    blocks = collections.Counter(x.block for x in launches if x.block is not None and not x.backward)
    return {
        'MB per image': sum(x.read + x.written for x in launches) / batch / 1e6,
        'forward launches of the block with most': max(blocks.values()),
        'launches': len(launches),
    }


def by_part(launches, batch):
    """Return header and rows: per part and pass, launches and MB per image."""
    parts = collections.defaultdict(lambda: [0, 0, 0, 0, 0, 0])
    for x in launches:
        row = parts[x.part]
        first = 3 * x.backward
        row[first] += 1
        row[first + 1] += x.read / batch / 1e6
        row[first + 2] += x.written / batch / 1e6
    rows = [[part, *row] for part, row in parts.items()]
    rows.sort(key=lambda row: -(row[2] + row[3] + row[5] + row[6]))
    rows.append(['sum', *map(sum, zip(*(row[1:] for row in rows), strict=True))])
    header = ['part', 'launches', 'read', 'written', 'backward: launches', 'read', 'written']
    columns = 7 if any(x.backward for x in launches) else 4
    return header[:columns], [
        [f'{cell:.1f}' if isinstance(cell, float) else cell for cell in row[:columns]] for row in rows
    ]


def print_launches(launches, part, batch):
    """Print the launches of a part: equal ones in a row as one line."""
    for x in launches:
        if part in (x.part, 'all'):
            arrow = '<-' if x.backward else '->'
            print(
                f'{arrow} {x.part[:24]:24} {x.kernel:28} read {x.read / batch / 1e6:7.3f} '
                f'written {x.written / batch / 1e6:7.3f}  {x.shapes}'
            )


if __name__ == '__main__':
    main()
