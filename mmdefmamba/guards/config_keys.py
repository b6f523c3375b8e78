"""Keys of a config that nobody reads, refused before anything is built.

A top-level key that nobody reads is no error to MMEngine: ``optim_wraper = dict(...)`` trains with the optimizer of the
base config, for days. So it is with the keys that the libraries look up by name, such as those of ``model.test_cfg``.
"""

import importlib.util
import inspect
from fnmatch import fnmatchcase

from mmengine.runner import Runner

from ..names import near_name

# Read by Config itself, by the tools, by MMEngine beside its Runner's arguments, and by all three libraries.
_READ_BESIDE_THE_RUNNER = {
    '_base_',
    '_delete_',
    'activation_checkpointing',
    'auto_scale_lr',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}
_SCOPES = ('mmengine', 'mmpretrain', 'mmdet', 'mmseg')
# From here on two names are one with a slip of the finger: optim_wraper, train_dataloaders.
_NEAR = 0.9
# Keys that hold a number wherever they stand: 'three' for max_epochs fails deep inside, and without the key.
_NUMBERS = {
    'batch_size',
    'drop_path_rate',
    'in_channels',
    'interval',
    'lr',
    'max_epochs',
    'max_iters',
    'max_keep_ckpts',
    'num_classes',
    'num_workers',
    'seed',
    'val_begin',
    'val_interval',
    'weight_decay',
}
# What MMEngine's own constructor of optimizers looks up in paramwise_cfg, and of a parameter in its custom_keys; what
# else is in these stands for nothing, or for a setting of the optimizer's.
_PARAMWISE = {
    'bias_decay_mult',
    'bias_lr_mult',
    'bypass_duplicate',
    'custom_keys',
    'dcn_offset_lr_mult',
    'dwconv_decay_mult',
    'flat_decay_mult',
    'norm_decay_mult',
}
_OF_A_PARAMETER = ('lr_mult', 'decay_mult')
# Where no class refuses a key: what mmengine, mmdet and mmseg look up there by name, passing over all else. By the
# dict's path, without numbers of lists; one with a `type` is left to its class, unless `type` is among the names.
_LOOKED_UP = {
    'env_cfg': ('cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit'),
    '*.filter_cfg': ('bbox_min_size', 'filter_empty_gt', 'min_size'),
    '*.metainfo': ('base_classes', 'classes', 'novel_classes', 'palette', 'stuff_classes', 'thing_classes'),
    'model.*.nms': ('type', 'class_agnostic', 'iou_threshold', 'max_num', 'method', 'min_score', 'offset', 'sigma'),
    'model.*.bbox_coder': (
        *('type', 'add_ctr_clamp', 'clip_border', 'cls_ignore_neighbor', 'ctr_clamp', 'eps', 'normalizer'),
        *('num_buckets', 'offset_topk', 'offset_upperbound', 'scale_factor', 'target_means', 'target_stds'),
        'use_box_type',
    ),
    'model.train_cfg.*sampler': (
        *('type', 'add_gt_as_proposals', 'bias', 'floor_fraction', 'floor_thr', 'k', 'neg_pos_ub', 'neg_sampler'),
        *('num', 'num_bins', 'pos_fraction', 'pos_sampler'),
    ),
    'model.train_cfg*': (
        *('allowed_border', 'assigner', 'augments', 'debug', 'ga_assigner', 'ga_sampler', 'mask_size', 'max_per_img'),
        *('min_bbox_size', 'nms', 'nms_pre', 'pos_weight', 'rcnn', 'reg_assigner', 'rpn', 'rpn_proposal', 'sampler'),
    ),
    'model.test_cfg*': (
        *('crop_size', 'mask_thr_binary', 'max_per_image', 'max_per_img', 'min_bbox_size', 'mode', 'nms', 'nms_pre'),
        *('rcnn', 'rpn', 'score_thr', 'stride'),
    ),
}
# The functions of mmcv that `nms.type` is looked up among, when the first boxes have been predicted.
_NMS_TYPES = ('nms', 'nms_match', 'nms_quadri', 'nms_rotated', 'soft_nms')
# A letter wrong in a name of four, or of three.
_NEAR_LOOKED_UP, _NEAR_THREE_LETTERS = 0.75, 0.66


def _known():
    return set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | _READ_BESIDE_THE_RUNNER


def check_keys(cfg):
    """Refuse what is sure to be a slip.

    That is a top-level key that is nearly a known one, or one further down of which no class would complain, or none
    that says where. Other unknown keys pass: a config's own variables are keys too.

    Args:
        cfg: an MMEngine Config.

    Raises:
        ValueError: names the key and what was meant.
    """
    known = _known()
    for key in [key for key in cfg if key not in known]:
        hint = near_name(key, known, cutoff=_NEAR)
        if hint:
            raise ValueError(f'config key {key!r} is read by nobody{hint}')
    for path, node in dicts_in(cfg.to_dict()):
        for key, value in node.items():
            if key in _NUMBERS and isinstance(value, str):
                raise ValueError(f'{".".join([*path, key])} must be a number, got {value!r}')
        if isinstance(node.get('paramwise_cfg'), dict):
            _check_paramwise(node, '.'.join([*path, 'paramwise_cfg']))
        _check_dict(path, node)
    hooks = cfg.get('default_hooks') or {}
    for name, hook in hooks.items():
        if isinstance(hook, dict) and 'type' not in hook:
            raise ValueError(f'default_hooks.{name} has no type{near_name(name, set(hooks) - {name})}')
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if isinstance(loader, dict) and 'dataset' not in loader:
            raise ValueError(f'{name} has no dataset{near_name("dataset", loader)}')
    scope = cfg.get('default_scope')
    if scope is not None and importlib.util.find_spec(scope) is None:
        hint = near_name(scope, _SCOPES, otherwise=f'; one of {", ".join(_SCOPES)}')
        raise ValueError(f'default_scope {scope!r} is no package that is installed{hint}')


def _check_dict(path, node):
    """Refuse a slip in a dict whose keys are looked up by name."""
    place = '.'.join(name for name in path if not name.isdigit())
    known = next((names for pattern, names in _LOOKED_UP.items() if fnmatchcase(place, pattern)), ())
    if 'type' in node and 'type' not in known:
        return
    for key in node:
        _check_key('.'.join(path), key, known, _NEAR_THREE_LETTERS if len(key) == 3 else _NEAR_LOOKED_UP)
    if fnmatchcase(place, 'model.*.nms') and node.get('type', 'nms') not in _NMS_TYPES:
        name = node['type']
        hint = near_name(name, _NMS_TYPES, otherwise=f'; one of {", ".join(_NMS_TYPES)}')
        raise ValueError(f'{".".join(path)}.type: {name!r} is none of mmcv{hint}')


def _check_key(place, key, known, cutoff):
    if key in known:
        return
    hint = near_name(key, known, cutoff=cutoff)
    if hint:
        raise ValueError(f'{place}.{key} is read by nobody{hint}')


def _check_paramwise(wrapper, place):
    if str(wrapper.get('constructor', '')).split('.')[-1] not in ('', 'None', 'DefaultOptimWrapperConstructor'):
        return
    unknown = [key for key in wrapper['paramwise_cfg'] if key not in _PARAMWISE]
    if unknown:
        hint = near_name(unknown[0], _PARAMWISE, otherwise=f'; one of {", ".join(sorted(_PARAMWISE))}')
        raise ValueError(f'{place}.{unknown[0]} is read by nobody{hint}')
    custom = wrapper['paramwise_cfg'].get('custom_keys')
    settings = {place: wrapper['paramwise_cfg']}
    for name, options in custom.items() if isinstance(custom, dict) else ():
        if isinstance(options, dict):
            settings[f'{place}.custom_keys.{name}'] = options
            for key in options:
                _check_key(f'{place}.custom_keys.{name}', key, _OF_A_PARAMETER, cutoff=0.7)
    optimizer = wrapper.get('optimizer')
    if not isinstance(optimizer, dict):
        return
    # the learning rate of a parameter with an entry in custom_keys is computed whatever the entry says
    for setting, scales in (('weight_decay', ('decay_mult',)), ('lr', ('lr_mult', 'custom_keys'))):
        scaled = [
            f'{where}.{key}'
            for where, options in settings.items()
            for key, value in options.items()
            if key.endswith(scales) and value != {}
        ]
        if scaled and optimizer.get(setting) is None:
            owner = place.removesuffix('paramwise_cfg') + 'optimizer'
            raise ValueError(f'{scaled[0]} scales {setting}, which {owner} does not set, only {sorted(optimizer)}')


def check_options(options):
    """Refuse ``--cfg-options`` without effect.

    By then the variables of a config have gone into its other keys: ``max_epochs=3`` changes ``max_epochs`` and nothing
    that was made of it.

    Args:
        options: dict of dotted keys.

    Raises:
        ValueError: names the key and the nearest one with an effect.
    """
    known = _known()
    for option in options:
        key = option.split('.')[0]
        if key not in known:
            raise ValueError(
                f'--cfg-options {option}: {key!r} is read by nobody{near_name(key, known, ".")} If it is a variable of '
                'the config, change it there, or change here the keys that it went into (train_cfg.max_epochs, say)'
            )


def dicts_in(node, path=()):
    """All dicts in a nest of dicts and lists, each with its path, as names."""
    if isinstance(node, dict):
        yield path, node
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for name, child in children:
        yield from dicts_in(child, (*path, str(name)))
