"""A model as one graph: which part of it is exported, and its trace by torch.export."""

import torch
from torch import nn

from ..analysis.trace import image_channels
from ..config_tree import library_of
from ..scans import DeformableScan
from ..scans.fixed_offsets import FixedOffsetScan
from .free_sizes import REMEDY, check_free, sizes_of_mmseg

#: What a graph is traced with: (batch, height, width). All maps then have sides that differ from each other.
SAMPLE = (2, 160, 224)
PARTS = ('model', 'backbone')


class ExportedPart(nn.Module):
    """The part of a model that is exported, as a function of one batch of images.

    Args:
        model: a classifier, segmentor or detector of OpenMMLab's libraries, or a backbone.
        library: 'mmpretrain', 'mmseg' or 'mmdet'; only for the part 'model'.
        part: 'model' or 'backbone'.
        preprocessing: whether the images are raw RGB, 0 to 255, and the graph normalises them as the model's data
            preprocessor does.

    Attributes:
        channels: of the images.
        output_names: ('logits',) of a classifier or segmentor, else None: maps are named when they have been computed.

    Raises:
        ValueError: the part is unknown, the library has no part 'model', or the model has no logits.
    """

    def __init__(self, model, library=None, part='model', preprocessing=False):
        super().__init__()
        if part not in PARTS:
            raise ValueError(f'part must be one of {PARTS}, got {part!r}')
        if part == 'model' and library not in ('mmpretrain', 'mmseg', 'mmdet'):
            raise ValueError(f"the part 'model' needs a model of mmpretrain, mmseg or mmdet, got {library!r}")
        if part == 'model' and library == 'mmpretrain' and not (hasattr(model, 'predict') and model.with_head):
            kind = type(model).__name__
            raise ValueError(
                f'{kind} gives no logits: it is a model for pretraining. Export its backbone, --part backbone'
            )
        self.library = library if part == 'model' else None
        self.network = model if part == 'model' else getattr(model, 'backbone', model)
        self.channels = image_channels(model)
        self.output_names = ('logits',) if self.library in ('mmpretrain', 'mmseg') else None
        self.bgr, mean, std = False, None, None
        if preprocessing:
            self.bgr, mean, std = _normalisation(model)
        self.register_buffer('mean', mean, persistent=False)
        self.register_buffer('std', std, persistent=False)

    def forward(self, images):
        """Return the results as a tuple of tensors.

        Args:
            images: (batch, channels, height, width), float32: normalised, or raw RGB from 0 to 255 with preprocessing.

        Returns:
            (logits,): (batch, classes) of a classifier, (batch, classes, height, width) of a segmentor. Of a detector
            the maps of backbone and neck, and of a backbone its maps.
        """
        if self.bgr:
            images = images.flip(1)
        if self.mean is not None:
            images = (images - self.mean) / self.std
        if self.library == 'mmpretrain':
            results = self.network(images, mode='tensor')
        elif self.library == 'mmseg':
            size = images.shape[-2:]
            results = self.network.encode_decode(images, [dict(img_shape=size, pad_shape=size, ori_shape=size)])
        elif self.library == 'mmdet':
            results = self.network.extract_feat(images)
        else:
            results = self.network(images)
        results = (results,) if isinstance(results, torch.Tensor) else tuple(results)
        if not all(isinstance(x, torch.Tensor) for x in results):
            kinds = ', '.join(type(x).__name__ for x in results)
            raise ValueError(f'this model returns {kinds}, which are not tensors: export its backbone, --part backbone')
        return results


def exported_part(cfg, model, part='model', preprocessing=False):
    """Return the :class:`ExportedPart` of a model of a config, in evaluation mode.

    Raises:
        ValueError: the part is unknown, or parameters are not float32.
    """
    network = ExportedPart(model, library_of(cfg), part, preprocessing).eval()
    check_dtypes(network)
    return network


def check_dtypes(network):
    """Refuse parameters and buffers of floating dtypes other than float32.

    Raises:
        ValueError: there is one; the message names it.
    """
    for name, x in [*network.named_parameters(), *network.named_buffers()]:
        if x.is_floating_point() and x.dtype != torch.float32:
            raise ValueError(f'{name} has dtype {x.dtype}; only float32 is exported: model.float()')


def check_scans(network):
    """Refuse scans that no file can contain, before the work begins.

    Raises:
        ValueError: there is one; the message says why.
    """
    for name, scan in network.named_modules():
        if isinstance(scan, FixedOffsetScan) and scan.fixed == 'random':
            raise ValueError(
                f"{name} is the scan 'deformable_fixed' with offsets='random', which cannot be exported: its offsets "
                "are drawn for each size anew. Export a network with offsets='zero' or with learned offsets"
            )
        for option in ('key_dtype', 'point_dtype'):
            if getattr(scan, option, None) is not None and isinstance(scan, DeformableScan):
                raise ValueError(
                    f"{name} has {option}='float16', which cannot be exported: runtimes do not round each step to "
                    f"float16 as PyTorch does. Set {option}='float32' in the config; the results are then those of "
                    f"this network with {option}='float32'"
                )


def _normalisation(model):
    """Return what a data preprocessor does with colours: whether the network takes BGR, mean and std, (channels, 1, 1).

    Mean and std are None if it does not normalise.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    mean, std = (getattr(preprocessor, name, None) for name in ('mean', 'std'))
    converts = getattr(preprocessor, 'to_rgb', None) or getattr(preprocessor, '_channel_conversion', False)
    converts = converts or getattr(preprocessor, 'channel_conversion', False)
    # images are read as BGR, and a preprocessor that does not convert them leaves them so
    bgr = image_channels(model) == 3 and not converts
    if mean is None or std is None:
        return bgr, None, None
    return bgr, mean.detach().clone().float().view(-1, 1, 1), std.detach().clone().float().view(-1, 1, 1)


def trace(network, shape=None, batch=None):
    """Trace a network with torch.export.

    Args:
        network: an :class:`ExportedPart`, or any module of one batch of images with an attribute ``channels``.
        shape: (height, width) for a graph of this size only; None leaves the sizes and the batch free.
        batch: number of images of a graph of one size; 1 by default.

    Returns:
        The torch.export.ExportedProgram.

    Raises:
        ValueError: the network takes a decision that depends on a size that should be free, or has an operation that
            no exported graph can contain; the message has PyTorch's reason.
    """
    from torch.fx.experimental import _config  # here: exporting is rare, and this takes time to import

    check_scans(network)
    size = SAMPLE if shape is None else (batch or 1, *shape)
    images = torch.zeros(size[0], network.channels, *size[1:])
    free = torch.export.Dim.DYNAMIC
    sizes = ({0: free, 2: free, 3: free},) if shape is None else None
    try:
        # backed_size_oblivious: sizes of 0 and 1 are not treated apart; torch.onnx.export traces in the same way
        with torch.no_grad(), _config.patch(backed_size_oblivious=True), sizes_of_mmseg(network):
            program = torch.export.export(network, (images,), dynamic_shapes=sizes, strict=False)
    except ValueError as error:
        if shape is None and 'tools/export.py' not in str(error):
            raise ValueError(f'{_first_lines(error)}\n{REMEDY}') from error
        raise
    except Exception as error:  # PyTorch raises dozens of classes here, and each means that there is no graph
        raise ValueError(f'this network cannot be exported: {_first_lines(error)}' + _remedy(shape)) from error
    return program if shape else _of_any_size(program)


def _remedy(shape):
    return '' if shape else f'\n{REMEDY}'


def _first_lines(error, count=6):
    return '\n'.join(f'{error}'.strip().splitlines()[:count])


def _of_any_size(program):
    """Return a program without PyTorch's own lower bounds of sizes, after a check that the sizes are free.

    PyTorch's model of a convolution asks whether a side of a map is 1, to choose the strides of its result. That makes
    a lower bound of 2 for the batch and for each side. It does not change what the graph computes: the check of the
    exported file (:mod:`.verification`) runs it with one image and with maps of one token.
    """
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.value_ranges import ValueRanges

    placeholder = [node for node in program.graph.nodes if node.op == 'placeholder'][-1]
    sides = [placeholder.meta['val'].shape[axis] for axis in (0, 2, 3)]
    bounds = {str(symbol): interval for symbol, interval in program.range_constraints.items()}
    for name, side in zip(('batch', 'height', 'width'), sides, strict=True):
        if isinstance(side, int) or [str(other) for other in sides].count(str(side)) > 1:
            raise ValueError(f'the network fixes the {name} of its images to {side}. {REMEDY}')
        if str(side) in bounds and bounds[str(side)].upper is not int_oo:
            raise ValueError(f'the {name} of images can only be {bounds[str(side)]} in this network. {REMEDY}')
    check_free(sides)
    program = torch.export.ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints={symbol: ValueRanges(1, int_oo) for symbol in program.range_constraints},
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )
    program._guards_code.clear()  # the same bounds again, as text
    return program


def output_names(network, program):
    """Return the names of the results: 'logits', or 'map0', 'map1' and so on."""
    count = len(next(node for node in program.graph.nodes if node.op == 'output').args[0])
    return network.output_names or tuple(f'map{i}' for i in range(count))
