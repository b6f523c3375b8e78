"""Private names of other libraries that the package uses. A release that renames one must fail a test.

Other tests check the behaviour that depends on most of these names. The tests here say which name does not exist any
more, and find private names that are used but not listed.
"""

import ast
import importlib
import inspect
from pathlib import Path

import pytest
import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from mmengine.config import Config
from mmengine.registry import MODELS, build_from_cfg
from mmengine.runner import Runner
from mmengine.utils import digit_version

import mmdefmamba
from mmdefmamba.export.export_model import OLDEST_TORCH

PACKAGE = Path(mmdefmamba.__file__).parent
#: Private names that are read or called: file of the package -> (name, where it is defined). A new one must also exist
#: in the oldest supported versions: `make test-oldest TESTS=tests/test_upstream.py` tells.
USED = {
    ('analysis/config_complexity.py', '_mask_forward'): 'mmdet.models.roi_heads:CascadeRoIHead',
    ('apis/zoo.py', '_get_cfg_path'): 'mmengine.config:Config',
    ('checkpoints/fit.py', '_load_from_state_dict'): 'torch.nn:Module',
    ('checkpoints/fit.py', '_metadata'): 'set by torch.nn:Module.state_dict',
    ('checkpoints/fit.py', '_modules'): 'set by torch.nn:Module.__init__',
    ('checkpoints/resuming.py', '_C'): 'torch',
    ('compat/data_workers.py', '_worker_loop'): 'torch.utils.data._utils.worker',
    ('compat/mmcv_ops/deform_conv.py', '_deform_conv2d_backward'): 'torch:ops.torchvision',
    ('compat/mmcv_ops/roi_align.py', '_roi_align_backward'): 'torch:ops.torchvision',
    ('compat/safe_loading.py', '_schemes'): 'mmengine.runner.checkpoint:CheckpointLoader',
    ('engine/interruption.py', '_decide_current_val_interval'): 'mmengine.runner:IterBasedTrainLoop',
    ('engine/step_seeds.py', '_decide_current_val_interval'): 'mmengine.runner:IterBasedTrainLoop',
    ('engine/step_seeds.py', '_indices_of_rank'): 'mmengine.dataset:InfiniteSampler',
    ('engine/step_seeds.py', '_iter'): 'set by mmengine.runner:IterBasedTrainLoop.__init__',
    ('engine/step_seeds.py', '_max_iters'): 'set by mmengine.runner:IterBasedTrainLoop.__init__',
    ('export/graph.py', '_guards_code'): 'set by torch.export:ExportedProgram.__init__',
    ('export/translations.py', '_adaptive_avg_pool2d'): 'torch:ops.aten',
    ('export/translations.py', '_schema'): 'set by torch._ops:OpOverload.__init__',
    ('guards/class_folders.py', '_metainfo'): 'set by mmengine.dataset:BaseDataset.__init__',
    ('guards/config_errors.py', '_file2dict'): 'mmengine.config:Config',
    ('guards/resumed_schedule.py', '_global_step'): 'set by mmengine.optim:_ParamScheduler.__init__',
    ('guards/resumed_schedule.py', '_last_value'): 'set by mmengine.optim:_ParamScheduler.step',
    ('guards/resumed_schedule.py', '_with_counter'): 'set by mmengine.optim:_ParamScheduler.__init__',
    ('guards/runs.py', '_load_from'): 'set by mmengine.runner:Runner.__init__',
    ('guards/runs.py', '_resume'): 'set by mmengine.runner:Runner.__init__',
    ('guards/runs.py', '_train_loop'): 'set by mmengine.runner:Runner.__init__',
    ('guards/runs.py', '_val_loop'): 'set by mmengine.runner:Runner.__init__',
    ('guards/runs.py', '_test_loop'): 'set by mmengine.runner:Runner.__init__',
    ('layers.py', '_backward_hooks'): 'set by torch.nn:Module.__init__',
    ('layers.py', '_backward_pre_hooks'): 'set by torch.nn:Module.__init__',
    ('layers.py', '_compiled_call_impl'): 'torch.nn:Module',
    ('layers.py', '_forward_hooks'): 'set by torch.nn:Module.__init__',
    ('layers.py', '_forward_pre_hooks'): 'set by torch.nn:Module.__init__',
    ('layers.py', '_global_backward_hooks'): 'torch.nn.modules.module',
    ('layers.py', '_global_backward_pre_hooks'): 'torch.nn.modules.module',
    ('layers.py', '_global_forward_hooks'): 'torch.nn.modules.module',
    ('layers.py', '_global_forward_pre_hooks'): 'torch.nn.modules.module',
    ('ops/transforms.py', '_C'): 'torch',
    ('ops/transforms.py', '_are_functorch_transforms_active'): 'torch:_C',
    ('ops/transforms.py', '_current_level'): 'torch.autograd.forward_ad',
    ('ops/transforms.py', '_len_torch_dispatch_stack'): 'torch:_C',
}
#: Private names of which PyTorch may have none: the code looks whether they exist.
OPTIONAL = {('ops/linear.py', '_linear_pointwise')}
#: Private names that are replaced, overridden or set for other libraries to read.
REPLACED = {
    '_get_cfg_path': 'mmengine.config:Config',
    'MODULE2PACKAGE': 'mmengine.config.utils',
    '_save_checkpoint_with_step': 'mmengine.hooks:CheckpointHook',
    '_save_best_checkpoint': 'mmengine.hooks:CheckpointHook',
    '_scale_size': 'mmcv.image.geometric',
    'ManagerWatchdog': 'torch.utils.data._utils.worker',
    'Loader': 'mmengine.fileio.handlers.yaml_handler',
    'dump': 'mmengine.hooks.logger_hook',
    'load_from_http': 'mmengine.runner.checkpoint',
    '_load_seg_map': 'mmseg.datasets.transforms:LoadAnnotations',
    '_find_samples': 'mmpretrain.datasets:CustomDataset',
    'find_folders': 'mmpretrain.datasets.custom',
    'get_samples': 'mmpretrain.datasets.custom',
    'get_cat_ids': 'mmdet.datasets.api_wrappers:COCO',
    'filter_data': 'mmdet.datasets:CocoDataset',
    'COCOAPI': 'mmdet.datasets:CocoDataset',
    'load_data_list': 'mmseg.datasets:BaseSegDataset',
    '_process_masks': 'mmdet.datasets.transforms:LoadAnnotations',
    'prepare_data': 'mmengine.dataset:BaseDataset',
    'imfrombytes': 'mmcv',
    'WITH_MULTIMODAL': 'mmpretrain.utils.dependency',
    'mmcv_full_available': 'mmengine.utils.dl_utils.misc',
    'check_ops_exist': 'mmcv.utils.ext_loader',
    '_init_model': 'mmseg.apis:MMSegInferencer',
    '_init_collate': 'mmengine.infer:BaseInferencer',
    '_merge_single_sample': 'mmdet.models.test_time_augs:DetTTAModel',
}
#: Attributes of MMEngine's CheckpointHook that SafeCheckpointHook reads.
STATE_OF_THE_CHECKPOINT_HOOK = ('last_ckpt', 'best_ckpt_path', 'best_ckpt_path_dict', 'file_backend')
#: Names of the standard library and of gradio that begin with an underscore but are documented.
DOCUMENTED = {'_replace', '_asdict', '_exit', '_data', '_getframe'}
#: Attributes that we set on our own models, because mmpretrain's inferencers read them.
SET_BY_US = {('apis/zoo.py', '_config'), ('apis/zoo.py', '_metainfo')}


def defined(place):
    """Return the object at a place, 'module:Class' or 'module'."""
    module, _, name = place.partition(':')
    found = importlib.import_module(module)
    for part in filter(None, name.split('.')):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(('file', 'name'), USED)
def test_private_name_that_is_used_exists(file, name):
    place = USED[file, name]
    if file.startswith('export/') and digit_version(torch.__version__) < digit_version(OLDEST_TORCH):
        pytest.skip(f'the export needs PyTorch {OLDEST_TORCH}')
    if place.startswith('set by '):
        owner, _, method = place.removeprefix('set by ').rpartition('.')
        assert hasattr(defined(owner), method)
        # the class, not the method: torch.compile wraps Module.__init__ for the rest of the process
        assert name in inspect.getsource(defined(owner))
    else:
        assert hasattr(defined(place), name)


@pytest.mark.parametrize('name', REPLACED)
def test_name_that_is_replaced_exists(name):
    assert hasattr(defined(REPLACED[name]), name)


def test_checkpoint_hook_has_the_attributes_that_we_read():
    source = inspect.getsource(defined('mmengine.hooks:CheckpointHook'))
    assert all(f'self.{name}' in source for name in STATE_OF_THE_CHECKPOINT_HOOK)
    assert callable(torch._C.PyTorchFileReader)


def test_every_private_name_of_another_library_is_listed():
    found = set()
    for path in PACKAGE.rglob('*.py'):
        tree = ast.parse(path.read_text())
        own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        stored = [node for node in ast.walk(tree) if isinstance(getattr(node, 'ctx', None), ast.Store)]
        own |= {node.id for node in stored if isinstance(node, ast.Name)}
        own |= {node.attr for node in stored if isinstance(node, ast.Attribute) and ast.unparse(node.value) == 'self'}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith('_') or node.attr.startswith('__'):
                continue
            if node.attr not in own | DOCUMENTED:
                found.add((path.relative_to(PACKAGE).as_posix(), node.attr))
    assert found == set(USED) | OPTIONAL | SET_BY_US


#: Local variables that guards/config_errors.py reads from the traceback, and the functions that have them.
LOCALS = {
    'obj_cls': build_from_cfg,
    'obj_type': build_from_cfg,
    'registry': build_from_cfg,
    'args': build_from_cfg,
    'filename': Config._file2dict,
}


@pytest.mark.parametrize('name', LOCALS)
def test_local_variable_that_explains_an_error_exists(name):
    code = inspect.unwrap(LOCALS[name]).__code__
    assert name in (*code.co_varnames, *code.co_cellvars)


@pytest.mark.parametrize(
    ('builder', 'name'), [('norm', 'layer_type'), ('conv', 'layer_type'), ('padding', 'padding_type')]
)
def test_local_variable_of_mmcvs_layers_exists(builder, name):
    bricks = importlib.import_module(f'mmcv.cnn.bricks.{builder}')
    code = getattr(bricks, f'build_{builder}_layer').__code__
    assert name in code.co_varnames


def test_functions_that_mmengine_calls_by_name_exist():
    assert 'seed' in inspect.signature(Runner.set_randomness).parameters
    assert MODELS.name == 'model'
