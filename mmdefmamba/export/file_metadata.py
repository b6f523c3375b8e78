"""The description of a model inside an exported file: how images are prepared, and what the outputs mean."""

import json

from ..checkpoints.contents import brief, check_contents
from ..config_tree import innermost_dataset, library_of, type_name
from ..files import shorten, shown
from ..version import __version__

#: The key of the description in the file's metadata; the value is a JSON object.
KEY = 'mmdefmamba'
FORMAT = 1
#: The largest size in a description, in pixels. A larger image would fill the memory.
MAX_SIDE = 4096
TASKS = {'mmpretrain': 'classification', 'mmdet': 'detection', 'mmseg': 'segmentation'}
#: The keys that every description has.
KEYS = {
    *('task', 'part', 'preprocessing', 'shape', 'batch', 'classes', 'palette', 'mean', 'std', 'to_rgb', 'pipeline'),
    *('preprocessor', 'outputs'),
}
#: Steps of a test pipeline that a description may contain, with their arguments. A step is built from what the file
#: says, so nothing else is accepted: a file must not be able to name code to run.
STEPS = {
    'LoadImageFromFile': {'to_float32', 'color_type', 'imdecode_backend'},
    'Resize': {'scale', 'scale_factor', 'keep_ratio', 'clip_object_border', 'backend', 'interpolation'},
    'ResizeEdge': {'scale', 'edge', 'backend', 'interpolation'},
    'ResizeToMultiple': {'size_divisor', 'interpolation'},
    'CenterCrop': {
        *('crop_size', 'auto_pad', 'pad_val', 'pad_cfg', 'clip_object_border'),
        *('efficientnet_style', 'crop_padding', 'interpolation', 'backend'),
    },
    'Pad': {'size', 'size_divisor', 'pad_to_square', 'pad_val', 'padding_mode'},
}
# Steps that are left out of a description: the runtime packs the image itself, and there are no annotations.
_PACKS = {'PackInputs', 'PackSegInputs', 'PackDetInputs', 'LoadAnnotations'}
# Arguments that change no pixel, or only where a file is read from.
_LEFT_OUT = {'type', '_scope_', 'backend_args', 'file_client_args', 'ignore_empty'}
# The data preprocessors that are described, with the keys that move pixels.
_PREPROCESSOR = {
    'ClsDataPreprocessor': ('pad_size_divisor', 'pad_value'),
    'SegDataPreProcessor': ('pad_val', 'test_cfg'),
}


def describe_model(cfg, model, *, part, preprocessing, shape=None, batch=None):
    """Describe a model for the metadata of its exported file.

    Args:
        cfg: the Config of the model.
        model: the model, from :func:`~mmdefmamba.get_model`.
        part: 'model' or 'backbone'.
        preprocessing: whether the file normalises its input itself.
        shape: (height, width) if the file takes images of this size alone, or None.
        batch: the number of images if the file takes this number alone, or None.

    Returns:
        A JSON object as text, for the key ``KEY``.
    """
    preprocessor = model.data_preprocessor
    meta = getattr(model, 'dataset_meta', None) or {}
    mean, std = (_numbers(getattr(preprocessor, name, None)) for name in ('mean', 'std'))
    pipeline, reason = _pipeline(cfg)
    kind = type(preprocessor).__name__
    if kind not in _PREPROCESSOR:
        pipeline, reason = None, f'the data preprocessor is a {kind}, and only {", ".join(_PREPROCESSOR)} are described'
    described = {
        'format': FORMAT,
        'version': __version__,
        'config': (cfg.filename or '').replace('\\', '/').rpartition('/')[2] or None,
        'task': TASKS[library_of(cfg)],
        'part': part,
        'preprocessing': bool(preprocessing),
        'shape': None if shape is None else [int(side) for side in shape],
        'batch': None if batch is None else int(batch),
        'classes': None if meta.get('classes') is None else list(meta['classes']),
        'palette': None if meta.get('palette') is None else [[int(c) for c in colour] for colour in meta['palette']],
        'mean': mean,
        'std': std,
        'to_rgb': bool(_turns_colours(preprocessor)),
        'pipeline': pipeline,
        'pipeline_reason': reason,
        'preprocessor': {name: _plain(getattr(preprocessor, name)) for name in _PREPROCESSOR.get(kind, ())},
        'outputs': _outputs(model, TASKS[library_of(cfg)]) if part == 'model' else None,
    }
    return json.dumps(described)


def read_description(text, file):
    """Return the description in a file's metadata as a dict, checked.

    Args:
        text: the value of ``KEY``, or None if the metadata do not have it.
        file: the path of the file, for messages.

    Raises:
        ValueError: there is no description, or it is not one that this version understands.
    """
    if text is None:
        raise ValueError(
            f'{shown(file)} does not say what it predicts: its metadata have no key {KEY!r}. Take a file that '
            'tools/export.py '
            'wrote, and do not remove its metadata'
        )
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{shown(file)}: the key {KEY!r} of its metadata is damaged ({shorten(error)}). Export it again'
        ) from error
    if not isinstance(described, dict) or described.get('format') != FORMAT:
        found = described.get('format') if isinstance(described, dict) else described
        raise ValueError(
            f'{shown(file)}: its description has as format {brief(found)}, this version of mmdefmamba reads format '
            f'{FORMAT}. Export it again with this version'
        )
    missing = KEYS - described.keys()
    if missing:
        raise ValueError(f'{shown(file)}: its description lacks {", ".join(sorted(missing))}. Export it again')
    for key, (is_right, wanted) in _KINDS.items():
        if described[key] is not None and not is_right(described[key]):
            raise ValueError(
                f'{shown(file)}: its description has {brief(described[key])} as {key!r}, which must be {wanted}. It '
                'was not written by tools/export.py of this version'
            )
    if described['mean'] is not None and len(described['mean']) != len(described['std'] or ()):
        raise ValueError(f"{shown(file)}: 'mean' and 'std' in its description differ in length. Export it again")
    check_contents({'meta': {'dataset_meta': {key: described[key] for key in ('classes', 'palette')}}}, file)
    _check_outputs(described, file)
    for step in described['pipeline'] or []:
        _check_step(step, file)
    return described


def _check_outputs(described, file):
    """Check what the description says about how logits become predictions."""
    outputs = described['outputs'] or {}
    wrong = next((key for key, value in outputs.items() if not _OUTPUTS.get(key, lambda value: False)(value)), None)
    keys = {'classification': {'activation'}, 'segmentation': _OUTPUTS.keys() - {'activation'}}.get(described['task'])
    what = None
    if wrong is not None:
        what = f'{brief(outputs[wrong])} as {brief(wrong)} of its outputs'
    elif outputs and keys and outputs.keys() != keys:
        what = 'outputs of another task'
    if what:
        raise ValueError(
            f'{shown(file)}: its description has {what}. It was not written by tools/export.py of this version'
        )


def _is_whole(value, largest=MAX_SIDE):
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= largest


def _are_numbers(value):
    numbers = isinstance(value, list) and all(isinstance(one, (int, float)) for one in value)
    return numbers and all(abs(one) < 1e9 for one in value)  # not NaN either


def _is_test_cfg(value):
    """Return whether a value says that a segmentor sees images whole, or in which windows."""
    if not isinstance(value, dict) or value.get('mode', 'whole') not in ('whole', 'slide'):
        return False
    sizes = [value[key] for key in ('crop_size', 'stride') if key in value]
    right = all(isinstance(size, list) and len(size) == 2 and all(map(_is_whole, size)) for size in sizes)
    return right and (value.get('mode') != 'slide' or len(sizes) == 2)


#: What each entry must be, where it is not None, as a function and in words.
_KINDS = {
    'task': (lambda value: value in TASKS.values(), f'one of {", ".join(TASKS.values())}'),
    'part': (lambda value: value in ('model', 'backbone'), 'model or backbone'),
    'preprocessing': (lambda value: isinstance(value, bool), 'true or false'),
    'to_rgb': (lambda value: isinstance(value, bool), 'true or false'),
    'shape': (
        lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_whole, value)),
        f'a height and a width from 1 to {MAX_SIDE}',
    ),
    'batch': (_is_whole, f'a whole number from 1 to {MAX_SIDE}'),
    'mean': (_are_numbers, 'a list of numbers'),
    'std': (lambda value: _are_numbers(value) and all(value), 'a list of numbers other than 0'),
    'pipeline': (lambda value: isinstance(value, list) and len(value) <= 100, 'a list of at most 100 steps'),
    'preprocessor': (
        lambda value: (
            isinstance(value, dict)
            and any(value.keys() <= {*keys} for keys in _PREPROCESSOR.values())
            and all(map(_is_plain, value.values()))
        ),
        'the settings of a data preprocessor',
    ),
    'outputs': (lambda value: isinstance(value, dict), 'how logits become predictions'),
}
_OUTPUTS = {
    'activation': lambda value: value == 'softmax',
    'align_corners': lambda value: isinstance(value, bool),
    'channels': lambda value: _is_whole(value, 2**16),
    'num_classes': lambda value: _is_whole(value, 2**16),
    'threshold': lambda value: value is None or _are_numbers([value]),
    'test_cfg': _is_test_cfg,
}


def _pipeline(cfg):
    """Return the steps of the test pipeline as plain dicts and None, or None and why they cannot be described."""
    loader = cfg.get('test_dataloader')
    if not loader:
        return None, 'the config has no test_dataloader'
    described = []
    for step in innermost_dataset(loader.dataset).pipeline:
        kind = type_name(step)
        if kind in _PACKS:
            continue
        scope = step.get('_scope_', library_of(cfg))
        if scope != library_of(cfg):
            return None, f'the test pipeline of the config has {kind} of {scope}, which is another library'
        step = {'type': kind, **{key: _plain(value) for key, value in step.items() if key not in _LEFT_OUT}}
        wrong = _wrong_in_step(step)
        if wrong:
            return None, f'the test pipeline of the config has {wrong}'
        described.append(step)
    return described, None


def _wrong_in_step(step):
    """Return what a description may not contain, or None."""
    kind = step.get('type') if isinstance(step, dict) else step
    if not isinstance(kind, str) or kind not in STEPS:
        return f'the step {kind}, and only {", ".join(STEPS)} are described'
    unknown = step.keys() - STEPS[kind] - {'type'}
    if unknown:
        return f'{kind} with the argument {sorted(unknown)[0]}, and only {", ".join(sorted(STEPS[kind]))} are described'
    return next((f'{kind} with {key}={brief(value)}' for key, value in step.items() if not _is_plain(value)), None)


def _check_step(step, file):
    wrong = _wrong_in_step(step)
    if wrong:
        raise ValueError(
            f'{shown(file)}: its description has {wrong}. It was not written by tools/export.py of this version'
        )


def _is_plain(value):
    if isinstance(value, dict):
        return 'type' not in value and all(_is_plain(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, (int, float)):
        return abs(value) <= MAX_SIDE  # not NaN either
    return value is None or isinstance(value, str)


def _plain(value):
    """Return a value of a config with lists in place of tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _numbers(tensor):
    return None if tensor is None else tensor.flatten().tolist()


def _turns_colours(preprocessor):
    return any(getattr(preprocessor, name, False) for name in ('to_rgb', '_channel_conversion', 'channel_conversion'))


def _outputs(model, task):
    """Return how logits become a prediction, or None if the runtime does not know it."""
    if task == 'classification':
        head = type(getattr(model, 'head', None))
        kind = next((base for base in head.__mro__ if '_get_predictions' in vars(base)), None)
        return {'activation': 'softmax'} if kind is not None and kind.__name__ == 'ClsHead' else None
    if task == 'segmentation' and hasattr(model, 'encode_decode'):
        heads = model.decode_head
        last = heads[-1] if hasattr(heads, '__getitem__') else heads
        return {
            'align_corners': bool(model.align_corners),
            'channels': int(model.out_channels),
            'threshold': None if last.threshold is None else float(last.threshold),
            'num_classes': int(model.num_classes),
            'test_cfg': _plain(dict(model.test_cfg or {})),
        }
    return None
