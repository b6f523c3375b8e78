"""Building models by name, and loading or refusing checkpoints."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config

import mmdefmamba
from mmdefmamba.apis import zoo

ROOT = Path(__file__).parents[2]
PICO = 'defmamba_pico_digits'


def test_names_are_those_of_the_config_files():
    found = {task: mmdefmamba.list_models(task=task) for task in zoo.TASKS.values()}
    for task, names in found.items():
        assert names == sorted(path.stem for path in (ROOT / 'configs' / task).glob('*.py'))
    assert mmdefmamba.list_models() == sorted(name for names in found.values() for name in names)
    assert mmdefmamba.list_models('defmamba_?_in1k') == ['defmamba_b_in1k', 'defmamba_s_in1k', 'defmamba_t_in1k']
    with pytest.raises(ValueError, match=r"task must be one of .*'detection'.*, got 'detektion'"):
        mmdefmamba.list_models(task='detektion')


def test_unknown_name_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown model 'defmamba_s_in1kk', did you mean 'defmamba_s_in1k'\?"):
        mmdefmamba.get_model('defmamba_s_in1kk')
    with pytest.raises(ValueError, match=r"unknown model 'resnet'\. mmdefmamba\.list_models\(\) lists all names"):
        mmdefmamba.get_model('resnet')
    with pytest.raises(FileNotFoundError, match=r'config nowhere/x\.py does not exist, seen from /'):
        mmdefmamba.get_model('nowhere/x.py')


@pytest.mark.parametrize(
    ('name', 'path'),
    [
        (PICO, f'configs/classification/{PICO}.py'),
        (f'mmdefmamba::classification/{PICO}.py', f'configs/classification/{PICO}.py'),
        ('mmdefmamba::_base_/guards.py', 'configs/_base_/guards.py'),
        (str(ROOT / 'configs/_base_/guards.py'), 'configs/_base_/guards.py'),
    ],
)
def test_configs_are_found_by_name_in_the_package_and_by_path(name, path):
    assert zoo.find_config(name).samefile(ROOT / path)
    assert zoo.load_config(name).to_dict() == Config.fromfile(ROOT / path).to_dict()


def test_configs_of_other_packages_are_found():
    path = zoo.find_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    assert path.is_file() and path.parts[-4:] == ('.mim', 'configs', 'mask_rcnn', 'mask-rcnn_r50_fpn_1x_coco.py')


@pytest.mark.parametrize(
    ('name', 'kind', 'message'),
    [
        (
            'mmdefmamba::detection/mask_rcnn_defmamba_s.py',
            FileNotFoundError,
            r"did you mean 'detection/mask_rcnn_defma",
        ),
        ('mmdefmamba::nothing_like_it.py', FileNotFoundError, r'does not exist\. The configs are in .*configs$'),
        (
            'mmdet::nothing/like_it.py',
            FileNotFoundError,
            r'config mmdet::nothing/like_it\.py cannot be found: .*like_it',
        ),
        ('nothing::like/it.py', ValueError, r'config nothing::like/it\.py cannot be found: .*nothing'),
        ('configs/no_such_folder/x.py', FileNotFoundError, r'does not exist, seen from /[^.]*$'),
    ],
)
def test_config_that_does_not_exist_is_refused_with_a_remedy(name, kind, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message):
        zoo.find_config(name)


def test_path_of_the_documentation_outside_of_a_clone_is_refused_with_the_name_that_works(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf'mmdefmamba::classification/{PICO}\.py is the config of this name'):
        zoo.find_config(f'configs/classification/{PICO}.py')


def test_base_of_the_package_gives_the_config_of_its_path(tmp_path):
    """For each task, a base that is no model, and a list; also where the user's default scope is another."""
    for base in ('detection/mask_rcnn_defmamba_s_1x.py', f'classification/{PICO}.py', '_base_/segmentation/runtime.py'):
        for own in ('', "default_scope = 'mmseg'\n", "optim_wrapper = dict(type='OptimWrapper')\n"):
            configs = []
            for index, name in enumerate((f'mmdefmamba::{base}', str(ROOT / 'configs' / base))):
                file = tmp_path / f'mine_{index}.py'
                file.write_text(f'_base_ = [{name!r}]\n{own}')
                configs.append(Config.fromfile(file).to_dict())
            assert configs[0] == configs[1] and len(configs[0]) > 2
    assert get_config(f'mmdefmamba::classification/{PICO}.py').model.backbone.type == 'DefMamba'


def test_base_that_does_not_exist_is_named(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text("_base_ = 'mmdefmamba::detection/nothing_like_it.py'\n")
    with pytest.raises(FileNotFoundError, match=r'mine\.py cannot be read.*detection/nothing_like_it\.py'):
        zoo.load_config(file)


def test_mmpretrain_knows_the_classifiers_and_only_them():
    import mmpretrain

    assert set(mmdefmamba.list_models(task='classification')) <= set(mmpretrain.list_models())
    assert not set(mmdefmamba.list_models(task='detection')) & set(mmpretrain.list_models())
    model = mmpretrain.get_model('defmamba_t_in1k')
    assert sum(parameter.numel() for parameter in model.parameters()) == 8126470
    with pytest.warns(UserWarning, match='Unable to find pre-defined checkpoint'):
        mmpretrain.get_model('defmamba_t_in1k', pretrained=True)


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_checkpoint_fills_the_model(task, pico_checkpoints):
    model = mmdefmamba.get_model(*pico_checkpoints[task])
    saved = torch.load(pico_checkpoints[task][1])['state_dict']
    own = model.state_dict()
    assert own.keys() == saved.keys()
    assert all(torch.equal(own[key], saved[key]) for key in own)
    assert not model.training
    digits = tuple('0123456789')
    assert tuple(model.dataset_meta['classes']) == (('background', *digits) if task == 'segmentation' else digits)


def test_weights_without_a_checkpoint_are_random_with_a_warning(told):
    first, second = (mmdefmamba.get_model(PICO) for _ in range(2))
    assert not torch.equal(first.head.fc.weight, second.head.fc.weight)
    assert ('WARNING', f'{PICO}: there is no checkpoint, the weights are random') in told


def test_checkpoint_that_does_not_fit_is_refused_with_the_differences(pico_checkpoints, tmp_path, told):
    with pytest.raises(ValueError, match=rf'other\.pth does not fit: it fills 0 of \d+ .* of {PICO}; '):
        torch.save(dict(state_dict={'x.weight': torch.ones(1)}), tmp_path / 'other.pth')
        mmdefmamba.get_model(PICO, tmp_path / 'other.pth')
    state = torch.load(pico_checkpoints['classification'][1])['state_dict']
    total = len(state)
    state['head.fc.weight'] = torch.ones(7, 128)
    state['more'] = torch.ones(1)
    del state['head.fc.bias']
    torch.save(dict(state_dict={f'module.{key}': value for key, value in state.items()}), tmp_path / 'part.pth')
    with pytest.raises(ValueError) as refused:
        mmdefmamba.get_model(PICO, tmp_path / 'part.pth')
    differences = (
        '1 missing in the checkpoint: head.fc.bias; 1 with another shape there: head.fc.weight (7, 128) instead of '
        '(10, 128); 1 in the checkpoint but not in the model: more'
    )
    for part in (f'fills {total - 2} of {total} parameters', f'{differences}.', 'strict=False'):
        assert part in str(refused.value)
    model = mmdefmamba.get_model(PICO, tmp_path / 'part.pth', strict=False)
    assert torch.equal(model.backbone.stem[0].conv.weight, state['backbone.stem.0.conv.weight'])
    assert model.head.fc.weight.shape == (10, 128)
    [report] = [text for level, text in told if level == 'WARNING' and f'{total - 2} of {total}' in text]
    assert report.endswith(differences)


def test_unreadable_config_is_refused_with_its_path(tmp_path):
    (tmp_path / 'slip.py').write_text('model = dict(\n')
    with pytest.raises(ValueError, match=r'slip\.py cannot be read'):
        mmdefmamba.get_model(tmp_path / 'slip.py')


def test_file_that_is_not_a_checkpoint_is_refused(tmp_path):
    (tmp_path / 'text.pth').write_text('hello')
    with pytest.raises(RuntimeError, match='cannot be read as a checkpoint'):
        mmdefmamba.get_model(PICO, tmp_path / 'text.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match=r'list\.pth must hold weights by name, but holds a list'):
        mmdefmamba.get_model(PICO, tmp_path / 'list.pth')
    with pytest.raises(FileNotFoundError, match=r'gone\.pth'):
        mmdefmamba.get_model(PICO, tmp_path / 'gone.pth')


def test_config_without_a_known_scope_is_refused():
    with pytest.raises(ValueError, match=r"default_scope must be one of \['mmpretrain', 'mmdet', 'mmseg'\], got None"):
        mmdefmamba.get_model(Config(dict(model=dict(type='DefMamba'))))


def test_misspelt_argument_is_reported_with_a_suggestion():
    cfg = zoo.load_config(PICO)
    cfg.model.backbone.drop_path_rat = 0.1
    with pytest.raises(TypeError, match="Did you mean 'drop_path_rate'"):
        mmdefmamba.get_model(cfg)


def test_classes_come_from_the_checkpoint_then_from_the_config(pico_checkpoints, tmp_path):
    checkpoint = torch.load(pico_checkpoints['segmentation'][1])
    names = tuple(f'class {i}' for i in range(11))
    checkpoint['meta']['dataset_meta'] = dict(CLASSES=names)
    torch.save(checkpoint, tmp_path / 'named.pth')
    name = 'upernet_defmamba_pico_digits'
    meta = mmdefmamba.get_model(name, tmp_path / 'named.pth').dataset_meta
    assert meta['classes'] == names and len(meta['palette']) == 11
    checkpoint['meta']['dataset_meta'] = dict(classes=('road', 'sky'))
    torch.save(checkpoint, tmp_path / 'two.pth')
    with pytest.raises(ValueError, match=r'two\.pth is refused: its meta\.dataset_meta names 2 classes, but .* 11'):
        mmdefmamba.get_model(name, tmp_path / 'two.pth')
    del checkpoint['meta']
    torch.save(checkpoint, tmp_path / 'plain.pth')
    assert mmdefmamba.get_model(name, tmp_path / 'plain.pth').dataset_meta['classes'][:2] == ('background', '0')


def test_inference_functions_of_the_libraries_accept_the_model(pico_checkpoints):
    import numpy as np
    from mmdet.apis import inference_detector
    from mmpretrain.apis import ImageClassificationInferencer
    from mmseg.apis import inference_model

    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    classifier = mmdefmamba.get_model(*pico_checkpoints['classification'])
    [found] = ImageClassificationInferencer(classifier)(image)
    assert found['pred_class'] == str(found['pred_label'])
    detector = mmdefmamba.get_model(*pico_checkpoints['detection'])
    assert inference_detector(detector, image).pred_instances.masks.shape[1:] == (90, 70)
    segmentor = mmdefmamba.get_model(*pico_checkpoints['segmentation'])
    assert inference_model(segmentor, image).pred_sem_seg.data.shape == (1, 90, 70)
