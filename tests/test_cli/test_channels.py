"""Images of 1, 4 and 12 channels in every tool, for all three tasks, and configs in pure Python style."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import TRANSFORMS

import mmdefmamba
from mmdefmamba.analysis import config_complexity
from mmdefmamba.analysis.trace import image_channels
from mmdefmamba.app.explorer import Explorer
from mmdefmamba.app.trained_models import TrainedModel
from mmdefmamba.app.uploads import UploadError
from mmdefmamba.visualization.inputs import ImageReader, load_images, network_inputs
from mmdefmamba.visualization.pictures import to_picture

CONFIGS = Path(__file__).parents[2] / 'configs'
SIZE = (40, 48)
CASES = [(task, channels) for task in ('classification', 'detection', 'segmentation') for channels in (1, 4, 12)]
LOADERS = {
    1: dict(type='LoadImageFromFile', color_type='grayscale'),
    4: dict(type='LoadImageFromFile', color_type='unchanged', imdecode_backend='cv2'),
    12: dict(type='LoadArray'),
}


@pytest.fixture(scope='module', autouse=True)
def load_array():
    """Register a loader of a user's own, which reads arrays of any number of channels."""

    @TRANSFORMS.register_module()
    class LoadArray(BaseTransform):
        def transform(self, results):
            image = np.load(results['img_path'])
            results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
            return results

    yield
    TRANSFORMS.module_dict.pop('LoadArray')


def draw(channels, index):
    """Return an image, (height, width[, channels]): uint8, or float32 with values around 0 for 12 channels."""
    numbers = np.random.default_rng(index)
    image = numbers.integers(0, 256, (*SIZE, channels), np.uint8)
    if channels == 1:
        return image[..., 0]
    return numbers.normal(0, 3, image.shape).astype(np.float32) if channels == 12 else image


def write_data(folder, channels, count=3):
    """Write images, a list of their classes, a COCO file and label maps"""
    suffix = '.npy' if channels == 12 else '.png'
    (folder / 'maps').mkdir()
    (folder / 'images').mkdir()
    names = [f'{index}{suffix}' for index in range(count)]
    for index, name in enumerate(names):
        path = str(folder / 'images' / name)
        np.save(path, draw(channels, index)) if channels == 12 else cv2.imwrite(path, draw(channels, index))
        label = np.zeros(SIZE, np.uint8)
        label[10:30, 10:30] = 1
        cv2.imwrite(str(folder / f'maps/{index}.png'), label)
    (folder / 'list.txt').write_text(''.join(f'{name} {index % 2}\n' for index, name in enumerate(names)))
    outline = [10, 10, 30, 10, 30, 30, 10, 30]
    one = dict(category_id=1, bbox=[10, 10, 20, 20], area=400, iscrowd=0, segmentation=[outline])
    coco = dict(
        images=[dict(id=i, file_name=name, height=SIZE[0], width=SIZE[1]) for i, name in enumerate(names)],
        annotations=[dict(one, id=i + 1, image_id=i) for i in range(count)],
        categories=[dict(id=1, name='a'), dict(id=2, name='b')],
    )
    (folder / 'coco.json').write_text(json.dumps(coco))
    return suffix


def config(task, channels, folder):
    """Return a small Config for data of :func:`write_data`, which is written here."""
    suffix = write_data(folder, channels)
    name = {
        'classification': 'defmamba_pico_digits',
        'detection': 'mask_rcnn_defmamba_pico_digits',
        'segmentation': 'upernet_defmamba_pico_digits',
    }[task]
    cfg = Config.fromfile(CONFIGS / task / f'{name}.py')
    # the blocks and channels of the pico networks; the stem alone depends on the images
    cfg.model.backbone.in_channels = channels
    images, classes = str(folder / 'images'), ('a', 'b')
    loader, dataset = LOADERS[channels], cfg.test_dataloader.dataset
    if task == 'classification':
        cfg.data_preprocessor.update(
            type='ClsDataPreprocessor', num_classes=2, mean=[127.5] * channels, std=[127.5] * channels
        )
        cfg.model.head.num_classes = 2
        dataset = dict(
            type='CustomDataset', ann_file=str(folder / 'list.txt'), data_prefix=images, metainfo=dict(classes=classes)
        )
        pipeline = [loader, dict(type='PackInputs')]
        dataset['pipeline'] = pipeline
        cfg.test_dataloader.dataset = dataset
    elif task == 'detection':
        # mmdet takes 1 or 3 means, and turns the order of colours without looking how many there are
        cfg.model.data_preprocessor.update(mean=[127.5], std=[127.5], bgr_to_rgb=False)
        for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
            head.num_classes = 2
        dataset.update(data_root='', ann_file=str(folder / 'coco.json'), data_prefix=dict(img=images))
        dataset.update(metainfo=dict(classes=classes), pipeline=[loader, *dataset.pipeline[1:]])
        cfg.test_evaluator.ann_file = str(folder / 'coco.json')
    else:
        cfg.model.data_preprocessor.update(mean=[127.5] * channels, std=[127.5] * channels, size=SIZE, bgr_to_rgb=False)
        cfg.model.decode_head.num_classes = cfg.model.auxiliary_head.num_classes = 2
        dataset.update(data_root='', data_prefix=dict(img_path=images, seg_map_path=str(folder / 'maps')))
        dataset.update(metainfo=dict(classes=classes, palette=[[0, 0, 0], [255, 0, 0]]), img_suffix=suffix)
        dataset.pipeline = [loader, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    return cfg


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """``trained(task, channels)`` returns the path of a config, of a checkpoint with random weights and of an image."""
    made = {}

    def make(task, channels):
        if (task, channels) not in made:
            folder = tmp_path_factory.mktemp(f'{task}_{channels}')
            cfg = config(task, channels, folder)
            cfg.dump(folder / 'config.py')
            torch.manual_seed(0)
            model = mmdefmamba.get_model(cfg)
            torch.save(
                dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(model.dataset_meta))), folder / 'x.pth'
            )
            made[task, channels] = folder / 'config.py', folder / 'x.pth', sorted((folder / 'images').iterdir())[0]
        return made[task, channels]

    return make


@pytest.mark.parametrize(('task', 'channels'), CASES[::4])  # each task and each number once
def test_report_of_a_test(task, channels, trained, run_test_tool, tmp_path):
    config, checkpoint, _ = trained(task, channels)
    run_test_tool(config, checkpoint, '--work-dir', tmp_path / 'work', '--report', tmp_path)
    text = (tmp_path / 'test.html').read_text()
    assert 'Left out of this page' not in text and 'cannot be drawn' not in text
    # an untrained classifier: the shown images and their scan order; the others have no objects, or one map of a class
    assert text.count('scan order, over the image') >= 2 and text.count('<img') >= 4


@pytest.mark.parametrize(('task', 'channels'), CASES)
def test_inference(task, channels, trained, tools, tmp_path):
    config, checkpoint, image = trained(task, channels)
    tools['infer']([str(image), '--config', str(config), '--checkpoint', str(checkpoint), '--out-dir', str(tmp_path)])
    found = json.loads((tmp_path / 'predictions.json').read_text())
    assert found['skipped'] == []
    (entry,) = found['images']
    assert entry['size'] == list(SIZE) and (tmp_path / entry['picture']).is_file()
    # the prediction is that of the model on the image as the test reads it
    model = mmdefmamba.get_model(config, checkpoint)
    data = model.data_preprocessor(load_images(model.cfg, [image]), False)
    with torch.no_grad():
        (expected,) = model(**data, mode='predict')
    if task == 'classification':
        assert entry['scores'] == pytest.approx(expected.pred_score.tolist(), rel=1e-4)
    elif task == 'segmentation':
        (counted,) = [(expected.pred_sem_seg.data == label).float().mean().item() for label in [0]]
        assert entry['shares'].get('a', 0) == pytest.approx(counted, abs=1e-6)
    else:
        scores = sorted(expected.pred_instances.scores[expected.pred_instances.scores >= 0.3].tolist(), reverse=True)
        assert [item['score'] for item in entry['objects']] == pytest.approx(scores, rel=1e-4)


@pytest.mark.parametrize(('task', 'channels'), CASES[::4])
def test_figures_and_flops(task, channels, trained, tools, tmp_path, capsys):
    config, checkpoint, image = map(str, trained(task, channels))
    common = [config, checkpoint, image, '--stage', '1']
    tools['visualization/scan_figures']([*common, '--out-dir', str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['0_activation.png', '0_points.png', '0_scan_order.png']
    tools['visualization/limitation_cases']([*common, '--out', str(tmp_path / 'cases.png')])
    assert (tmp_path / 'cases.png').is_file()
    counts, shape = config_complexity(Config.fromfile(config), (64, 96))
    assert shape == (channels, 64, 96)
    colours, _ = config_complexity(Config.fromfile(CONFIGS / 'classification/defmamba_pico_digits.py'), (64, 96))
    if task == 'classification':  # the first convolution has 3 x 3 weights and 8 outputs, on half of the image size
        assert counts['flops'] - colours['flops'] == (channels - 3) * 9 * 8 * 32 * 48 - 8 * 128
        assert counts['params'] - colours['params'] == (channels - 3) * 9 * 8 - 8 * 129


@pytest.mark.parametrize('channels', [1, 4, 12])
def test_pictures_of_network_inputs_are_the_images(channels, trained):
    model = mmdefmamba.get_model(*trained('classification', channels)[:2])
    image = draw(channels, 0)
    _, (picture,) = network_inputs(model, load_images(model.cfg, [image]))
    expected = to_picture(image)
    # float32 rounds what is normalised and back; a stretched range can move it by one step
    assert np.abs(picture.astype(int) - expected).max() <= (1 if channels == 12 else 0)


def test_pages_take_pictures_for_one_channel_and_refuse_them_for_four(trained):
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    models = [TrainedModel(str(n), *map(str, trained('classification', n)[:2])) for n in (1, 4)]
    explorer = Explorer(models, 'cpu')
    seen = explorer.look('1', picture).seen
    assert np.array_equal(seen, to_picture(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)))
    with pytest.raises(UploadError, match='takes images of 4 channels, a picture has 3 colours'):
        explorer.look('4', picture)


def test_images_are_read_by_the_loader_of_the_config(trained):
    for channels in (1, 4, 12):
        config, _, path = trained('classification', channels)
        assert np.array_equal(ImageReader(Config.fromfile(config))(path), draw(channels, 0))
    with pytest.raises(FileNotFoundError, match=r'gone\.npy'):
        ImageReader(Config.fromfile(config))(path.with_name('gone.npy'))


def test_pictures_of_any_image():
    grey, four = np.array([[0, 100, 255]], np.uint8), np.arange(8, dtype=np.uint8).reshape(1, 2, 4)
    assert to_picture(grey).tolist() == [[[0] * 3, [100] * 3, [255] * 3]]
    assert to_picture(grey[..., None]).shape == (1, 3, 3)
    assert to_picture(four[..., :3]).tolist() == [[[2, 1, 0], [6, 5, 4]]]
    assert to_picture(four).tolist() == [[[2, 1, 0], [6, 5, 4]]]
    assert to_picture(four, rgb=True).tolist() == [[[0, 1, 2], [4, 5, 6]]]
    assert to_picture(np.array([[[2, 4], [10, 30]]], np.uint8)).tolist() == [[[3] * 3, [20] * 3]]
    # 0 to 255 in another dtype stays, any other range is stretched
    assert to_picture(np.array([[1.4, 254.6]])).tolist() == [[[1] * 3, [255] * 3]]
    assert to_picture(np.array([[-1.0, 0.0, 1.0, np.nan]]))[0, :, 0].tolist() == [0, 128, 255, 0]
    assert to_picture(np.array([[0, 1000, 4000]], np.uint16))[0, :, 0].tolist() == [0, 64, 255]
    assert to_picture(np.full((1, 1), 300))[0, 0, 0] == 0
    with pytest.raises(ValueError, match=re.escape('an image must be (height, width) or (height, width, channels)')):
        to_picture(np.zeros((1, 2, 3, 4)))


def test_channels_of_a_model():
    assert image_channels(mmdefmamba.get_model('defmamba_pico_digits')) == 3
    assert image_channels(torch.nn.Sequential(torch.nn.Conv2d(7, 2, 1), torch.nn.Conv2d(2, 5, 1))) == 7
    assert image_channels(torch.nn.Linear(5, 2)) == 3


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_every_tool_takes_a_config_in_pure_python_style(task, trained, pure_python, tools, run_test_tool, tmp_path):
    config, checkpoint, image = trained(task, 1)
    config = pure_python(Config.fromfile(config))
    assert Config.fromfile(config).get('default_scope') is None
    options = ['--show-dir', tmp_path / 'shown', '--out', tmp_path / 'out.pkl']
    run_test_tool(config, checkpoint, '--work-dir', tmp_path / 'work', '--report', tmp_path, *options)
    text = (tmp_path / 'test.html').read_text()
    assert 'Left out of this page' not in text and 'cannot be drawn' not in text
    common = [str(image), '--config', str(config), '--checkpoint', str(checkpoint), '--out-dir', str(tmp_path / 'o')]
    tools['infer'](common)
    assert json.loads((tmp_path / 'o/predictions.json').read_text())['skipped'] == []
    tools['visualization/scan_figures']([str(config), str(checkpoint), str(image), '--out-dir', str(tmp_path / 'f')])
    assert len(list((tmp_path / 'f').iterdir())) == 3
    counts, _ = config_complexity(Config.fromfile(config), (64,))
    assert counts == config_complexity(Config.fromfile(trained(task, 1)[0]), (64,))[0]
