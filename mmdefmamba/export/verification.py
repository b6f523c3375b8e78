"""The proof that an exported file computes what its network computes: both run on the same images, and are compared.

A learned order may change where two keys nearly tie: the network does that to itself when an image changes by 1e-6. So
the check counts the tokens that have another place in the order, per block, and has one limit for results without such
a flip and one for results with flips. Two more rules keep a broken file from passing:

- The result of every block is compared as well, relative to its own size. With weights as at initialisation a whole
  scan changes the logits by less than the limits; it does change the result of its block.
- At least one comparison must be without flips. A file that sorts wrongly has flips in each.
"""

import json
from dataclasses import dataclass, field

import torch

from ..scans import Scan
from .onnx_file import CHECKED_VALUES

#: Largest difference of a result without a flip, and with flips, relative to max(1, the largest value of the result).
LIMIT, LIMIT_WITH_FLIPS = 5e-6, 2e-3
#: Largest difference of the result of a block without a flip, relative to its largest value.
LIMIT_OF_BLOCK = 1e-4
#: (batch, height, width) beside the main size: odd ones, thin ones, one pixel, other batches.
SIZES = ((2, 64, 96), (3, 33, 47), (1, 7, 90), (2, 50, 5), (1, 1, 1))


@dataclass
class Comparison:
    """One batch of images, in the network and in the file.

    Args:
        size: (batch, height, width).
        differences: name of a result -> its largest difference, divided by max(1, its largest value).
        flips: name of a scan -> number of tokens with another place in its order; scans with none are left out.
        tokens: number of tokens of all orders that were compared.
        blocks: name of a block -> largest difference of its result, divided by its largest value.
        error: why the file gave no result, or wrong shapes; None if it gave results.
    """

    size: tuple
    differences: dict = field(default_factory=dict)
    flips: dict = field(default_factory=dict)
    tokens: int = 0
    blocks: dict = field(default_factory=dict)
    error: str | None = None

    @property
    def problem(self):
        """What is wrong, or None."""
        if self.error:
            return self.error
        limit = LIMIT_WITH_FLIPS if self.flips else LIMIT
        # not `x > limit`: NaN must not pass
        for name, difference in self.differences.items():
            if not difference <= limit:
                return f'{name} differs by {difference:.1e}, the limit is {limit:.0e}' + self._with_flips()
        for name, difference in self.blocks.items():
            if not self.flips and not difference <= LIMIT_OF_BLOCK:
                return f'the block {name} differs by {difference:.1e} of its size, the limit is {LIMIT_OF_BLOCK:.0e}'
        return None

    def _with_flips(self):
        return f' with {sum(self.flips.values())} flipped tokens' if self.flips else ''


@dataclass
class Verification:
    """All comparisons of a file with its network.

    Args:
        comparisons: a list of :class:`Comparison`.
        learned_orders: whether the network has orders that depend on the image.
    """

    comparisons: list
    learned_orders: bool

    @property
    def problems(self):
        """What is wrong, a list of lines; empty if the file may be used."""
        lines = [f'{_text(c.size)}: {c.problem}' for c in self.comparisons if c.problem]
        if not self.comparisons:
            lines.append('nothing was compared')
        if self.learned_orders and all(c.flips for c in self.comparisons if not c.error):
            lines.append('each comparison has flipped tokens: the file sorts otherwise than the network')
        return lines

    @property
    def flips(self):
        """The number of flipped tokens of all comparisons."""
        return sum(sum(c.flips.values()) for c in self.comparisons)

    def table(self):
        """Return the comparisons as lines of text."""
        lines = [f'{"batch x height x width":24} {"largest difference":34} flipped tokens']
        for c in self.comparisons:
            found = ', '.join(f'{name} {value:.1e}' for name, value in c.differences.items()) or '-'
            flips = ', '.join(f'{name}: {count}' for name, count in c.flips.items())
            lines.append(f'{_text(c.size):24} {found:34} {flips or 0} of {c.tokens}')
        return '\n'.join(lines)


class OnnxFile:
    """An ONNX file in onnxruntime, on the CPU.

    Args:
        path: of the file.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
    """

    def __init__(self, path):
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise ImportError(f"{error}. The check needs more packages: pip install 'mmdefmamba[export]'") from error
        model = onnx.load(path)
        self.names = [value.name for value in model.graph.output]
        entries = {entry.key: entry.value for entry in model.metadata_props}
        self.checked = json.loads(entries.get(CHECKED_VALUES, '{"orders": {}, "blocks": {}}'))
        for name in {*self.checked['orders'].values(), *self.checked['blocks'].values()} - {*self.names}:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, ['CPUExecutionProvider'])

    def run(self, images):
        """Return (results by name, orders by scan, results of blocks by block) for images, all as tensors."""
        names = [*self.names, *self.checked['orders'].values(), *self.checked['blocks'].values()]
        names = list(dict.fromkeys(names))
        values = self.session.run(names, {'images': images.numpy()})
        values = dict(zip(names, map(torch.from_numpy, values), strict=True))
        return (
            {name: values[name] for name in self.names},
            *({module: values[name] for module, name in self.checked[kind].items()} for kind in ('orders', 'blocks')),
        )


class ProgramFile:
    """A ``.pt2`` file, loaded with torch.export.

    Args:
        path: of the file.
    """

    def __init__(self, path):
        texts = {'names': ''}
        with open(path, 'rb') as file:
            self.module = torch.export.load(file, extra_files=texts).module()
        self.names = json.loads(texts['names'])

    def run(self, images):
        """As :meth:`OnnxFile.run`."""
        walk = _Recorder(self.module)
        with torch.no_grad():
            results = walk.run(images)
        return dict(zip(self.names, results, strict=True)), walk.orders, walk.blocks


class _Recorder(torch.fx.Interpreter):
    """Runs a graph, and keeps the orders of its scans and the results of its blocks."""

    def __init__(self, module):
        super().__init__(module)
        self.orders, self.blocks = {}, {}

    def run_node(self, node):
        result = super().run_node(node)
        for name, _ in node.meta.get('nn_module_stack', {}).values():
            name = name.removeprefix("L['self'].")
            parts = name.split('.')
            if parts[-2:-1] == ['scans'] and node.target is torch.ops.mmdefmamba.argsort.default:
                self.orders[name] = result
            if parts[-1] == 'dssm' and isinstance(result, torch.Tensor):
                self.blocks[name] = result
        return result


class _Network:
    """The network itself, with its orders and the results of its blocks."""

    def __init__(self, network):
        self.network = network

    def run(self, images):
        orders, blocks, handles = {}, {}, []

        def keep(name, kept):
            def hook(module, args, result):
                if kept is blocks:
                    kept[name] = result
                elif result[1] is not None and result[1].order.ndim == 2:
                    kept[name] = result[1].order

            return hook

        try:
            for name, module in self.network.named_modules():
                if isinstance(module, Scan):
                    handles.append(module.register_forward_hook(keep(name, orders)))
                elif name.endswith('.dssm'):
                    handles.append(module.register_forward_hook(keep(name, blocks)))
            with torch.no_grad():
                results = self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        return results, orders, blocks


def random_images(size, channels, raw=False, seed=0):
    """Return images for a comparison: smooth shapes and noise, so that keys of all distances occur.

    Args:
        size: (batch, height, width).
        channels: of the images.
        raw: 0 to 255 instead of about -2 to 2.
        seed: of the random numbers.

    Returns:
        (batch, channels, height, width), float32.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, height, width = size
    coarse = torch.randn(batch, channels, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode='bilinear', align_corners=True)
    images = smooth + 0.3 * torch.randn(batch, channels, height, width, generator=generator)
    return ((images + 2.5) * 51).clamp(0, 255).round() if raw else images


def verify(file, network, sizes, raw=False, report=lambda line: None):
    """Compare a file with its network.

    Args:
        file: an :class:`OnnxFile` or a :class:`ProgramFile`.
        network: the :class:`~.graph.ExportedPart` that was exported.
        sizes: list of (batch, height, width); see ``SIZES``.
        raw: whether the images are raw, see :func:`random_images`.
        report: takes a line of text after each comparison.

    Returns:
        The :class:`Verification`.

    Raises:
        RuntimeError, ValueError: the network itself cannot take images of a size.
    """
    comparisons, learned_orders = [], False
    eager = _Network(network)
    for seed, size in enumerate(sizes):
        images = random_images(size, network.channels, raw, seed)
        expected = eager.run(images)
        learned_orders = learned_orders or bool(expected[1])
        try:
            actual = file.run(images)
        except Exception as error:  # onnxruntime has classes of its own; whatever it is, the file gives no result
            comparison = Comparison(tuple(size), error=f'the file does not run: {str(error).splitlines()[0][:300]}')
        else:
            comparison = compare(tuple(size), expected, actual)
        comparisons.append(comparison)
        report(f'{_text(size)}: {comparison.problem or "equal"}')
    return Verification(comparisons, learned_orders)


def compare(size, expected, actual):
    """Return the :class:`Comparison` of what the network and the file gave, as :meth:`OnnxFile.run` returns it."""
    results, orders, blocks = expected
    file_results, file_orders, file_blocks = actual
    comparison = Comparison(size)
    if len(results) != len(file_results):
        comparison.error = f'the file has {len(file_results)} results, the network {len(results)}'
        return comparison
    for (name, found), wanted in zip(file_results.items(), results, strict=True):
        if found.shape != wanted.shape:
            comparison.error = f'{name} is {tuple(found.shape)} in the file and {tuple(wanted.shape)} in the network'
            return comparison
        if not wanted.isfinite().all():
            comparison.error = f'{name} of the network itself is not finite: check the weights'
            return comparison
        comparison.differences[name] = _difference(found, wanted, at_least=1)
    missing = sorted(({*orders} - {*file_orders}) | ({*blocks} - {*file_blocks}))
    if missing:
        comparison.error = f'the file does not say where {missing[0]} is computed, so that it cannot be checked'
        return comparison
    for name, order in orders.items():
        comparison.tokens += order.numel()
        if file_orders[name].shape != order.shape:
            comparison.error = f'the order {name} has another number of tokens in the file'
            return comparison
        if not torch.equal(file_orders[name].sort().values, torch.arange(order.shape[1]).expand_as(order)):
            comparison.error = f'the order {name} of the file is not a permutation'
            return comparison
        flipped = int((file_orders[name] != order).sum())
        if flipped:
            comparison.flips[name] = flipped
    for name, block in blocks.items():
        comparison.blocks[name] = _difference(file_blocks[name].reshape(block.shape), block)
    return comparison


def _difference(found, wanted, at_least=1e-30):
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=at_least))


def _text(size):
    return ' x '.join(map(str, size))
