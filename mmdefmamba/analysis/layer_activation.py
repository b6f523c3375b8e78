"""Activation maps of a layer of any network, by gradients (DefMamba, figure 4, for the methods that it compares)."""

import math
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..names import unknown_name
from .activation import activation_map, place_of_token
from .modes import evaluating

LAYOUTS = ('channels_first', 'channels_last')
# Stands in the arguments of a layer in the place of its input.
_INPUT = object()


@dataclass(frozen=True, eq=False)
class ActivationMaps:
    """Activation maps of several tokens.

    Args:
        label: the layer or block, as the title of a figure.
        tokens: T pairs (row, column), counted from 0.
        map_size: (H, W) of the map that the tokens lie on, which is the layer's output.
        maps: (T, H_in, W_in), not negative, on the CPU: the influence of each place of the layer's input. H_in and W_in
            differ from H and W only for a layer that changes the size of the map.
    """

    label: str
    tokens: tuple
    map_size: tuple
    maps: torch.Tensor


def activation_maps(trace, tokens=None, image=0, scan=None):
    """Compute :func:`activation_map` for several tokens of a block of DefMamba.

    Args:
        trace, image, scan: as for :func:`activation_map`.
        tokens: pairs (row, column); negative numbers count from the end. None takes the middle of the map.

    Returns:
        :class:`ActivationMaps`.

    Raises:
        ValueError: as :func:`activation_map`, or there is no token.
    """
    places = _places(tokens, trace.map_size)
    tokens = tuple(divmod(place, trace.map_size[1]) for place in places)
    maps = torch.stack([activation_map(trace, token, image, scan) for token in tokens])
    return ActivationMaps(trace.label, tokens, tuple(trace.map_size), maps)


def layer_activation_maps(model, inputs, layer, tokens=None, layout=None, map_size=None):
    """Compute, for a layer of any network, how much each place of its input changes the result of some tokens.

    For a layer y = f(x), the map of token t is

        map(s) = 1 / C_out  sum over c, c' of  |d y_t[c] / d x_s[c']|

    For a layer whose channels do not mix this is the mean over channels that :func:`activation_map` computes; for a
    selective scan with its time steps, B and C held constant the two are equal. The difference: here everything that
    the layer computes from x has a gradient, also time steps, B and C, or the weights of an attention. A skip
    connection inside of the layer adds a bright spot at t; the layer that mixes tokens, without the skip, has none.

    The backbone runs once without gradients. Then only the layer runs again, and each channel of each token needs a
    backward pass through it.

    Args:
        model: any module. If it has a ``backbone`` that contains the layer, only the backbone runs.
        inputs: one preprocessed image, (1, channels, height, width), float.
        layer: the name of the layer in ``model.named_modules()``, such as ``'backbone.stages.1.blocks.1.attn'``; ''
            is the model itself. Its input is its first argument that is a tensor. Its output must be one tensor, or
            contain exactly one.
        tokens: pairs (row, column) on the map of the layer's output; negative numbers count from the end. None takes
            the middle.
        layout: 'channels_first' (1, C, H, W) or 'channels_last' (1, H, W, C), for maps of four dimensions. None takes
            the one that is the image divided by a whole stride, up to rounding, if the other one is not.
        map_size: (H, W), for layers on sequences (1, H * W, C). None takes a pair of integers among the layer's
            arguments, as Swin's blocks have, or else the only size that is the image divided by a whole stride.

    Returns:
        :class:`ActivationMaps`, with the dtype of the layer's input.

    Raises:
        ValueError: there is not exactly one image, the model has no such layer, the layer does not run exactly once,
            its input or output is no map of tokens, which size it has is not certain, a token lies outside of it, or
            the output has no gradient.
    """
    if inputs.ndim != 4 or len(inputs) != 1:
        raise ValueError(f'inputs must be one image, (1, channels, height, width), got {tuple(inputs.shape)}')
    if layout not in (None, *LAYOUTS):
        raise ValueError(f'layout must be one of {list(LAYOUTS)} or None, got {layout!r}')
    module = find_layer(model, layer)
    label = layer or type(model).__name__
    with evaluating(model), _without_recomputation(module):
        x, args, kwargs = _call_of(model, module, inputs, label)
        sizes = dict(image_size=tuple(inputs.shape[-2:]), hints=_pairs(args, kwargs), layout=layout, map_size=map_size)
        source = _Map(x, f'the input of {label}', **sizes)
        leaf = x.requires_grad_()
        with torch.enable_grad():
            copy = leaf.clone()  # a layer may change its input in place
            args = [copy if value is _INPUT else value for value in args]
            output = module(*args, **{name: copy if value is _INPUT else value for name, value in kwargs.items()})
        output = _only_tensor(output, label)
        target = _Map(output, f'the output of {label}', **sizes)
        places = _places(tokens, target.size)
        if not output.requires_grad:
            raise ValueError(f'the output of {label} has no gradient with respect to its input: name another layer')
        maps = [_influence(target.token(place), leaf, source, label) for place in places]
    tokens = tuple(divmod(place, target.size[1]) for place in places)
    return ActivationMaps(label, tokens, target.size, torch.stack(maps).cpu())


def find_layer(model, name):
    """Return the module of a model with this name.

    Raises:
        ValueError: there is none.
    """
    modules = dict(model.named_modules())
    if name not in modules:
        remedy = 'The names are those of model.named_modules()'
        examples = mixing_blocks(model)
        remedy += f', for example {", ".join(examples)}' if examples else ''
        raise ValueError(unknown_name(f'{type(model).__name__} has no layer {name!r}', name, list(modules), remedy))
    return modules[name]


def mixing_blocks(model):
    """Return the names of the last block of each stage: of each list of modules whose classes are named Block."""
    return [
        f'{name}.{len(module) - 1}'
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
        and len(module)
        and all('Block' in type(child).__name__ for child in module)
        and not any('Sequence' in type(child).__name__ for child in module)
    ]


class _Map:
    """A tensor of one image that holds a map of tokens.

    Args:
        x: the tensor.
        what: what errors call it.
        image_size, hints, layout, map_size: what says how the map lies in the tensor.
    """

    def __init__(self, x, what, image_size, hints, layout, map_size):
        shape = tuple(x.shape)
        if x.ndim not in (3, 4) or len(x) != 1 or not x.is_floating_point():
            raise ValueError(
                f'{what} is no map of one image: it has the shape {shape} and {x.dtype}, expected (1, C, H, W), '
                '(1, H, W, C) or (1, H * W, C) and floats. Name a layer that contains this one'
            )
        if x.ndim == 4:
            found = {'channels_first': shape[2:], 'channels_last': shape[1:3]}
            found = {kind: size for kind, size in found.items() if layout in (None, kind)}
            options = found if layout else _fitting(found, image_size)
            remedy = f'give its layout, one of {list(LAYOUTS)}'
        else:
            options = _sizes_of_sequence(shape, hints, map_size, what, image_size)
            remedy = 'give its map_size, (H, W), with H * W tokens; class tokens are no part of a map'
        if len(options) != 1:
            found = f'several sizes are possible: {sorted(options.values())}' if options else 'no size fits'
            raise ValueError(
                f'{what} has the shape {shape}, and for an image of {image_size[0]} x {image_size[1]} {found}. If it '
                f'is a map, {remedy}'
            )
        ((kind, size),) = options.items()
        if x.ndim == 3 and size[0] * size[1] != shape[1]:
            raise ValueError(
                f'{what} has the shape {shape}, expected (1, H * W, C): name a layer that contains this one'
            )
        self.size, self._tokens_last = tuple(size), kind == 'channels_first'
        self._x = x

    def token(self, place):
        """Return the channels of a place, (C,)."""
        x = self._x.flatten(2)[0].T if self._tokens_last else self._x.reshape(-1, self._x.shape[-1])
        return x[place]

    def over_channels(self, gradient):
        """Sum the magnitudes of a gradient of the tensor over channels, (H, W)."""
        return gradient[0].abs().sum(0 if self._tokens_last else -1).view(self.size)


def _influence(result_C, leaf, source, label):
    total = leaf.new_zeros(source.size)
    for value in result_C:
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ValueError(f'the output of {label} does not depend on its input: name another layer')
        total += source.over_channels(gradient)
    return total / len(result_C)


def _places(tokens, map_size):
    tokens = [tuple(side // 2 for side in map_size)] if tokens is None else list(tokens)
    if not tokens or not all(hasattr(token, '__len__') for token in tokens):
        raise ValueError(f'tokens must be pairs (row, column), at least one, got {tokens}')
    return [place_of_token(token, map_size) for token in tokens]


def _call_of(model, module, inputs, label):
    """Run the model, and return the input of a module, its positional and its named arguments.

    In the arguments, ``_INPUT`` stands in the place of the input.
    """
    calls = []

    def see(_, args, kwargs):
        # a later layer may change the tensor in place
        named = [*enumerate(args), *kwargs.items()]
        key = next((key for key, value in named if isinstance(value, torch.Tensor)), None)
        x = None if key is None else dict(named)[key].detach().clone()
        args = tuple(_INPUT if i == key else value for i, value in enumerate(args))
        calls.append((x, args, {name: _INPUT if name == key else value for name, value in kwargs.items()}))

    run = model
    if _contains(model, 'backbone', module):
        run = model.backbone
    elif _contains(model, 'neck', module) and hasattr(model, 'extract_feat'):
        run = model.extract_feat  # a detector's whole forward needs annotations
    hook = module.register_forward_pre_hook(see, with_kwargs=True)
    try:
        with torch.no_grad():
            run(inputs)
    finally:
        hook.remove()
    if len(calls) != 1:
        raise ValueError(
            f'{label} ({type(module).__name__}) ran {len(calls)} times for one image, expected once: name a layer that '
            'contains it, or one in it'
        )
    if calls[0][0] is None:
        raise ValueError(f'{label} ({type(module).__name__}) has no tensor among its arguments: name another layer')
    return calls[0]


def _contains(model, name, module):
    part = getattr(model, name, None)
    return isinstance(part, nn.Module) and any(module is inner for inner in part.modules())


def _pairs(args, kwargs):
    """Return the pairs of integers among the arguments of a layer."""
    values = [*args, *kwargs.values()]
    return [tuple(v) for v in values if isinstance(v, (tuple, list)) and len(v) == 2 and all(type(i) is int for i in v)]


def _only_tensor(output, label):
    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output
    tensors = [x for x in values if isinstance(x, torch.Tensor)] if isinstance(output, (tuple, list, dict)) else []
    if len(tensors) != 1:
        raise ValueError(
            f'{label} must return one tensor, it returns {type(output).__name__} with {len(tensors)} tensors: name a '
            'layer that returns one'
        )
    return tensors[0]


def _sizes_of_sequence(shape, hints, map_size, what, image_size):
    """Return the sizes by name that the map of a sequence of tokens, (1, L, C), may have."""
    length = shape[1]
    if map_size is not None:
        if len(map_size) != 2 or min(map_size) < 1 or map_size[0] * map_size[1] != length:
            raise ValueError(f'map_size must be (H, W) with H * W = {length}, for {what}, got {tuple(map_size)}')
        return {'given': tuple(map_size)}
    given = {size: size for size in hints if size[0] * size[1] == length}
    # a sequence may also lie as (1, C, L): it is certain only if one of the two can be a map
    return given or {
        (dim, size): size
        for dim in (1, 2)
        for size in _fitting({(n, shape[dim] // n): (n, shape[dim] // n) for n in _divisors(shape[dim])}, image_size)
    }


def _divisors(number):
    return [n for n in range(1, number + 1) if number % n == 0]


def _fitting(sizes, image_size):
    """Return those of some sizes by name that are the image's divided by one whole stride, up to rounding."""
    (height, width), fitting = image_size, {}
    for name, (rows, columns) in sizes.items():
        # the strides between low and high have |rows - height / stride| < 1, and the same for columns
        low = max(height / (rows + 1), width / (columns + 1))
        high = min(
            side / (n - 1) if n > 1 else float('inf') for side, n in zip(image_size, (rows, columns), strict=True)
        )
        if math.floor(low) + 1 < high:
            fitting[name] = (rows, columns)
    return fitting


@contextmanager
def _without_recomputation(layer):
    """Within the block no layer recomputes activations (``with_cp``), which ``torch.autograd.grad`` cannot follow."""
    recomputing = [module for module in layer.modules() if getattr(module, 'with_cp', False) is True]
    for module in recomputing:
        module.with_cp = False
    try:
        yield
    finally:
        for module in recomputing:
            module.with_cp = True
