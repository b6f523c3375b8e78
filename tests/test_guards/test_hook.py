"""The guards of a run: which are active, for how long, and how to leave one out."""

import gc
import inspect
from types import SimpleNamespace

import mmcv
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmdefmamba.cli import run_options
from mmdefmamba.guards import GUARDS, GuardsHook, hook, loading
from mmdefmamba.guards.hook import HOOK_GUARDS, guards_hook

CUT_JPEG = b'\xff\xd8\xff\xe0\x00\x04ab'
GUARDS_FILE = 'configs/_base_/guards.py'


@pytest.fixture(autouse=True)
def no_guard_is_active():
    gc.collect()
    assert not any(map(loading.is_active, loading.LOADING_GUARDS))
    yield
    gc.collect()


def is_refused():
    try:
        return mmcv.imfrombytes(CUT_JPEG) is not None
    except OSError:
        return True


def test_importing_the_guards_changes_nothing(run_python):
    code = (
        'import mmcv, mmcv.transforms, mmengine.dataset, mmengine.registry\n'
        'functions = lambda: (mmcv.imfrombytes, mmcv.transforms.LoadImageFromFile.transform, '
        'mmengine.dataset.BaseDataset.prepare_data)\n'
        'before = functions()\n'
        'import mmdefmamba, mmengine.runner, mmdefmamba.guards, mmdefmamba.cli.train\n'
        'print(before == functions())\n'
    )
    output, errors = run_python(code)
    assert output == 'True\n', errors


def test_loading_guards_are_active_as_long_as_the_hook_exists():
    assert not is_refused()
    guards = HOOKS.build(dict(type='mmdefmamba.guards.GuardsHook', leave_out=tuple(HOOK_GUARDS)))
    assert is_refused()
    guards.before_run(None)
    guards.after_run(None)
    assert is_refused()  # a runner can validate first; its training then starts data workers before any hook is called
    del guards
    gc.collect()
    assert not is_refused()


def test_loading_guards_end_with_a_failed_runner():
    first, second = GuardsHook(), GuardsHook()
    assert is_refused()
    del first
    gc.collect()
    assert is_refused()
    del second
    gc.collect()
    assert not is_refused()


@pytest.mark.parametrize('name', GUARDS)
def test_each_guard_can_be_left_out(name):
    guards = GuardsHook(leave_out=[name])
    kinds = {type(one) for one in guards.hooks}
    assert kinds == {kind for key, kind in HOOK_GUARDS.items() if key != name}
    active = {key for key in loading.LOADING_GUARDS if loading.is_active(key)}
    assert active == set(loading.LOADING_GUARDS) - {name}
    assert GuardsHook(leave_out=name).leave_out == (name,)


def test_unknown_name_of_a_guard_is_an_error():
    with pytest.raises(ValueError, match=r"there is no guard 'clas_count', did you mean 'class_count'\? The"):
        GuardsHook(leave_out=['clas_count'])


def test_every_stage_reaches_every_guard(monkeypatch):
    calls = []

    class Noted(Hook):
        pass

    for stage in Hook.stages:
        setattr(Noted, stage, lambda self, *args, stage=stage, **kwargs: calls.append((stage, args, kwargs)))
    monkeypatch.setattr(hook, 'HOOK_GUARDS', {'a': Noted, 'b': Noted})
    guards = GuardsHook()
    for stage in Hook.stages:
        arguments = list(inspect.signature(getattr(Hook, stage)).parameters)[1:]
        getattr(guards, stage)('runner', **{name: name for name in arguments[1:]})
        assert calls[-2:] == [(stage, ('runner',), {name: name for name in arguments[1:]})] * 2
    assert len(calls) == 2 * len(Hook.stages)
    assert guards.get_triggered_stages() == list(Hook.stages)


def test_stages_without_a_guard_are_not_triggered():
    assert GuardsHook(leave_out=tuple(HOOK_GUARDS)).get_triggered_stages() == []
    stages = GuardsHook(leave_out=tuple(set(HOOK_GUARDS) - {'finite_loss'})).get_triggered_stages()
    assert stages == ['after_train_iter']


# ---- in configs

FULL_CONFIGS = [
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    'mmpretrain::resnet/resnet18_8xb32_in1k.py',
    'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
    'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py',
]


@pytest.mark.parametrize('config', FULL_CONFIGS)
def test_library_config_accepts_the_guards_as_an_additional_base(config, tmp_path, pytestconfig):
    path = tmp_path / 'config.py'
    path.write_text(f'_base_ = [{config!r}, {str(pytestconfig.rootpath / GUARDS_FILE)!r}]\n')
    assert guards_hook(Config.fromfile(path)) == dict(type='mmdefmamba.guards.GuardsHook')


def test_all_configs_inherit_the_guards(pytestconfig):
    paths = [path for path in (pytestconfig.rootpath / 'configs').rglob('*.py') if '_base_' not in path.parts]
    # those for a user's own data cannot be read without the data: test_configs/test_own_data_configs.py
    paths = [path for path in paths if 'own_data' not in path.parts]
    assert len(paths) > 50
    for path in paths:
        assert guards_hook(Config.fromfile(path)) == dict(type='mmdefmamba.guards.GuardsHook'), path


def options(data, *given):
    return run_options.train_config(run_options.train_parser().parse_args([str(data.config), *given]))


def test_tools_report_a_config_without_guards(tiny, told):
    data = tiny('classification')
    options(data)
    assert not any('without guards' in text for _, text in told)
    options(data, '--cfg-options', 'custom_hooks=[]')
    assert [text for _, text in told if 'without guards' in text] == [
        f'{data.config} runs without guards: neither custom_hooks nor default_hooks has a GuardsHook. '
        'configs/_base_/guards.py adds it'
    ]


def test_config_key_check_can_be_left_out(tiny):
    data = tiny('classification')
    data.config.write_text(data.config.read_text() + 'optim_wraper = dict()\n')
    message = "no component reads the config key 'optim_wraper', did you mean 'optim_wrapper'"
    with pytest.raises(ValueError, match=message):
        options(data)
    assert options(data, '--no-config-check').optim_wraper == {}
    assert options(data, '--cfg-options', 'custom_hooks.0.leave_out=[config_keys]').optim_wraper == {}


@pytest.mark.parametrize('task', ['classification', 'segmentation'])
def test_guard_that_is_left_out_does_not_check(tiny, task):
    """The training is started by the tool. The head has three classes, and the dataset has two."""
    data = tiny(task)
    key = {'classification': 'model.head', 'segmentation': 'model.decode_head'}[task]
    change = [f'{key}.num_classes=3'] + (['data_preprocessor.num_classes=3'] if task == 'classification' else [])
    with pytest.raises(ValueError, match='num_classes is 3'):
        data.train(*change)
    assert data.train(*change, 'custom_hooks.0.leave_out=[class_count]')


@pytest.mark.parametrize('method', ['fork', 'spawn'])
@pytest.mark.parametrize('task', ['classification', 'segmentation'])
def test_guards_are_active_in_data_workers(tiny, task, method):
    """Epoch-based and iteration-based loops start their workers at different times."""
    data = tiny(task)
    image = data.images()[0]
    image.write_bytes(image.read_bytes()[:-30])
    workers = ['train_dataloader.num_workers=1', f'train_dataloader.multiprocessing_context={method}']
    with pytest.raises(OSError, match=rf'{image.name} could not be loaded: a PNG of \d+ bytes whose end is missing'):
        data.train(*workers)


def test_guards_stop_a_training_by_a_plain_mmengine_runner(tiny):
    """The tools of mmpretrain, mmdet and mmseg run a config in this way."""
    from mmengine.runner import Runner

    data = tiny('classification')
    cfg = Config.fromfile(data.config)
    cfg.update(work_dir=str(data.work_dir), launcher='none')
    cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = 3
    with pytest.raises(ValueError, match=r'head\.num_classes is 3, but CustomDataset has 2 classes'):
        Runner.from_cfg(cfg).train()
    cfg = Config.fromfile(data.config)
    cfg.update(work_dir=str(data.work_dir), launcher='none', optim_wraper=dict())
    with pytest.raises(ValueError, match="no component reads the config key 'optim_wraper'"):
        Runner.from_cfg(cfg).train()


def test_a_guards_hook_in_default_hooks_is_found():
    assert guards_hook(Config(dict(default_hooks=dict(guards=dict(type='GuardsHook'), timer=None)))) is not None
    assert guards_hook(Config(dict(custom_hooks=[dict(type=GuardsHook)]))) is not None
    assert guards_hook(Config(dict(custom_hooks=[dict(type='MyHook')], default_hooks=None))) is None
    assert guards_hook(Config()) is None


def test_sample_error_keeps_its_type_while_no_guard_is_active():
    from mmengine.dataset import BaseDataset

    class Broken(BaseDataset):
        def load_data_list(self):
            return [dict(img_path='a.png')]

    def fail(info):
        raise KeyError('mask')

    dataset = Broken(pipeline=[fail])
    with pytest.raises(KeyError):
        dataset[0]
    guards = GuardsHook()
    with pytest.raises(KeyError, match=r"sample 0 of Broken, a\.png: KeyError: 'mask'"):
        dataset[0]
    del guards
    gc.collect()
    with pytest.raises(KeyError, match=r"^'mask'$"):
        dataset[0]


def test_guards_run_before_the_ema_hook():
    from mmengine.hooks import EMAHook
    from mmengine.runner import get_priority

    assert get_priority(GuardsHook.priority) < get_priority(EMAHook.priority)


def test_loading_guards_are_active_in_a_training_after_a_validation(tiny):
    """By one runner, iteration-based and with data workers."""
    from mmengine.runner import Runner

    data = tiny('segmentation')
    image = data.images()[0]
    image.write_bytes(image.read_bytes()[:-30])
    cfg = Config.fromfile(data.config)
    cfg.update(work_dir=str(data.work_dir), launcher='none')
    cfg.train_dataloader.update(num_workers=1)
    runner = Runner.from_cfg(cfg)
    runner.val()
    with pytest.raises(OSError, match=r'could not be loaded: a PNG of .* whose end is missing'):
        runner.train()


def test_every_image_is_scored_inside_of_wrappers_of_a_dataset():
    from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

    from mmdefmamba.guards import EveryImageHook

    parts = [BaseDataset(lazy_init=True, serialize_data=False) for _ in range(3)]
    for part in parts:
        part._fully_initialized, part.data_list = True, [{}]
    for wrapped in (RepeatDataset(parts[0], 2), ConcatDataset(parts[1:])):
        EveryImageHook().before_val_epoch(SimpleNamespace(val_dataloader=SimpleNamespace(dataset=wrapped)))
    assert [part.test_mode for part in parts] == [True, True, True]
