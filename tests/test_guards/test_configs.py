"""Mistakes in a config or an option, and the errors that the tools raise. Most tests train nothing."""

import contextlib
import functools
import inspect
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmcv.cnn import build_norm_layer
from mmengine.config import Config
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS, MODELS
from mmengine.utils import get_installed_path

from mmdefmamba.cli import run_options as cli
from mmdefmamba.guards import CustomKeysHook
from mmdefmamba.guards.config_errors import explain_errors, read_config
from mmdefmamba.guards.config_keys import check_keys
from mmdefmamba.models import DefMamba
from mmdefmamba.scans.base import SCANS


@pytest.fixture(scope='module')
def data(tools, tmp_path_factory, tiny_class):
    return tiny_class('classification', tmp_path_factory.mktemp('configs'), tools)


def answer(data, option, kind=ValueError, validate=False):
    with pytest.raises(kind) as error:
        data.train(option, validate=validate)
    return str(error.value)


# option -> part of the message: the place, the unknown name and the suggestion
TYPES = {
    'model.backbone.type=DefMambba': "backbone.type: 'DefMambba' is not a registered model, did you mean 'DefMamba'",
    'model.head.type=LinearClsHed': "'LinearClsHed' is not a registered model, did you mean 'LinearClsHead'",
    'val_evaluator.type=Acuracy': "val_evaluator.type: 'Acuracy' is not a registered metric, did you mean 'Accuracy'?",
    'train_dataloader.sampler.type=DefaultSamplr': "did you mean 'DefaultSampler'?",
    'optim_wrapper.optimizer.type=AdmW': "optimizer.type: 'AdmW' is not a registered optimizer, did you mean 'AdamW'?",
    'model.type=token': "model.type: 'token' is not a registered model",
    'model.type=mmdet.NoSuch': "model.type: 'mmdet.NoSuch' is not a registered model",
    'default_scope=mmpretrian': "default_scope 'mmpretrian' is not an installed package, did you mean 'mmpretrain'?",
}


@pytest.mark.parametrize('option', TYPES)
def test_unknown_type_error_gives_place_and_suggestion(data, option):
    assert TYPES[option] in answer(data, option, validate='val' in option)


ARGUMENTS = {
    'train_dataloader.bach_size=1': ('DataLoader', 'batch_size'),
    'train_dataloader.dataset.pipeline.1.sacle=3': ('Resize', 'scale'),
    'train_cfg.max_epoch=1': ('EpochBasedTrainLoop', 'max_epochs'),
    'optim_wrapper.optimzer.lr=1': ('OptimWrapper', 'optimizer'),
    'model.backbone.drop_path_rat=0': ('DefMamba', 'drop_path_rate'),
    'randomness.sede=1': ('set_randomness', 'seed'),
    'default_hooks.logger.intervall=1': ('LoggerHook', 'interval'),
}


@pytest.mark.parametrize('option', ARGUMENTS)
def test_unknown_argument_error_gives_place_and_suggestion(data, option):
    taker, meant = ARGUMENTS[option]
    place = option.partition('=')[0].removesuffix('.lr')
    expected = f'{place}: {taker} does not take the argument {place.split(".")[-1]!r}. Did you mean {meant!r}?'
    assert answer(data, option, TypeError) == expected


VALUES = {
    'train_cfg.max_epochs=three': "train_cfg.max_epochs must be a number, got 'three'",
    'optim_wrapper.optimizer.lr=fast': "optim_wrapper.optimizer.lr must be a number, got 'fast'",
    'train_dataloader.num_workers=x': "train_dataloader.num_workers must be a number, got 'x'",
    'train_dataloader.batch_size=0': 'batch_size should be a positive integer value, but got batch_size=0',
    'model.backbone.arch=tinny': "unknown arch 'tinny', did you mean 'tiny'?",
    'model.backbone.scans=[raster,rastr]': "unknown scan 'rastr', did you mean 'raster'?",
    'model.backbone.formulation=papr': "formulation must be one of ('paper', 'released'), got 'papr'",
    'default_hooks.chekpoint.interval=1': "default_hooks.chekpoint has no type, did you mean 'checkpoint'?",
    'val_evaluator.topk=(7,)': 'Top-7 accuracy is unavailable since the number of categories is 2',
}


@pytest.mark.parametrize('option', VALUES)
def test_invalid_value_error_gives_key_and_value(data, option):
    assert VALUES[option] in answer(data, option, validate='val' in option)


PARAMWISE = 'optim_wrapper.paramwise_cfg'
NOT_READ = 'no component reads the config key'
SETTINGS = {
    f'{PARAMWISE}.norm_decay_mul=0': f"{NOT_READ} '{PARAMWISE}.norm_decay_mul', did you mean 'norm_decay_mult'?",
    f'{PARAMWISE}.custom_keys.A_log.lr_mul=2': f"{NOT_READ} '{PARAMWISE}.custom_keys.A_log.lr_mul', "
    "did you mean 'lr_mult'?",
    'optim_wrapper.optimizer.weight_decay=None': 'scales weight_decay, but optim_wrapper.optimizer does not set it',
    'optim_wrapper.optimizer.lr=None': 'custom_keys scales lr, but optim_wrapper.optimizer does not set it',
}


@pytest.mark.parametrize('option', SETTINGS)
def test_paramwise_setting_without_effect_is_refused(data, option):
    assert SETTINGS[option] in answer(data, option, ValueError)


# misspelt form of a key that the libraries look up by name -> the key
LOOKED_UP = {
    'train_dataloader.dataset.filter_cfg.min_siez': 'min_size',
    'val_dataloader.dataset.metainfo.clases': 'classes',
    'env_cfg.cudnn_benchmrk': 'cudnn_benchmark',
    'model.roi_head.bbox_head.bbox_coder.target_mean': 'target_means',
    'model.train_cfg.rpn_propsal': 'rpn_proposal',
    'model.train_cfg.rcnn.sampler.nums': 'num',
    'model.test_cfg.rcnn.max_per_imgg': 'max_per_img',
    'model.test_cfg.rcnn.nms.iou_treshold': 'iou_threshold',
    'model.test_cfg.rpn.nns': 'nms',
    'model.test_cfg.moed': 'mode',
}


@pytest.mark.parametrize('key', LOOKED_UP)
def test_unread_key_error_gives_place_and_suggestion(key):
    cfg = Config()
    cfg.merge_from_dict({'train_dataloader.dataset.type': 'CocoDataset', 'val_dataloader.dataset.type': 'CocoDataset'})
    cfg.merge_from_dict({key: 1})
    with pytest.raises(
        ValueError, match=re.escape(f"no component reads the config key {key!r}, did you mean '{LOOKED_UP[key]}'?")
    ):
        check_keys(cfg)
    # a key that resembles no known key is allowed, because a class of the user may read it
    free = f'{key.rpartition(".")[0]}.my_own'
    cfg = Config(dict(train_dataloader=dict(dataset={}), val_dataloader=dict(dataset={})))
    cfg.merge_from_dict({free: 1})
    check_keys(cfg)


def test_unknown_nms_type_error_gives_place_and_suggestion():
    cfg = Config(dict(model=dict(test_cfg=dict(nms=dict(type='soft_nsm', iou_threshold=0.5)))))
    message = r"^model\.test_cfg\.nms\.type: mmcv has no function 'soft_nsm', did you mean 'soft_nms'\?$"
    with pytest.raises(ValueError, match=message):
        check_keys(cfg)


def test_misspelt_parameter_name_in_custom_keys_is_refused(data):
    message = f"{PARAMWISE}.custom_keys.A_lgo: no parameter has 'A_lgo' in its name, did you mean 'A_log'?"
    assert answer(data, f'{PARAMWISE}.custom_keys.A_lgo.decay_mult=0') == message
    # a name with a dot is checked too; a name that resembles no parameter is allowed, such as one of another network
    model = MODELS.build(dict(type='DefMamba', arch=dict(embed_dims=(8,), depths=(1,)), out_indices=0))
    for name, near in (
        ('stages.O', 'stages.0'),
        ('absolute_pos_embed', None),
        ('stages.3', None),
        ('stages.0.7', None),
    ):
        custom = dict(paramwise_cfg=dict(custom_keys={name: dict(lr_mult=0.1)}))
        runner = SimpleNamespace(model=model, cfg=Config(dict(optim_wrapper=custom)))
        with pytest.raises(ValueError, match=f'{name}: .*{near}') if near else contextlib.nullcontext():
            CustomKeysHook().before_train(runner)


# Mistakes in configs that mmdet, mmpretrain and mmseg ship.
OF_THE_LIBRARIES = ('custom_keys.theta.wd_mult', "'models'", 'paramwise_cfg._delete ')


def test_configs_of_the_libraries_are_accepted(request):
    """A random sample of more than 1,500 configs is checked. ``--examples`` sets its size."""
    roots = [Path(get_installed_path(library)) / '.mim/configs' for library in ('mmdet', 'mmpretrain', 'mmseg')]
    paths = [path for root in roots for path in sorted(root.rglob('*.py')) if '_base_' not in path.parts]
    assert len(paths) > 1500
    sample = random.Random(0).sample(paths, min(len(paths), request.config.getoption('--examples')))
    taken = 0
    for path in [*sample, *(path for path in paths if path.name == 'retinanet_r50_fpn_1x_voc0712.py')]:
        try:
            cfg = Config.fromfile(path, import_custom_modules=False)
        except (FileNotFoundError, KeyError):  # its base config is not installed, or the config has an error
            continue
        try:
            check_keys(cfg)
            taken += 1
        except ValueError as error:
            assert any(slip in str(error) for slip in OF_THE_LIBRARIES), f'{path}: {error}'
    assert taken > 0.9 * len(sample)


class OwnHook(Hook):
    def __init__(self, interval='epoch', seed='today'):
        self.interval = interval


HOOKS.register_module(module=OwnHook)


@pytest.mark.parametrize(
    'free',
    [
        dict(custom_hooks=[dict(type='OwnHook', interval='epoch', seed='today')]),
        dict(custom_hooks=[dict(type=OwnHook, interval='epoch')]),
        dict(default_hooks=dict(mine=dict(type='OwnHook', interval='epoch'))),
        dict(model=dict(type='MyModel', in_channels='auto', num_classes='auto', drop_path_rate='linear')),
        dict(my_settings=dict(interval='weekly', lr='fast', seed='none')),
        dict(train_dataloader=dict(dataset=dict(type='MyDataset', batch_size='auto'))),
        dict(default_scope='my_project'),
        dict(default_scope='mmpretrian'),
        dict(train_dataloader_2=dict(dataset=dict()), val_evaluator2=dict()),
        dict(test_dataloader_=dict(dataset=dict()), model_=dict()),
        dict(log_levels=['INFO'], work_dirs=['a', 'b']),
        dict(train_dataloader=dict(dataset=dict(metainfo=dict(classes=('a',), label_map={0: 1})))),
        dict(train_dataloader=dict(dataset=dict(metainfo=dict(seen_classes=1, class_names=1, superclasses=1)))),
        dict(my_map={0: 'a', 1: dict(b=2)}),
    ],
)
def test_settings_of_user_classes_are_not_checked(free):
    check_keys(Config(free))


@pytest.mark.parametrize(
    ('wrong', 'place'),
    [
        (dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval='epoch'))), 'interval'),
        (dict(default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook', interval='epoch'))), 'interval'),
        (dict(custom_hooks=[dict(type='mmengine.EMAHook', interval='x')]), 'custom_hooks.0.interval'),
        (dict(custom_hooks=[dict(type=LoggerHook, interval='x')]), 'custom_hooks.0.interval'),
        (dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr='fast'))), 'optim_wrapper.optimizer.lr'),
        (dict(model=dict(backbone=dict(type='DefMamba', in_channels='3'))), 'model.backbone.in_channels'),
        (dict(default_scope='mmdet', model=dict(type='RPNHead', num_classes='ten')), 'model.num_classes'),
        (dict(model=dict(type='mmseg.FCNHead', num_classes='ten')), 'model.num_classes'),
        (dict(train_cfg=dict(max_iters='many')), 'train_cfg.max_iters'),
        (dict(randomness=dict(seed='today')), 'randomness.seed'),
    ],
)
def test_text_where_a_library_class_needs_a_number_is_refused(wrong, place):
    with pytest.raises(ValueError, match=rf'{re.escape(place)} must be a number, got'):
        check_keys(Config(wrong))


def test_training_runs_with_a_hook_of_the_user(data):
    """The training is started by the tool, as a user starts it."""
    text = data.config.read_text()
    hook = dict(type='OwnHook', interval='epoch')
    data.config.write_text(f'{text}custom_hooks = [*_base_.custom_hooks, {hook!r}]\n')
    try:
        assert len(data.train()) == 2
    finally:
        data.config.write_text(text)


def test_default_scope_similar_to_a_library_gives_a_warning(told):
    check_keys(Config(dict(default_scope='mmpretrian')))
    check_keys(Config(dict(default_scope='my_project')))
    assert told == [('WARNING', "default_scope 'mmpretrian' is not an installed package, did you mean 'mmpretrain'?")]


def test_the_error_of_a_library_that_cannot_be_imported_is_told(tmp_path, monkeypatch):
    """MMEngine swallows it, so that none of the classes of the library is registered."""
    (tmp_path / 'halfinstalled.py').write_text('import no_such_module')
    monkeypatch.syspath_prepend(tmp_path)
    cfg = Config(dict(default_scope='halfinstalled', model=dict(type='TheirClassifier')))
    reason = r"halfinstalled cannot be imported \(ModuleNotFoundError: No module named 'no_such_module'\)"
    with pytest.raises(ValueError, match=f"'TheirClassifier' is not a registered model.*{reason}"), explain_errors(cfg):
        MODELS.build(cfg.model)


def test_assertion_without_message_becomes_an_error_with_class_and_arguments():
    extractor = dict(type='mmdet.SingleRoIExtractor', roi_layer=dict(type='RoIAlgin'), out_channels=4)
    words = r"SingleRoIExtractor cannot be built: assert hasattr\(ops, layer_type\)\. Given: .*'type': 'RoIAlgin'"
    with pytest.raises(ValueError, match=words), explain_errors(Config(extractor)):
        MODELS.build(dict(extractor, featmap_strides=[4]))


def test_unknown_mmcv_layer_error_gives_place():
    norm = dict(type='BM', requires_grad=True)
    cfg = Config(dict(norm_cfg=norm))
    with pytest.raises(ValueError, match=r"norm_cfg\.type: 'BM' is not a registered model"), explain_errors(cfg):
        build_norm_layer(norm, 4)


def test_data_loader_without_dataset_error_names_loader():
    with pytest.raises(ValueError, match=r"train_dataloader has no dataset, did you mean 'datset'\?"):
        check_keys(Config(dict(train_dataloader=dict(batch_size=2, datset={}))))


@pytest.mark.parametrize(
    ('option', 'hint'),
    [
        ('max_epochs=3', 'did you mean|variable of the config'),
        ('optimizer.lr=1', 'optimizer'),
        ('data_root=/elsewhere', 'variable of the config'),
        ('trian_dataloader.batch_size=4', "did you mean 'train_dataloader'"),
    ],
)
def test_an_option_without_effect_is_refused(data, option, hint):
    found = answer(data, option)
    assert re.match(rf'--cfg-options {option.partition("=")[0]}: no component reads the key \'\w+\'', found)
    assert re.search(hint, found)


@pytest.mark.parametrize('value', ['dict(type=EMAHook)', '{a:1}', '[1,2', 'a(b,c)'])
def test_an_option_that_cannot_be_parsed_is_refused(value, capsys):
    with pytest.raises(SystemExit, match='2'):
        cli.train_parser().parse_args(['c.py', '--cfg-options', f'model.init_cfg={value}'])
    assert value in capsys.readouterr().err.splitlines()[-1]


FILES = {
    'syntax': ('a = (\n', r'config \S+syntax\.py cannot be read: SyntaxError: .*never closed'),
    'name': ('a = 1\nb = nosuch\n', r'config \S+name\.py cannot be read, line 2: NameError: .*nosuch'),
    'base': (
        "_base_ = 'nosuch.py'\n",
        r'config \S+/nosuch\.py \(a base of \S+base\.py; paths in _base_ start from .*\) cannot be read',
    ),
    'package': ("_base_ = 'mmdet::_base_/nosuch.py'\n", r'config \S+package\.py cannot be read: .*nosuch\.py'),
    'scope': ("_base_ = 'mmdetx::_base_/default_runtime.py'\n", r'scope\.py cannot be read: .*mmdetx'),
    'itself': ("_base_ = 'itself.py'\n", r'config \S+itself\.py is its own base'),
    'basekey': (
        "_base_ = 'good.py'\nb = _base_.nosuch\n",
        r'basekey\.py cannot be read, line 2: AttributeError: .*nosuch',
    ),
    'basesyntax': (
        "_base_ = 'syntax.py'\n",
        r'config \S+syntax\.py \(a base of \S+basesyntax\.py\) cannot be read',
    ),
    'merge': ("_base_ = 'good.py'\nloaders = dict(a=1)\n", r'merge\.py cannot be read: TypeError: loaders=.*list'),
    'imports': (
        "custom_imports = dict(imports=['nosuch'], allow_failed_imports=False)",
        r'imports\.py cannot be .*nosuch',
    ),
    'bytes': (b'a = 1\xff', r'bytes\.py cannot be read: UnicodeDecodeError'),
    'null': ('a = 1\0', r'null\.py cannot be read: SyntaxError'),
    'cut.json': ('{"a": ', r'config \S+cut\.json cannot be read: JSONDecodeError'),
    'list.json': ('[1]', r'config \S+list\.json cannot be read'),
    'cut.yaml': ('a: [', r'config \S+cut\.yaml cannot be read: ParserError'),
    'text.txt': ('a = 1', r'config \S+text\.txt cannot be read: OSError: Only py/yml/yaml/json'),
}


@pytest.mark.parametrize('name', FILES)
def test_unreadable_config_error_gives_path_and_cause(name, tmp_path, request):
    # a config that inherits from itself is read until Python's stack is full, so the stack is made smaller
    request.addfinalizer(functools.partial(sys.setrecursionlimit, sys.getrecursionlimit()))
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    (tmp_path / 'good.py').write_text('a = 1\nloaders = [1]\n')
    (tmp_path / 'syntax.py').write_text('a = (\n')
    content, message = FILES[name]
    path = tmp_path / (name if '.' in name else f'{name}.py')
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    kind = FileNotFoundError if 'nosuch.py' in str(content) else ValueError
    with pytest.raises(kind, match=message):
        read_config(str(path))


def test_a_yaml_config_runs_no_code(tmp_path):
    path, mark = tmp_path / 'config.yaml', tmp_path / 'code_ran'
    path.write_text(f'model: !!python/object/apply:os.mkdir ["{mark}"]\n')
    with pytest.raises(ValueError, match=r'config\.yaml cannot be read: ConstructorError'):
        read_config(str(path))
    assert not mark.exists()


@pytest.mark.parametrize('key', ['_bases_', '__base', '_base__', 'base'])
def test_misspelt_base_error_suggests_base_or_reports_missing_model(data, key, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(data.config.read_text().replace('_base_', key).replace('model = ', 'network = '))
    with pytest.raises(ValueError, match=r"did you mean '_base_'|has no 'model': does it name its base"):
        cli.build_runner(cli.train_config(cli.train_parser().parse_args([str(path)])))


def test_registering_a_name_twice_is_an_error():
    with pytest.raises(KeyError, match=r'DefMamba is already registered in model at mmdefmamba\.models\.defmamba'):
        MODELS.register_module(name='DefMamba', module=type('Mine', (), {}))
    with pytest.raises(KeyError, match=r'hilbert is already registered in scan at mmdefmamba\.scans\.hilbert'):
        SCANS.register_module(name='hilbert', module=type('Mine', (), {}))
    with pytest.raises(KeyError, match='ClassCountHook is already registered in hook'):
        HOOKS.register_module(name='ClassCountHook', module=type('Mine', (), {}))
    assert MODELS.get('DefMamba') is DefMamba


def test_class_in_a_library_registry_takes_precedence_over_ours():
    """MMEngine looks in mmdet's registry first, so it uses a copy of the backbone there. We cannot refuse this."""
    from mmdet.registry import MODELS as MMDET_MODELS

    mine = type('DefMamba', (), {})
    MMDET_MODELS.register_module(name='DefMamba', module=mine)
    try:
        assert MMDET_MODELS.get('DefMamba') is mine
        assert MMDET_MODELS.get('mmengine.DefMamba') is DefMamba
    finally:
        del MMDET_MODELS.module_dict['DefMamba']


def test_unrelated_errors_are_not_changed(data):
    cfg = read_config(str(data.config))
    for error in (TypeError("f() got an unexpected keyword argument 'x'"), KeyError('x'), RuntimeError('loss')):
        with pytest.raises(type(error)) as raised, explain_errors(cfg):
            raise error
        assert raised.value is error
