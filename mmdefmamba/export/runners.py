"""What the check runs: exported files and the network itself. All say which orders and results their blocks have."""

import json
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch

from ..ops import TokenOrder
from ..scans import DeformableScan, Scan
from .onnx_file import CHECKED_VALUES


def import_onnxruntime():
    """Return the module onnxruntime.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{error}. The check needs more packages: pip install 'mmdefmamba[export]'") from error
    return onnxruntime


class OnnxFile:
    """An ONNX file in onnxruntime, on the CPU.

    Args:
        path: of the file.

    Raises:
        ImportError: onnxruntime is not installed.
    """

    def __init__(self, path):
        onnxruntime = import_onnxruntime()
        import onnx

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


class EagerNetwork:
    """The network itself in PyTorch.

    Args:
        network: the :class:`~.graph.ExportedPart`.
    """

    def __init__(self, network):
        self.network = network

    def run(self, images):
        """Return (results, orders by scan, results of blocks by block) for images; results are a tuple."""
        results, found = self._run(images)
        return results, found.orders, found.blocks

    def run_with(self, images, orders, blocks):
        """Run each part of the network with what a file gave for the parts before it.

        Each scan takes its tokens in the order of the file, and what follows a block takes the result that the file has
        for this block. So a rounding error, or two exchanged tokens, cannot grow from block to block, and a difference
        belongs to the part in which it is found.

        Args:
            images: as in :meth:`run`.
            orders: scan -> order, of the file.
            blocks: block -> result, of the file.

        Returns:
            As :meth:`run`; and scan -> how far its keys fall, at most, from one token to the next in the order of the
            file, (keys are ascending if they are sorted), for the deformable scans.
        """
        results, found = self._run(images, _Given(orders, blocks))
        return results, found.orders, found.blocks, found.falls

    def _run(self, images, given=None):
        found, handles = _Found(), []
        try:
            for name, module in self.network.named_modules():
                if isinstance(module, Scan):
                    handles.append(module.register_forward_hook(partial(found.keep_order, name, given)))
                elif name.endswith('.dssm'):
                    handles.append(module.register_forward_hook(partial(found.keep_block, name, given)))
            with torch.no_grad():
                results = self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        return results, found


class _Given(NamedTuple):
    """What a file gave: orders by scan, results by block."""

    orders: dict
    blocks: dict


@dataclass
class _Found:
    """What the hooks of a run find, by the names of the modules; see :meth:`EagerNetwork.run_with`."""

    orders: dict = field(default_factory=dict)
    blocks: dict = field(default_factory=dict)
    falls: dict = field(default_factory=dict)

    def keep_order(self, name, given, scan, args, result):
        x, order = result
        if order is None or order.order.ndim != 2:  # a static scan has one order for all images
            return None
        self.orders[name] = order.order
        if given is None:
            return None
        if isinstance(scan, DeformableScan):
            keys = scan.sort_keys(scan.offsets(args[0])[1]).gather(1, given.orders[name])
            self.falls[name] = float((keys[:, :-1] - keys[:, 1:]).clamp(min=0).max()) if keys.shape[1] > 1 else 0.0
        return x, TokenOrder.from_order(given.orders[name])

    def keep_block(self, name, given, block, args, result):
        self.blocks[name] = result
        return None if given is None else given.blocks[name].reshape(result.shape)
