"""Parameters and FLOPs of the model of a config, for all three tasks, and the text that shows them."""

import inspect
from functools import partial

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData

from ..config_tree import library_of, type_name
from .complexity import complexity
from .trace import image_channels

#: (height, width) of the images for which the paper counts, by library.
PAPER_SHAPES = {'mmpretrain': (224, 224), 'mmdet': (1280, 800), 'mmseg': (512, 2048)}
NUM_PROPOSALS = 1000


def config_complexity(cfg, shape=None):
    """Build the model of a config and count its parameters and FLOPs.

    Args:
        cfg: an MMEngine Config of one of the three config trees.
        shape: (height, width), or a sequence of one number for both; by default the paper's size for the config's
            task.

    Returns:
        The dict of :func:`mmdefmamba.analysis.complexity`, and the (channels, height, width) of the counted image.

    Raises:
        ValueError: ``shape`` does not have one or two numbers, or is missing and the config belongs to
            none of the three libraries.
    """
    scope = library_of(cfg)
    if shape is None:
        if scope not in PAPER_SHAPES:
            raise ValueError(
                f'no default shape for default_scope {cfg.get("default_scope")!r}: give --shape HEIGHT WIDTH'
            )
        shape = PAPER_SHAPES[scope]
    shape = tuple(shape) * 2 if len(shape) == 1 else tuple(shape)
    if len(shape) != 2:
        raise ValueError(f'shape must be one or two numbers, got {shape}')
    init_default_scope(scope or cfg.get('default_scope', 'mmengine'))
    model_cfg = cfg.model.copy()
    for pretrained in (model_cfg, model_cfg.get('backbone', {})):
        pretrained.pop('init_cfg', None)  # the count does not depend on the weights
    model = MODELS.build(_without_sync(model_cfg))
    shape = (image_channels(model), *shape)
    return complexity(model, shape, _counted_forward(model, scope)), shape


def _counted_forward(model, library):
    """Return what is counted for a model, as a function of images; None for the model itself."""
    if library == 'mmdet':
        if hasattr(model, 'roi_head') and type(model.rpn_head).forward is not BaseModule.forward:
            return partial(two_stage_forward, model)
        return lambda images: model(images, data_samples=_samples(images), mode='tensor')
    if library == 'mmseg' and _needs_samples(getattr(model, 'decode_head', None)):
        return lambda images: model.encode_decode(images, [sample.metainfo for sample in _samples(images)])
    return None


def _needs_samples(head):
    """Return whether the ``forward`` of a head takes data samples beside the maps."""
    return 'batch_data_samples' in inspect.signature(getattr(head, 'forward', _counted_forward)).parameters


def _samples(images):
    """Return one data sample without objects per image, with the sizes that heads of mmdet and mmseg ask for."""
    size = tuple(images.shape[-2:])
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    nothing = InstanceData(bboxes=images.new_zeros(0, 4), labels=images.new_zeros(0, dtype=torch.long))
    return [BaseDataElement(metainfo=meta, gt_instances=nothing) for _ in images]


def two_stage_forward(detector, images, num_proposals=NUM_PROPOSALS):
    """Run a two-stage detector with a fixed number of proposals, so that the count does not depend on the weights.

    ``num_proposals`` boxes of the whole image go through the box head, and the first 100 of them through the mask head.
    This is mmdet's convention for counting, with the number of proposals that its test settings keep.
    """
    features = detector.extract_feat(images)
    proposals = detector.rpn_head(features)
    height, width = images.shape[-2:]
    boxes = images.new_tensor([[0, 0, width, height]]).expand(num_proposals, 4)
    found, roi_head = [InstanceData(bboxes=boxes)], detector.roi_head
    # a result that is not returned would be missing from the trace and from the count
    if not hasattr(roi_head, 'num_stages'):
        samples = [_samples(images)] if _needs_samples(roi_head) else []  # in forks every head takes them
        return proposals, roi_head.forward(features, found, *samples)
    # a cascade, which has mask heads for all proposals in its forward
    mask_head, roi_head.mask_head = getattr(roi_head, 'mask_head', None), None
    try:
        refined = roi_head.forward(features, found, _samples(images))
    finally:
        roi_head.mask_head = mask_head
    masks = []
    if mask_head is not None:
        rois = torch.cat([boxes.new_zeros(100, 1), boxes[:100]], 1)  # each begins with the index of its image
        masks = [roi_head._mask_forward(stage, features, rois)['mask_preds'] for stage in range(roi_head.num_stages)]
    return proposals, refined, masks


def _without_sync(cfg):
    """Replace SyncBN, which cannot run on a CPU, by BN, which costs the same."""
    if isinstance(cfg, dict):
        for key, value in cfg.items():
            is_sync = key == 'type' and value and type_name(cfg) in ('SyncBN', 'SyncBatchNorm')
            cfg[key] = 'BN' if is_sync else _without_sync(value)
    elif isinstance(cfg, (list, tuple)):
        return type(cfg)(_without_sync(value) for value in cfg)
    return cfg


def flops_text(flops):
    """Return FLOPs as text: in units of 10^9 (G), or of 10^6 (M) if they are fewer than 10^9."""
    return f'{flops / 1e9:.2f} G' if flops >= 1e9 else f'{flops / 1e6:.1f} M'


def format_complexity(counts, shape):
    """Format the counts as lines of text, each with its convention."""
    texts = {name: flops_text(value) for name, value in counts.items()}
    rows = [
        ('image', ' x '.join(map(str, shape))),
        ('parameters', f'{counts["params"] / 1e6:.3f} M'),
        ('FLOPs without the scan (as the paper prints)', texts['flops_without_scan']),
        ('FLOPs with the scan (as the released code prints)', texts['flops']),
        ('the scan alone, released convention', texts['scan_flops']),
        ("the scan alone, VMamba's convention 9 B L D N", texts['scan_flops_vmamba']),
    ]
    width = max(len(name) for name, _ in rows)
    return '\n'.join(f'{name:<{width}}  {value}' for name, value in rows) + '\nA multiply-add counts as one FLOP.'
