"""The guard ``config_keys``: slips in the keys of a config, found before anything is built.

Without it: MMEngine ignores a top-level key that no component reads. ``optim_wraper = dict(...)`` trains with the
optimizer of the base config, for days. The same holds for keys that the libraries look up by name, such as those of
``model.test_cfg``.
"""

import importlib
import importlib.util
import inspect
import logging
import re
from fnmatch import fnmatchcase

from mmengine import registry as mmengine_registry
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, Registry
from mmengine.runner import Runner

from ..config_tree import dicts_in
from ..names import near_name, unknown_name
from .config_files import check_checkpoint_files
from .runs import is_built

# Keys that Config itself, the tools, MMEngine beside its Runner's arguments, or all three libraries read.
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
# Known keys whose values are neither dicts nor lists.
_SCALARS = {
    '_base_',
    '_delete_',
    'default_scope',
    'experiment_name',
    'find_unused_parameters',
    'launcher',
    'load_from',
    'log_level',
    'resume',
    'runner_type',
    'sync_bn',
    'work_dir',
}
_SCOPES = ('mmengine', 'mmpretrain', 'mmdet', 'mmseg')
# How similar a top-level key must be to a known one to count as a slip: optim_wraper, train_dataloaders.
_NEAR = 0.9
# Keys that hold a number in every class of the libraries: 'three' for max_epochs fails deep inside, without the key.
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
# Dicts without a `type`, which MMEngine reads itself.
_READ_BY_MMENGINE = {
    ('randomness',),
    *((f'{split}_cfg',) for split in ('train', 'val', 'test')),
    *((f'{split}_dataloader',) for split in ('train', 'val', 'test')),
}
_LIBRARIES = {'mmcv', 'mmdefmamba', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg', 'torch'}
# What MMEngine's own constructor of optimizers looks up in paramwise_cfg, and for one parameter in its custom_keys.
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
# Dicts whose keys mmengine, mmdet and mmseg look up by name, while no class refuses an unknown one. Each is given by
# its path without list indices. A dict with a `type` is left to its class, unless `type` is among the names.
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
# The functions of mmcv that `nms.type` can name; mmcv looks it up after the first boxes have been predicted.
_NMS_TYPES = ('nms', 'nms_match', 'nms_quadri', 'nms_rotated', 'soft_nms')
# How similar such a key must be: one letter may be wrong in a name of four letters, or of three.
_NEAR_LOOKED_UP, _NEAR_THREE_LETTERS, _NEAR_METAINFO = 0.75, 0.66, 0.85


def _known():
    return set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | _READ_BESIDE_THE_RUNNER


@HOOKS.register_module()
class ConfigKeysHook(Hook):
    """Check keys and checkpoint files of the config before a run; the tools do so before anything is built."""

    def before_run(self, runner):
        check_keys(runner.cfg)
        if is_built(runner, 'train'):
            check_checkpoint_files(runner.cfg)


def check_keys(cfg):
    """Refuse keys of a config that are slips.

    A slip is a top-level key that is similar to a known one, or a key further down that is similar to one that is
    looked up there, where no class would refuse it. Other unknown keys are free: the variables of a config are keys.

    Args:
        cfg: an MMEngine Config.

    Raises:
        ValueError: names the key and the similar one; or a text where the libraries need a number.
    """
    known = _known()
    for key in cfg:
        # train_dataloader_2 is a name of the user's own, and so is log_levels for a list
        if key not in known and re.sub(r'[_\d]+$', '', key) not in known:
            of_its_kind = known - _SCALARS if isinstance(cfg[key], (dict, list, tuple)) else known & _SCALARS
            _check_key('', key, of_its_kind, _NEAR)
    scope = cfg.get('default_scope')
    for path, node in dicts_in(cfg.to_dict()):
        _check_numbers(path, node, scope)
        _check_class_names(path, node)
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
    hint = scope_hint(scope)
    if hint:
        print_log(hint, 'current', logging.WARNING)


def scope_hint(scope):
    """Return a warning where a ``default_scope`` is probably a slip, or ''. MMEngine allows any name."""
    if not scope or not isinstance(scope, str) or importlib.util.find_spec(scope.partition('.')[0]) is not None:
        return ''
    hint = near_name(scope, _SCOPES)
    return f'default_scope {scope!r} is not an installed package{hint}' if hint else ''


def _check_numbers(path, node, scope):
    for key, value in node.items():
        if key not in _NUMBERS or not isinstance(value, str):
            continue
        # a class of the user's own may take a word
        if _is_of_libraries(node['type'], scope) if 'type' in node else path in _READ_BY_MMENGINE:
            raise ValueError(f'{".".join([*path, key])} must be a number, got {value!r}')


def _check_class_names(path, node):
    """Refuse a text in the place of the names of the classes, unless it can be the path of a file with the names."""
    names = node.get('classes')
    is_dataset = path[-1:] == ('metainfo',) or ('data_root' in node or 'ann_file' in node or 'data_prefix' in node)
    if is_dataset and isinstance(names, str) and not re.search(r'[./\\]', names):
        raise ValueError(
            f'{".".join([*path, "classes"])} is the text {names!r}. Write a tuple of names, with a comma: ({names!r},)'
        )


def _is_of_libraries(kind, scope):
    """Return whether a ``type`` of a config names a class of MMEngine, its libraries or PyTorch."""
    if isinstance(kind, str):
        roots = [root for root in vars(mmengine_registry).values() if isinstance(root, Registry)]
        found = (_class_in(root, kind, scope) for root in roots)
        kind = next((cls for cls in found if cls is not None), None)
    return getattr(kind, '__module__', '').partition('.')[0] in _LIBRARIES


def _class_in(root, name, scope):
    """Return the class of a name in a root registry, or in that of a scope, or None; warns of nothing."""
    scope, name = name.split('.', 1) if '.' in name else (scope, name)
    if scope in _SCOPES and importlib.util.find_spec(scope) is not None:
        importlib.import_module(f'{scope}.registry')  # adds the library's own registries to the roots
    child = root.children.get(scope)
    if child is not None:
        child.import_from_location()
        if name in child.module_dict:
            return child.module_dict[name]
    return root.module_dict.get(name)


def _check_dict(path, node):
    """Refuse a slip in a dict whose keys are looked up by name."""
    place = '.'.join(name for name in path if not name.isdigit())
    known = next((names for pattern, names in _LOOKED_UP.items() if fnmatchcase(place, pattern)), ())
    if 'type' in node and 'type' not in known:
        return
    for key in node:
        cutoff = _NEAR_THREE_LETTERS if len(str(key)) == 3 else _NEAR_LOOKED_UP
        # metainfo is free, and a dataset may well have seen_classes
        _check_key('.'.join(path), key, known, _NEAR_METAINFO if place.endswith('.metainfo') else cutoff)
    name = node.get('type', 'nms')
    if fnmatchcase(place, 'model.*.nms') and name not in _NMS_TYPES:
        hint = near_name(name, _NMS_TYPES)
        if hint:
            raise ValueError(f'{".".join(path)}.type: mmcv has no function {name!r}{hint}')


def _check_key(place, key, known, cutoff):
    hint = '' if key in known or not isinstance(key, str) else near_name(key, known, cutoff=cutoff)
    if hint:
        raise ValueError(f'no component reads the config key {f"{place}.{key}".lstrip(".")!r}{hint}')


def _check_paramwise(wrapper, place):
    if str(wrapper.get('constructor', '')).split('.')[-1] not in ('', 'None', 'DefaultOptimWrapperConstructor'):
        return
    unknown = [key for key in wrapper['paramwise_cfg'] if key not in _PARAMWISE]
    if unknown:
        problem = f'no component reads the config key {f"{place}.{unknown[0]}"!r}'
        raise ValueError(unknown_name(problem, unknown[0], _PARAMWISE, f'Known keys: {", ".join(sorted(_PARAMWISE))}'))
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
    # MMEngine computes a learning rate for each parameter with an entry in custom_keys, whatever the entry says
    for setting, scales in (('weight_decay', ('decay_mult',)), ('lr', ('lr_mult', 'custom_keys'))):
        scaled = [
            f'{where}.{key}'
            for where, options in settings.items()
            for key, value in options.items()
            if key.endswith(scales) and value != {}
        ]
        if scaled and optimizer.get(setting) is None:
            owner = place.removesuffix('paramwise_cfg') + 'optimizer'
            raise ValueError(f'{scaled[0]} scales {setting}, but {owner} does not set it: it sets {sorted(optimizer)}')


def check_options(options):
    """Refuse ``--cfg-options`` without effect.

    The variables of a config have gone into its other keys by then: ``max_epochs=3`` changes ``max_epochs`` and nothing
    that was computed from it.

    Args:
        options: dict of dotted keys.

    Raises:
        ValueError: names the key and a similar one that has an effect.
    """
    known = _known()
    for option in options:
        key = option.split('.')[0]
        if key not in known:
            remedy = (
                'If it is a variable of the config, change it in the config file, or change here the keys that it went '
                'into (for example train_cfg.max_epochs)'
            )
            raise ValueError(
                unknown_name(f'--cfg-options {option}: no component reads the key {key!r}', key, known, remedy)
            )
